"""How a volume is found (3/9, UDF 2.2.3): its recognition sequence, an anchor, and what they say of its identity.

The UUID is made of the volume set identifier, as blkid makes it: 16 characters of it where those are hexadecimal
digits, or 8 and the codes of the next 4, or the codes of the first 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.udf import layout as L

_RECOGNITION_OFFSET, _MAX_DESCRIPTORS = 32 << 10, 64
_SECTOR_SIZES = (2048, 4096, 512, 1024)
_NSR = (b"NSR02", b"NSR03")
_IDENTIFIERS = (b"BEA01", b"BOOT2", b"CD001", b"CDW02", *_NSR)
_ANCHOR_BLOCK = 256
_SET_IDENTIFIER, _LOGICAL_IDENTIFIER = slice(72, 200), slice(84, 212)
_DOMAIN, _REVISION = slice(217, 240), slice(240, 242)
_OSTA = b"*OSTA UDF Compliant"


class Anchor(NamedTuple):
    """An anchor volume descriptor pointer: the size of blocks with which it is one, and its (length, start)s."""

    block_size: int
    main: tuple[int, int]
    reserve: tuple[int, int]


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a volume, or None where `device` holds none."""
    anchor = next(find_anchors(device), None) if _is_recognised(device) else None
    return None if anchor is None else _identity(device, anchor)


def _is_recognised(device: BlockDevice) -> bool:
    """Descriptors of 2048 bytes, or one in each sector that is larger."""
    for step in (2048, 4096):
        for number in range(_MAX_DESCRIPTORS):
            identifier = _read_at(device, _RECOGNITION_OFFSET + number * step + 1, 5)
            if identifier in _NSR:
                return True
            if identifier not in _IDENTIFIERS:
                break
    return False


def find_anchors(device: BlockDevice) -> Iterator[Anchor]:
    """Those whose tags are sound and say that they belong there."""
    for block_size in _SECTOR_SIZES:
        last = device.size // block_size - 1
        for block in (_ANCHOR_BLOCK, last, last - _ANCHOR_BLOCK):
            data = read_descriptor(device, block, block_size)
            if data is not None and L.TAG.unpack_from(data)[0] == L.ANCHOR:
                length, start, reserve_length, reserve_start = L.ANCHOR_EXTENTS.unpack_from(data)
                yield Anchor(block_size, (length, start), (reserve_length, reserve_start))


def read_descriptor(device: BlockDevice, block: int, block_size: int) -> bytes | None:
    """The descriptor in a block, where its tag is sound and says that it belongs there."""
    data = _read_at(device, block * block_size, L.DESCRIPTOR_BYTES)
    if len(data) < L.DESCRIPTOR_BYTES or not any(data[: L.TAG_BYTES]):
        return None
    _, _, checksum, _, _, _, location = L.TAG.unpack_from(data)
    return data if location == block and checksum == sum(data[:4] + data[5:16]) & 0xFF else None


def _identity(device: BlockDevice, anchor: Anchor) -> Identity:
    length, start = anchor.main
    label = version = identifier = None
    for block in range(start, start + min(length // anchor.block_size, _MAX_DESCRIPTORS)):
        data = read_descriptor(device, block, anchor.block_size)
        kind = L.TAG.unpack_from(data)[0] if data is not None else None
        if data is None or kind == L.TERMINATING:
            break
        if kind == L.PRIMARY_VOLUME:
            identifier = _uuid(_dstring(data[_SET_IDENTIFIER]).encode())
        elif kind == L.LOGICAL_VOLUME:
            label = _dstring(data[_LOGICAL_IDENTIFIER]).partition("\0")[0].rstrip() or None
            if data[_DOMAIN].startswith(_OSTA):
                revision = int.from_bytes(data[_REVISION], "little")
                version = f"{revision >> 8:x}.{revision & 0xFF:02x}"
    return Identity("udf", version=version, label=label, uuid=identifier)


def _read_at(device: BlockDevice, offset: int, length: int) -> bytes:
    """Up to `length` bytes; fewer where the device ends."""
    if not 0 <= offset < device.size:
        return b""
    return bytes(device.read(offset, min(length, device.size - offset)))


def _dstring(data: bytes) -> str:
    """An OSTA compressed string; the last byte is its length."""
    body = data[1 : data[-1]]
    return body.decode("utf-16-be" if data[0] in (16, 255) else "latin-1", "replace")


def _uuid(identifier: bytes) -> str | None:
    if not identifier:
        return None
    padded = identifier.ljust(16, b"\0")
    if re.fullmatch(rb"[0-9A-Fa-f]{16}", padded[:16]):
        return padded[:16].decode().lower()
    if re.fullmatch(rb"[0-9A-Fa-f]{8}", padded[:8]):
        return padded[:8].decode().lower() + padded[8:12].hex()
    return padded[:8].hex()
