"""Encrypted clusters: LUKS1, whose header lies in the qcow2 file, and the legacy AES of old versions of qemu.

LUKS On-Disk Format Specification 1.2, "partition header" and "key slot"; big-endian. qemu puts no
other version there; others are refused. Sectors are numbered by their place in the file, and with
legacy AES on the disk. Its key is the passphrase itself, and nothing tells a wrong one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2.header import decode_name

# From an offset on the disk, one in the file and a length to a device that has these bytes, decrypted, and where.
Decryption = Callable[[int, int, int], tuple[BlockDevice, int]]

_MAGIC = b"LUKS\xba\xbe"
# magic, version, cipher-name, cipher-mode, hash-spec, payload-offset, key-bytes, mk-digest,
# mk-digest-salt, mk-digest-iterations, uuid; then eight key slots.
_PARTITION_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
# active, iterations, salt, key-material-offset, stripes.
_KEY_SLOT = struct.Struct(">II32sII")
_KEY_SLOTS = 8
_SLOT_ACTIVE = 0x00AC71F3
_SECTOR_BYTES = 512
_AES_KEY_BYTES = 16
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


class LockedLuks:
    """Clusters in `data`, by the LUKS header at `offset` of `file`."""

    kind = "LUKS"

    def __init__(self, file: BlockDevice, offset: int, data: BlockDevice) -> None:
        from guestctl.disk.volumes.luks.luks1 import read_header

        self._file = file
        self._data = data
        self._header = read_header(file, offset)
        self.uuid = self._header.uuid

    def unlock(self, secret: bytes | None) -> Decryption | None:
        from guestctl.disk.encryption import EncryptedDevice
        from guestctl.disk.volumes.luks.ciphers import sector_cipher
        from guestctl.disk.volumes.luks.unlock import volume_key

        key = None if secret is None else volume_key(self._file, self._header, secret)
        if key is None:
            return None
        cipher = sector_cipher(str(self._header.segments[0].encryption), key)
        device = EncryptedDevice(self._data, cipher, size=self._data.size & -_SECTOR_BYTES)
        return lambda offset, host_offset, length: (device, host_offset)


class LockedAes:
    """Clusters in `data`, in AES-CBC with the passphrase as the key."""

    kind = "AES"
    uuid = ""

    def __init__(self, data: BlockDevice) -> None:
        self._data = data

    def unlock(self, secret: bytes | None) -> Decryption | None:
        from guestctl.disk.encryption import CbcCipher, EncryptedDevice, block_cipher, sector_numbers

        if secret is None:
            return None
        key = secret.rstrip(b"\r\n")[:_AES_KEY_BYTES].ljust(_AES_KEY_BYTES, b"\0")
        cipher = CbcCipher(block_cipher("aes", key), _SECTOR_BYTES, sector_numbers)

        def decryption(offset: int, host_offset: int, length: int) -> tuple[BlockDevice, int]:
            sector, skip = divmod(offset, _SECTOR_BYTES)
            size = skip + length + -(skip + length) % _SECTOR_BYTES
            start = host_offset - skip
            return EncryptedDevice(self._data, cipher, start=start, size=size, first_sector=sector), skip

        return decryption
