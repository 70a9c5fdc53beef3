"""Block ciphers, initialization vectors, and cipher block chaining of a range of sectors at a time.

The range is decrypted as one chain. That is right but for the first block of each sector, which was
combined with the block before it and not with its initialization vector: the two are exchanged.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from guestctl.block.device import Buffer
from guestctl.core.errors import UnsupportedFeature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm

BLOCK_BYTES = 16
SPARE_BYTES = 15
_WORD_BYTES = 8
_KEY_BYTES = {"aes": (16, 24, 32), "camellia": (16, 24, 32), "sm4": (16,)}

# From the number of the first sector and the count of sectors: a block for each.
Initialization = Callable[[int, int], bytes]


class SectorCipher(Protocol):
    """Decrypts whole sectors of ``sector_bytes``."""

    sector_bytes: int

    def decrypt_into(self, data: Buffer, sector: int, plain: memoryview) -> None:
        """Put the plain text of `data`, whose first sector has the number `sector`, at the beginning of `plain`.

        The library wants `plain` to be longer than `data`, by `SPARE_BYTES`.
        """


def block_cipher(name: str, key: bytes) -> BlockCipherAlgorithm:
    """The cipher that the Linux kernel calls `name`. Raises `UnsupportedFeature`."""
    if name not in _KEY_BYTES:
        raise UnsupportedFeature(f"the cipher {name}", feature=f"cipher {name}")
    if len(key) not in _KEY_BYTES[name]:
        raise UnsupportedFeature(f"{name} with a key of {len(key) * 8} bits", feature=f"{name}-{len(key) * 8}")
    from cryptography.exceptions import UnsupportedAlgorithm

    algorithm = _algorithm(name, key)
    try:
        encrypt_blocks(algorithm, bytes(BLOCK_BYTES))
    except UnsupportedAlgorithm:  # an OpenSSL without it
        raise UnsupportedFeature(f"the cipher {name}", feature=f"cipher {name}") from None
    return algorithm


def _algorithm(name: str, key: bytes) -> BlockCipherAlgorithm:
    from cryptography.hazmat.primitives.ciphers import algorithms

    if name == "camellia":
        try:
            from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
        except ImportError:  # an older cryptography
            Camellia = algorithms.Camellia  # type: ignore[misc]
        return Camellia(key)
    return algorithms.AES(key) if name == "aes" else algorithms.SM4(key)


def encrypt_blocks(algorithm: BlockCipherAlgorithm, blocks: Buffer) -> bytes:
    """Each of `blocks` by itself."""
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    return Cipher(algorithm, modes.ECB()).encryptor().update(blocks)


def decrypt_blocks(algorithm: BlockCipherAlgorithm, blocks: Buffer) -> bytes:
    """Each of `blocks` by itself."""
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    return Cipher(algorithm, modes.ECB()).decryptor().update(blocks)


def sector_numbers(first: int, count: int, step: int = 1) -> bytes:
    """`count` numbers, `step` apart, each as a little-endian block."""
    ones, steps = _numbers_from_zero(count)
    return (first * ones + step * steps).to_bytes(count * BLOCK_BYTES, "little")


@lru_cache(maxsize=8)
def _numbers_from_zero(count: int) -> tuple[int, int]:
    """As many blocks with 1 in each, and with 0, 1, 2…; a sum of products of them makes any row of numbers."""
    blocks = array("Q", bytes(count * BLOCK_BYTES))
    blocks[::2] = array("Q", range(count))
    if sys.byteorder == "big":
        blocks.byteswap()
    one = (1).to_bytes(BLOCK_BYTES, "little")
    return int.from_bytes(one * count, "little"), int.from_bytes(blocks, "little")


class CbcCipher:
    """Cipher block chaining that begins anew in each sector."""

    def __init__(self, algorithm: BlockCipherAlgorithm, sector_bytes: int, initialization: Initialization) -> None:
        self.sector_bytes = sector_bytes
        self._algorithm = algorithm
        self._initialization = initialization

    def decrypt_into(self, data: Buffer, sector: int, plain: memoryview) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        size = len(data)
        vectors = self._initialization(sector, size // self.sector_bytes)
        Cipher(self._algorithm, modes.CBC(vectors[:BLOCK_BYTES])).decryptor().update_into(data, plain)
        words, cipher_words = plain[:size].cast("Q"), memoryview(data).cast("Q")
        vector_words = memoryview(vectors).cast("Q")
        step = self.sector_bytes // _WORD_BYTES
        for half in (0, 1):
            first = words[step + half :: step]
            before = cipher_words[step - 2 + half : len(words) - step : step]
            first[:] = _xor(first, before, vector_words[2 + half :: 2])


def _xor(*operands: memoryview) -> memoryview:
    total = 0
    for operand in operands:
        total ^= int.from_bytes(operand.tobytes(), "little")
    return memoryview(total.to_bytes(len(operands[0]) * _WORD_BYTES, "little")).cast("Q")
