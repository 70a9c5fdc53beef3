"""From a passphrase to the volume key: key derivation, the anti-forensic splitter, the digest.

"TKS1" and "AF-splitter" of the LUKS1 specification; RFC 9106 for Argon2. Costs are bounded, as an
image could ask for hours and for all memory: cryptsetup itself takes no more than 4 GiB.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.disk.encryption import SPARE_BYTES
from guestctl.disk.volumes.luks.ciphers import hash_name, sector_cipher
from guestctl.disk.volumes.luks.header import SECTOR_BYTES, Digest, Header, Kdf, KeySlot, invalid

_MAX_PBKDF2_BYTES = 4 << 30  # iterations times bytes that are derived: a minute
_MAX_MEMORY_KIB = 4 << 20
_MAX_ARGON2_KIB = 64 << 20  # memory times passes: a minute
_MAX_LANES = 64
_MAX_SLOTS = 32  # of LUKS2
_MAX_KEY_BYTES = 128
_MAX_STRIPES = 1 << 16  # usually 4000


def volume_key(device: BlockDevice, header: Header, secret: bytes) -> bytes | None:
    """The volume key, if `secret` opens one of the slots; `device` holds the header.

    Where a slot cannot be read, and no other opens, that is the error.
    """
    failure: GuestctlError | None = None
    for slot in header.slots[:_MAX_SLOTS]:
        try:
            key = _slot_key(device, slot, secret)
            if _is_volume_key(header.digest, key):
                return key
        except GuestctlError as error:
            failure = error
    if failure is not None:
        raise failure
    return None


def _slot_key(device: BlockDevice, slot: KeySlot, secret: bytes) -> bytes:
    """What the slot holds for who has `secret`; noise for others."""
    plausible = 0 < slot.key_bytes <= _MAX_KEY_BYTES and 0 < slot.area_key_bytes <= _MAX_KEY_BYTES
    if not plausible or not 0 < slot.stripes <= _MAX_STRIPES:
        message = f"{slot.stripes} stripes of {slot.key_bytes} bytes"
        raise invalid(message, slot.area_offset, f"key slot {slot.id}")
    material_bytes = slot.key_bytes * slot.stripes
    area_bytes = -(-material_bytes // SECTOR_BYTES) * SECTOR_BYTES
    material = device.read(slot.area_offset, area_bytes)
    cipher = sector_cipher(slot.area_encryption, _derive(slot.kdf, secret, slot.area_key_bytes))
    plain = bytearray(area_bytes + SPARE_BYTES)
    cipher.decrypt_into(material, 0, memoryview(plain))
    return merge(bytes(plain[:material_bytes]), slot.stripes, slot.stripe_hash)


def _derive(kdf: Kdf, secret: bytes, length: int) -> bytes:
    if kdf.type == "pbkdf2":
        return _pbkdf2(kdf.hash, secret, kdf.salt, kdf.iterations, length)
    if kdf.type not in ("argon2i", "argon2id"):
        raise UnsupportedFeature(f"keys derived by {kdf.type}", feature=f"KDF {kdf.type}")
    if kdf.memory > _MAX_MEMORY_KIB or kdf.memory * kdf.iterations > _MAX_ARGON2_KIB or kdf.cpus > _MAX_LANES:
        cost = f"{kdf.memory} KiB, {kdf.iterations} passes, {kdf.cpus} lanes"
        raise UnsupportedFeature(f"{kdf.type} of {cost}", feature="costly KDF")
    from argon2.exceptions import HashingError
    from argon2.low_level import Type, hash_secret_raw

    type_ = Type.I if kdf.type == "argon2i" else Type.ID
    try:
        return hash_secret_raw(secret, kdf.salt, kdf.iterations, kdf.memory, kdf.cpus, length, type_)
    except (HashingError, OverflowError) as error:
        raise UnsupportedFeature(f"{kdf.type} of {kdf.memory} KiB: {error}", feature="KDF") from None


def _pbkdf2(hash_: str, secret: bytes, salt: bytes, iterations: int, length: int) -> bytes:
    if not 0 < iterations * length <= _MAX_PBKDF2_BYTES:
        raise UnsupportedFeature(f"PBKDF2 of {iterations} iterations", feature="costly KDF")
    return hashlib.pbkdf2_hmac(hash_name(hash_), secret, salt, iterations, length)


def _is_volume_key(digest: Digest, key: bytes) -> bool:
    computed = _pbkdf2(digest.hash, key, digest.salt, digest.iterations, max(1, len(digest.digest)))
    return hmac.compare_digest(computed, digest.digest)


def merge(material: bytes, stripes: int, hash_: str) -> bytes:
    """The key that `material` was split from: a change in any stripe changes all of it."""
    length = len(material) // stripes
    name = hash_name(hash_)
    digest_bytes = hashlib.new(name).digest_size
    prefixes = [struct.pack(">I", number) for number in range(-(-length // digest_bytes))]
    key = bytes(length)
    for at in range(0, len(material) - length, length):
        mixed = (int.from_bytes(key) ^ int.from_bytes(material[at : at + length])).to_bytes(length)
        pieces = range(0, length, digest_bytes)
        parts = zip(prefixes, pieces, strict=True)
        key = b"".join(
            hashlib.new(name, prefix + mixed[start : start + digest_bytes]).digest()[: length - start]
            for prefix, start in parts
        )
    return (int.from_bytes(key) ^ int.from_bytes(material[-length:])).to_bytes(length)
