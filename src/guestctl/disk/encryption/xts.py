"""XTS (IEEE 1619): each block of a sector is combined, before and after the block cipher, with a tweak of its own.

The library has XTS for AES, a sector at a time: one context serves all sectors of a range, its tweak set anew
for each. That was measured against tweaks and blocks of many sectors at once, in long integers and in chained
pairs: those are slower, as Python has nothing that combines (XORs) arrays without converting them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from guestctl.block.device import Buffer
from guestctl.disk.encryption.cipher import (
    BLOCK_BYTES,
    SPARE_BYTES,
    Initialization,
    block_cipher,
    decrypt_blocks,
    encrypt_blocks,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

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
        self._native_key = key if is_native and _has_resettable_tweaks() else None

    def decrypt_into(self, data: Buffer, sector: int, plain: memoryview) -> None:
        vectors = self._initialization(sector, len(data) // self.sector_bytes)
        if self._native_key is not None:
            self._decrypt_sectors(self._native_key, memoryview(data), vectors, plain)
            return
        tweaks = b"".join(_tweaks(encrypt_blocks(self._tweak_cipher, vectors), self.sector_bytes // BLOCK_BYTES))
        plain[: len(data)] = _xor(decrypt_blocks(self._data_cipher, _xor(data, tweaks)), tweaks)

    def _decrypt_sectors(self, key: bytes, data: memoryview, vectors: bytes, plain: memoryview) -> None:
        step, count = self.sector_bytes, len(vectors) // BLOCK_BYTES
        decryptor = _decryptor(key)
        tweaks = map(vectors.__getitem__, _slices(BLOCK_BYTES, count, BLOCK_BYTES))
        sectors = map(data.__getitem__, _slices(step, count, step))
        targets = map(plain.__getitem__, _slices(step, count, step + SPARE_BYTES))
        # Neither loop has a line of Python in it: there are two thousand sectors in a megabyte.
        steps = zip(map(decryptor.reset_nonce, tweaks), map(decryptor.update_into, sectors, targets), strict=True)
        deque(steps, maxlen=0)


def _decryptor(key: bytes) -> CipherContext:
    """A context whose `reset_nonce` sets the tweak of the next sector."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    mode = modes.XTS(bytes(BLOCK_BYTES))
    decryptor = Cipher(algorithms.AES(key), mode).decryptor()
    # The context resets the nonce of any cipher, once its mode is of a kind that has one.
    mode.__class__ = modes.ModeWithNonce  # type: ignore[assignment]
    return decryptor


@cache
def _has_resettable_tweaks() -> bool:
    """Whether the library does what `_decryptor` expects: the same sector twice, in one context."""
    from cryptography.exceptions import UnsupportedAlgorithm

    sector = bytes(BLOCK_BYTES)
    decryptor = _decryptor(bytes(range(_NATIVE_KEY_BYTES[0])))
    first = decryptor.update(sector)
    try:
        decryptor.reset_nonce(sector)
    except UnsupportedAlgorithm:
        return False
    return decryptor.update(sector) == first


@lru_cache(maxsize=16)
def _slices(step: int, count: int, width: int) -> tuple[slice, ...]:
    """`count` of them, `width` long, `step` apart."""
    return tuple(slice(start, start + width) for start in range(0, step * count, step))


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
