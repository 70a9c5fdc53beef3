"""What ``aes-xts-plain64`` and its like mean: cipher, mode, and generator of initialization vectors.

The kernel's names, as dm-crypt takes them. Generators: plain, plain64, plain64be, essiv, null.
"""

from __future__ import annotations

import hashlib
from array import array

from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.encryption import (
    CbcCipher,
    Initialization,
    SectorCipher,
    XtsCipher,
    block_cipher,
    encrypt_blocks,
    sector_numbers,
)
from guestctl.disk.volumes.luks.header import SECTOR_BYTES


def sector_cipher(encryption: str, key: bytes, sector_bytes: int = SECTOR_BYTES, iv_tweak: int = 0) -> SectorCipher:
    """The cipher that `encryption` names. Raises `UnsupportedFeature`."""
    name, _, mode_and_generator = encryption.partition("-")
    mode, _, generator = mode_and_generator.partition("-")
    if mode not in ("cbc", "xts"):
        raise UnsupportedFeature(f"the cipher {encryption}", feature=f"cipher {encryption}")
    vectors = _initialization(generator, name, key, sector_bytes // SECTOR_BYTES, iv_tweak)
    if mode == "xts":
        return XtsCipher(name, key, sector_bytes, vectors)
    return CbcCipher(block_cipher(name, key), sector_bytes, vectors)


def hash_name(name: str) -> str:
    """hashlib's name of the hash that the kernel calls `name`. Raises `UnsupportedFeature`."""
    python_name = {"blake2b-512": "blake2b", "blake2s-256": "blake2s"}.get(name, name.replace("-", "_"))
    if python_name not in hashlib.algorithms_available or python_name.startswith("shake"):
        raise UnsupportedFeature(f"the hash {name}", feature=f"hash {name}")
    return python_name


def _initialization(generator: str, cipher: str, key: bytes, step: int, tweak: int) -> Initialization:
    """Sectors are counted in units of 512 bytes, of which each has `step`."""

    def plain64(sector: int, count: int) -> bytes:
        return sector_numbers(tweak + sector * step, count, step)

    def plain(sector: int, count: int) -> bytes:
        words = array("I", plain64(sector, count))
        words[1::4] = array("I", bytes(4 * count))
        return words.tobytes()

    def plain64be(sector: int, count: int) -> bytes:
        words = array("Q", plain64(sector, count))
        words.byteswap()
        words[::2], words[1::2] = words[1::2], words[::2]
        return words.tobytes()

    simple = {"plain": plain, "plain64": plain64, "plain64be": plain64be, "null": lambda _, count: bytes(16 * count)}
    if generator in simple:
        return simple[generator]
    kind, _, hashed = generator.partition(":")
    if kind != "essiv":
        raise UnsupportedFeature(f"initialization vectors by {generator}", feature=f"generator {generator}")
    salt = block_cipher(cipher, hashlib.new(hash_name(hashed), key).digest())
    return lambda sector, count: encrypt_blocks(salt, plain64(sector, count))
