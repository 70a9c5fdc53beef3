"""The header of LUKS1: "partition header" and "key slot" of the LUKS On-Disk Format Specification 1.2.3; big-endian."""

from __future__ import annotations

import struct

from guestctl.block import BlockDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.volumes.luks.header import (
    PRIMARY_MAGIC,
    SECTOR_BYTES,
    Digest,
    Header,
    Kdf,
    KeySlot,
    Segment,
    invalid,
    text,
)

# magic, version, cipher-name, cipher-mode, hash-spec, payload-offset, key-bytes, mk-digest,
# mk-digest-salt, mk-digest-iterations, uuid
_PARTITION_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_KEY_SLOT = struct.Struct(">II32sII")  # active, iterations, salt, key-material-offset, stripes
_SLOTS = 8
_SLOT_ACTIVE = 0x00AC71F3
HEADER_BYTES = _PARTITION_HEADER.size + _SLOTS * _KEY_SLOT.size


def read_header(device: BlockDevice, offset: int = 0) -> Header:
    """The header at `offset`, from where its own offsets count. Raises `InvalidFormat` and `UnsupportedFeature`."""
    raw = bytes(device.read(offset, HEADER_BYTES))
    magic, version, cipher, mode, hash_spec, payload, key_bytes, digest, salt, iterations, uuid = (
        _PARTITION_HEADER.unpack_from(raw)
    )
    if magic != PRIMARY_MAGIC:
        raise invalid(f"magic is {magic!r}", offset)
    if version != 1:
        raise UnsupportedFeature(f"LUKS version {version}", feature=f"LUKS version {version}")
    encryption, hash_name = f"{text(cipher)}-{text(mode)}", text(hash_spec)
    slots = []
    for number, fields in enumerate(_KEY_SLOT.iter_unpack(raw[_PARTITION_HEADER.size :])):
        active, slot_iterations, slot_salt, material, stripes = fields
        if active == _SLOT_ACTIVE:
            kdf = Kdf("pbkdf2", slot_salt, hash_name, slot_iterations)
            area = offset + material * SECTOR_BYTES
            slots.append(KeySlot(str(number), kdf, area, encryption, key_bytes, key_bytes, stripes, hash_name))
    return Header(
        uuid=text(uuid),
        slots=slots,
        digest=Digest(hash_name, salt, iterations, digest),
        segments=(Segment(payload * SECTOR_BYTES, None, encryption),),
    )


def parse_uuid(raw: bytes) -> str:
    return text(_PARTITION_HEADER.unpack_from(raw)[-1])
