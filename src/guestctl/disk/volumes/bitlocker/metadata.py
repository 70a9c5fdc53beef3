"""The metadata of BitLocker: the volume's first sector, FVE metadata blocks, and the entries in them.

Microsoft does not document them; names are those in general use. Numbers are little-endian. There
are three copies of the block; of those whose checksum is right the first counts.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from guestctl.block import BlockDevice
from guestctl.block.device import Buffer
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature

SIGNATURE = b"-FVE-FS-"
_SECTOR_BYTES = 512
_BYTES_PER_SECTOR = struct.Struct("<H")  # at offset 11
_VISTA_JUMP = b"\xeb\x52\x90"
_IDENTIFIER = struct.Struct("<16s3Q")  # GUID, offsets of the three metadata blocks
_IDENTIFIER_OFFSET = 160
_TO_GO_IDENTIFIER_OFFSET = 424  # in a sector that is one of FAT as well
_GUID_NORMAL = UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
_GUID_ENCRYPT_ON_WRITE = UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le

# signature, size in units of 16 bytes, version, current state, next state, encrypted volume size,
# size under conversion, sectors of the volume header, offsets of the three blocks, offset of the volume header
_BLOCK_HEADER = struct.Struct("<8sHHHHQII3QQ")
# metadata size, version, header size, copy of the size, volume GUID, next nonce, method, copy of it, created
_METADATA_HEADER = struct.Struct("<4I16sIHHQ")
_VALIDATION = struct.Struct("<HHI")  # size, version, CRC-32 of the block before it
_ENTRY = struct.Struct("<4H")  # size, entry type, value type, version
_OFFSET_AND_SIZE = struct.Struct("<QQ")
BLOCK_BYTES = 64 << 10

_EVERYTHING = 1 << 64
_STATE_ENCRYPTED = 4
_STATES_CONVERTING = (2, 5)  # encrypting, and that paused
ENTRY_VMK = 2
ENTRY_FVEK = 3
_ENTRY_DESCRIPTION = 7
_ENTRY_VOLUME_HEADER = 15
VALUE_KEY = 1
VALUE_TEXT = 2
VALUE_STRETCH_KEY = 3
VALUE_ENCRYPTED_KEY = 5
VALUE_VMK = 8
VALUE_EXTERNAL_KEY = 9


class Entry(NamedTuple):
    """A metadata entry; ``data`` is what follows its header."""

    type: int
    value_type: int
    data: bytes


class Metadata(NamedTuple):
    """What is needed to decrypt; sizes and offsets in bytes."""

    guid: str
    method: int
    sector_bytes: int
    encrypted_bytes: int  # from the beginning; what follows is plain
    blocks: Sequence[int]
    header_offset: int  # where the first sectors of the volume are kept
    header_bytes: int
    entries: Sequence[Entry]
    damage: GuestctlError | None = None

    @property
    def description(self) -> str | None:
        """Computer, drive and date, as Windows shows them."""
        for entry in self.entries:
            if entry.type == _ENTRY_DESCRIPTION and entry.value_type == VALUE_TEXT:
                return entry.data.decode("utf-16-le", "replace").rstrip("\0") or None
        return None


def is_vista(device: BlockDevice) -> bool:
    return device.size >= _SECTOR_BYTES and bytes(device.read(0, 11)) == _VISTA_JUMP + SIGNATURE


def read_metadata(device: BlockDevice, *, verify: bool = True) -> Metadata | None:
    """The metadata of the BitLocker volume on `device`, or None where there is none.

    Raises `UnsupportedFeature`, and `InvalidFormat` where no block is sound.
    """
    if device.size < _SECTOR_BYTES:
        return None
    sector = bytes(device.read(0, _SECTOR_BYTES))
    offsets = _block_offsets(sector)
    if offsets is None:
        return None
    (sector_bytes,) = _BYTES_PER_SECTOR.unpack_from(sector, 11)
    if sector_bytes not in (512, 1024, 2048, 4096):
        raise _invalid(f"{sector_bytes} bytes per sector", 11, "boot sector")
    damage: GuestctlError | None = None
    for offset in offsets:
        try:
            return _read_block(device, offset, sector_bytes, verify=verify)._replace(damage=damage)
        except InvalidFormat as error:
            damage = damage or error
    assert damage is not None
    raise damage


def _block_offsets(sector: bytes) -> Sequence[int] | None:
    if sector[3:11] == SIGNATURE:
        return _IDENTIFIER.unpack_from(sector, _IDENTIFIER_OFFSET)[1:]
    guid, *offsets = _IDENTIFIER.unpack_from(sector, _TO_GO_IDENTIFIER_OFFSET)
    return offsets if guid == _GUID_NORMAL else None


def is_encrypted_on_write(device: BlockDevice) -> bool:
    """Whether a bitmap tells which sectors are encrypted already."""
    return bytes(device.read(_IDENTIFIER_OFFSET, 16)) == _GUID_ENCRYPT_ON_WRITE


def _read_block(device: BlockDevice, offset: int, sector_bytes: int, *, verify: bool) -> Metadata:
    header = _BLOCK_HEADER.unpack(device.read(offset, _BLOCK_HEADER.size))
    signature, size, version, state, _, encrypted, converting, header_sectors, *blocks, header_offset = header
    size *= 16
    if signature != SIGNATURE or not _BLOCK_HEADER.size + _METADATA_HEADER.size <= size <= BLOCK_BYTES:
        raise _invalid(f"signature {signature!r}, {size} bytes", offset)
    if version != 2:
        raise UnsupportedFeature(f"BitLocker metadata of version {version}", feature=f"BitLocker version {version}")
    raw = bytes(device.read(offset, min(size + _VALIDATION.size, device.size - offset)))
    if verify:
        _verify(raw, size, offset)
    fields = _METADATA_HEADER.unpack_from(raw, _BLOCK_HEADER.size)
    metadata_size, _, header_size, _, guid, _, method, _, _ = fields
    if not _METADATA_HEADER.size <= header_size <= metadata_size <= size - _BLOCK_HEADER.size:
        raise _invalid(f"metadata of {metadata_size} bytes, its header of {header_size}", offset)
    start, end = _BLOCK_HEADER.size + header_size, _BLOCK_HEADER.size + metadata_size
    entries = list(parse_entries(raw[start:end], offset + start))
    if verify:
        _check_state(state, converting)
    header_bytes = header_sectors * sector_bytes
    for entry in entries:
        if entry.type == _ENTRY_VOLUME_HEADER and len(entry.data) >= _OFFSET_AND_SIZE.size:
            header_offset, header_bytes = _OFFSET_AND_SIZE.unpack_from(entry.data)
    guid = str(UUID(bytes_le=guid))
    encrypted_bytes = encrypted if state in _STATES_CONVERTING else _EVERYTHING
    return Metadata(guid, method, sector_bytes, encrypted_bytes, blocks, header_offset, header_bytes, entries)


def _verify(raw: bytes, size: int, offset: int) -> None:
    if len(raw) < size + _VALIDATION.size:
        raise _invalid("it ends early", offset)
    _, _, stored = _VALIDATION.unpack_from(raw, size)
    computed = zlib.crc32(raw[:size])
    if computed != stored:
        raise ChecksumMismatch(structure="FVE metadata block", offset=offset, expected=computed, actual=stored)


def _check_state(state: int, converting: int) -> None:
    if state == _STATE_ENCRYPTED or (state in _STATES_CONVERTING and not converting):
        return
    raise UnsupportedFeature(f"a BitLocker volume in state {state}", feature=f"BitLocker state {state}")


def parse_entries(data: Buffer, offset: int) -> Iterator[Entry]:
    """The entries in `data`, which lies at `offset`; one that ends outside is an error."""
    at = 0
    while at + _ENTRY.size <= len(data):
        size, type_, value_type, _ = _ENTRY.unpack_from(data, at)
        if not size:
            return
        if not _ENTRY.size <= size <= len(data) - at:
            raise _invalid(f"an entry of {size} bytes", offset + at, "FVE metadata entry")
        yield Entry(type_, value_type, bytes(data[at + _ENTRY.size : at + size]))
        at += size


def _invalid(message: str, offset: int, structure: str = "FVE metadata block") -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
