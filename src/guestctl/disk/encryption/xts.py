"""XTS (IEEE 1619): each block of a sector is combined, before and after the block cipher, with a tweak of its own.

The library has XTS for AES, a sector at a time; what a small sector costs is its new context. It was
measured against tweaks and blocks of many sectors at once, in long integers and in chained pairs:
those are no faster, as Python has nothing that combines (XORs) arrays without converting them.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.block.device import Buffer
from guestctl.disk.encryption.cipher import (
    BLOCK_BYTES,
    SPARE_BYTES,
    Initialization,
    block_cipher,
    decrypt_blocks,
    encrypt_blocks,
)

_NATIVE_KEY_BYTES = (32, 64)
_REDUCTION = 1 << 128 | 0x87  # x^128 = x^7 + x^2 + x + 1


class XtsCipher:
    """XTS of sectors; the first half of `key` is that of the data, the second that of the tweaks."""

    def __init__(self, name: str, key: bytes, sector_bytes: int, initialization: Initialization) -> None:
        half = len(key) // 2
        self.sector_bytes = sector_bytes
        self._initialization = initialization
        self._data_cipher = block_cipher(name, key[:half])
        self._tweak_cipher = block_cipher(name, key[half:])
        # The library refuses keys whose halves are equal.
        is_native = name == "aes" and len(key) in _NATIVE_KEY_BYTES and key[:half] != key[half:]
        self._native_key = key if is_native else None

    def decrypt_into(self, data: Buffer, sector: int, plain: memoryview) -> None:
        vectors = self._initialization(sector, len(data) // self.sector_bytes)
        if self._native_key is not None:
            self._decrypt_sectors(self._native_key, memoryview(data), vectors, plain)
            return
        tweaks = b"".join(_tweaks(encrypt_blocks(self._tweak_cipher, vectors), self.sector_bytes // BLOCK_BYTES))
        plain[: len(data)] = _xor(decrypt_blocks(self._data_cipher, _xor(data, tweaks)), tweaks)

    def _decrypt_sectors(self, key: bytes, data: memoryview, vectors: bytes, plain: memoryview) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        step, xts = self.sector_bytes, modes.XTS
        cipher = Cipher(algorithms.AES(key), xts(bytes(BLOCK_BYTES)))
        for start, at in zip(range(0, len(data), step), range(0, len(vectors), BLOCK_BYTES), strict=True):
            cipher.mode = xts(vectors[at : at + BLOCK_BYTES])
            cipher.decryptor().update_into(data[start : start + step], plain[start : start + step + SPARE_BYTES])


def _tweaks(first: bytes, blocks: int) -> Iterator[bytes]:
    """The tweaks of all `blocks` of the sectors whose first ones are given: each is the one before, times x."""
    for at in range(0, len(first), BLOCK_BYTES):
        tweak = int.from_bytes(first[at : at + BLOCK_BYTES], "little")
        for _ in range(blocks):
            yield tweak.to_bytes(BLOCK_BYTES, "little")
            tweak <<= 1
            if tweak >> 128:
                tweak ^= _REDUCTION


def _xor(first: Buffer, second: Buffer) -> bytes:
    return (int.from_bytes(first) ^ int.from_bytes(second)).to_bytes(len(first))
