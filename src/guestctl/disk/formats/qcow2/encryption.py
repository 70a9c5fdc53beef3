"""The LUKS1 header in a qcow2 file, as far as ``qemu-img info`` describes it.

LUKS On-Disk Format Specification 1.2, "partition header" and "key slot"; big-endian. Nothing is
decrypted. qemu puts no other version there; others are refused.
"""

from __future__ import annotations

import struct
from typing import Any

from guestctl.block.device import Buffer
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2.header import decode_name

_MAGIC = b"LUKS\xba\xbe"
# magic, version, cipher-name, cipher-mode, hash-spec, payload-offset, key-bytes, mk-digest,
# mk-digest-salt, mk-digest-iterations, uuid; then eight key slots.
_PARTITION_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
# active, iterations, salt, key-material-offset, stripes.
_KEY_SLOT = struct.Struct(">II32sII")
_KEY_SLOTS = 8
_SLOT_ACTIVE = 0x00AC71F3
_SECTOR_BYTES = 512
LUKS_HEADER = struct.Struct(f"{_PARTITION_HEADER.size + _KEY_SLOTS * _KEY_SLOT.size}s")


def luks_info(buffer: Buffer, offset: int) -> dict[str, Any]:
    """The header in `buffer`, which lies at `offset` in the file, in the words of ``qemu-img info``."""
    magic, version, cipher_name, cipher_mode, hash_spec, payload_offset, key_bytes, _, _, iterations, uuid = (
        _PARTITION_HEADER.unpack_from(buffer)
    )
    if magic != _MAGIC:
        raise InvalidFormat(f"magic is {magic!r}", structure="LUKS header", offset=offset, expected=_MAGIC)
    if version != 1:
        raise UnsupportedFeature(f"LUKS version {version} in a qcow2 image", feature=f"LUKS version {version}")
    mode, _, generator = _text(cipher_mode).partition("-")
    generator, _, generator_hash = generator.partition(":")
    bits = key_bytes * 8 // (2 if mode == "xts" else 1)  # XTS has two keys
    info = {
        "format": "luks",
        "cipher-alg": f"{_text(cipher_name)}-{bits}",
        "cipher-mode": mode,
        "ivgen-alg": generator,
        "hash-alg": _text(hash_spec),
        "payload-offset": payload_offset * _SECTOR_BYTES,
        "master-key-iters": iterations,
        "uuid": _text(uuid),
        "slots": [_slot(fields) for fields in _KEY_SLOT.iter_unpack(buffer[_PARTITION_HEADER.size : LUKS_HEADER.size])],
    }
    if generator_hash:
        info["ivgen-hash-alg"] = generator_hash
    return info


def _slot(fields: tuple[Any, ...]) -> dict[str, Any]:
    active, iterations, _, key_offset, stripes = fields
    slot = {"active": active == _SLOT_ACTIVE, "key-offset": key_offset * _SECTOR_BYTES}
    if slot["active"]:
        slot |= {"iters": iterations, "stripes": stripes}
    return slot


def _text(field: bytes) -> str:
    return decode_name(field.partition(b"\0")[0])
