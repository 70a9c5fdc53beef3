"""The volume header, where it lies, and what tells whether the volume is to be trusted."""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.block.device import SliceDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.hfsplus import layout as L

_STRUCTURE = "volume header"
_MAX_BLOCK_BYTES = 1 << 20


class Header(NamedTuple):
    """The volume header of ``device``, which is the volume itself, without an HFS wrapper around it."""

    device: BlockDevice
    data: bytes
    attributes: int
    journal_block: int
    block_size: int
    blocks: int
    free_blocks: int
    uuid: str | None
    is_alternate: bool

    def fork(self, offset: int) -> bytes:
        return self.data[offset : offset + L.FORK_BYTES]


def find_volume(device: BlockDevice) -> BlockDevice | None:
    """`device`, or the volume that an HFS wrapper in it holds; None where it is no HFS Plus."""
    if device.size < L.HEADER_OFFSET + L.HEADER_BYTES:
        return None
    data = bytes(device.read(L.HEADER_OFFSET, L.HEADER_BYTES))
    if data[:2] != L.WRAPPER_SIGNATURE:
        return device if data[:2] in L.SIGNATURES else None
    _, block_size, first, embedded, start, count = L.WRAPPER.unpack_from(data)
    if embedded not in L.SIGNATURES:
        return None
    return SliceDevice(device, first * 512 + start * block_size, count * block_size)


def read_header(device: BlockDevice) -> Header:
    """Raises `InvalidFormat` where neither the header nor the alternate one is sound."""
    first: InvalidFormat | None = None
    for offset in (L.HEADER_OFFSET, device.size - L.HEADER_OFFSET):
        try:
            return _parse(device, offset)
        except InvalidFormat as error:
            first = first or error
    raise first or InvalidFormat("none", structure=_STRUCTURE, offset=L.HEADER_OFFSET)


def _parse(device: BlockDevice, offset: int) -> Header:
    if offset < 0 or offset + L.HEADER_BYTES > device.size:
        raise InvalidFormat("outside the device", structure=_STRUCTURE, offset=offset)
    data = bytes(device.read(offset, L.HEADER_BYTES))
    signature, version, attributes, journal, block_size, blocks, free, finder = L.HEADER.unpack_from(data)
    if version not in L.SIGNATURES.get(signature, ()):
        raise InvalidFormat(f"signature {signature!r}, version {version}", structure=_STRUCTURE, offset=offset)
    if not 512 <= block_size <= _MAX_BLOCK_BYTES or block_size & (block_size - 1):
        raise InvalidFormat(f"blocks of {block_size} bytes", structure=_STRUCTURE, offset=offset)
    if not blocks:
        raise InvalidFormat("no blocks", structure=_STRUCTURE, offset=offset)
    identifier = _uuid(finder[L.IDENTIFIER])
    is_alternate = offset != L.HEADER_OFFSET
    return Header(device, data, attributes, journal, block_size, blocks, free, identifier, is_alternate)


def _uuid(identifier: bytes) -> str | None:
    """As Apple makes it, and blkid: version 3, of the identifier's bytes."""
    if not any(identifier):
        return None
    digest = hashlib.md5(L.NAMESPACE.bytes + identifier, usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest, version=3))
