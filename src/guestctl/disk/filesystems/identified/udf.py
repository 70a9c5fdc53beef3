"""UDF (ECMA-167 and OSTA UDF 2.60), found by its volume recognition sequence and anchor.

The UUID is made of the volume set identifier, as blkid makes it: 16 characters of it where those are hexadecimal
digits, or 8 and the codes of the next 4, or the codes of the first 8.
"""

from __future__ import annotations

import re
from struct import Struct

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text

_RECOGNITION_OFFSET, _MAX_DESCRIPTORS = 32 << 10, 64
_SECTOR_SIZES = (2048, 4096, 512, 1024)
_NSR, _TERMINATORS = (b"NSR02", b"NSR03"), (b"TEA01",)
_IDENTIFIERS = (b"BEA01", b"BOOT2", b"CD001", b"CDW02", *_NSR)
_ANCHOR_BLOCK = 256
# Tag: identifier, checksum, location. Anchor: length and location of the main sequence of volume descriptors.
_TAG = Struct("<H2xB7xI")
_ANCHOR = Struct("<16xII")
_ANCHOR_TAG, _PRIMARY, _POINTER, _LOGICAL, _TERMINATING = 2, 1, 3, 6, 8
_DESCRIPTOR_BYTES = 512
_SET_IDENTIFIER, _LOGICAL_IDENTIFIER = slice(72, 200), slice(84, 212)
_DOMAIN, _REVISION = slice(217, 240), slice(240, 242)
_OSTA = b"*OSTA UDF Compliant"


def identify(device: BlockDevice) -> Identity | None:
    if not _is_recognised(device):
        return None
    for sector_size in _SECTOR_SIZES:
        for block in (_ANCHOR_BLOCK, device.size // sector_size - 1, device.size // sector_size - 1 - _ANCHOR_BLOCK):
            data = _descriptor(device, block, sector_size)
            if data is not None and _TAG.unpack_from(data)[0] == _ANCHOR_TAG:
                return _identity(device, data, sector_size)
    return None


def _is_recognised(device: BlockDevice) -> bool:
    """Descriptors of 2048 bytes, or one in each sector that is larger."""
    for step in (2048, 4096):
        for number in range(_MAX_DESCRIPTORS):
            identifier = read_at(device, _RECOGNITION_OFFSET + number * step + 1, 5)
            if identifier in _NSR:
                return True
            if identifier not in _IDENTIFIERS:
                break
    return False


def _descriptor(device: BlockDevice, block: int, sector_size: int) -> bytes | None:
    """The descriptor in a block, where its tag is sound and says that it belongs there."""
    data = read_at(device, block * sector_size, _DESCRIPTOR_BYTES)
    if len(data) < _DESCRIPTOR_BYTES or not any(data[:16]):
        return None
    _, checksum, location = _TAG.unpack_from(data)
    return data if location == block and checksum == sum(data[:4] + data[5:16]) & 0xFF else None


def _identity(device: BlockDevice, anchor: bytes, sector_size: int) -> Identity:
    length, start = _ANCHOR.unpack_from(anchor)
    label = version = identifier = None
    for block in range(start, start + min(length // sector_size, _MAX_DESCRIPTORS)):
        data = _descriptor(device, block, sector_size)
        kind = _TAG.unpack_from(data)[0] if data is not None else None
        if data is None or kind == _TERMINATING:
            break
        if kind == _PRIMARY:
            identifier = _uuid(_dstring(data[_SET_IDENTIFIER]))
        elif kind == _LOGICAL:
            label = text(_dstring(data[_LOGICAL_IDENTIFIER]))
            if data[_DOMAIN].startswith(_OSTA):
                revision = int.from_bytes(data[_REVISION], "little")
                version = f"{revision >> 8:x}.{revision & 0xFF:02x}"
    return Identity("udf", version=version, label=label, uuid=identifier)


def _dstring(data: bytes) -> bytes:
    """UTF-8 of an OSTA compressed string; the last byte is its length."""
    body = data[1 : data[-1]]
    return body.decode("utf-16-be" if data[0] in (16, 255) else "latin-1", "replace").encode()


def _uuid(identifier: bytes) -> str | None:
    if not identifier:
        return None
    padded = identifier.ljust(16, b"\0")
    if re.fullmatch(rb"[0-9A-Fa-f]{16}", padded[:16]):
        return padded[:16].decode().lower()
    if re.fullmatch(rb"[0-9A-Fa-f]{8}", padded[:8]):
        return padded[:8].decode().lower() + padded[8:12].hex()
    return padded[:8].hex()
