"""AES-CBC with the Elephant diffuser, of Windows 7 and before.

Niels Ferguson, "AES-CBC + Elephant diffuser: A Disk Encryption Algorithm for Windows Vista" (2006).
The diffusers go from word to word of a sector, but sectors do not depend on each other: a step is
made for the same word of all sectors at once, in one long integer with a lane of 64 bits for each,
so that a sum of two words does not reach the next lane.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from guestctl.block.device import Buffer
from guestctl.disk.encryption import CbcCipher, Initialization, encrypt_blocks, sector_numbers

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm

_WORD_BYTES = 4
_LANE_BYTES = 8
_WORD_MASK = 0xFFFFFFFF
_A_CYCLES, _A_ROTATIONS = 5, (9, 0, 13, 0)
_B_CYCLES, _B_ROTATIONS = 3, (0, 10, 0, 25)
_SECTOR_KEY_WORDS = 8


class ElephantCipher:
    """Decrypts in CBC, undoes diffuser B, then A, then combines each sector with a key of its own."""

    def __init__(
        self,
        algorithm: BlockCipherAlgorithm,
        tweak_algorithm: BlockCipherAlgorithm,
        sector_bytes: int,
        initialization: Initialization,
    ) -> None:
        self.sector_bytes = sector_bytes
        self._cbc = CbcCipher(algorithm, sector_bytes, initialization)
        self._tweak_algorithm = tweak_algorithm

    def decrypt_into(self, data: Buffer, sector: int, plain: memoryview) -> None:
        self._cbc.decrypt_into(data, sector, plain)
        words = array("I", plain[: len(data)].tobytes())
        step = self.sector_bytes // _WORD_BYTES
        count = len(words) // step
        mask = int.from_bytes(_WORD_MASK.to_bytes(_LANE_BYTES, "little") * count, "little")
        lanes = [_spread(words[index::step]) for index in range(step)]
        _undo(lanes, _B_CYCLES, 2, 5, _B_ROTATIONS, mask)
        _undo(lanes, _A_CYCLES, -2, -5, _A_ROTATIONS, mask)
        keys = self._sector_keys(sector, count)
        for index, lane in enumerate(lanes):
            content = (lane ^ keys[index % _SECTOR_KEY_WORDS]).to_bytes(count * _LANE_BYTES, "little")
            words[index::step] = array("I", content)[::2]
        plain[: len(data)] = memoryview(words).cast("B")

    def _sector_keys(self, sector: int, count: int) -> list[int]:
        """The eight words of the sectors' keys, each of all sectors."""
        size = self.sector_bytes
        blocks = bytearray(2 * 16 * count)
        numbers = sector_numbers(sector * size, count, size)
        view, source = memoryview(blocks).cast("Q"), memoryview(numbers).cast("Q")
        view[0::4] = view[2::4] = source[::2]
        blocks[31::32] = b"\x80" * count
        keys = array("I", encrypt_blocks(self._tweak_algorithm, memoryview(blocks)))
        return [_spread(keys[index::_SECTOR_KEY_WORDS]) for index in range(_SECTOR_KEY_WORDS)]


def _spread(words: array[int]) -> int:
    """The words in lanes."""
    lanes = array("I", bytes(_LANE_BYTES * len(words)))
    lanes[::2] = words
    return int.from_bytes(lanes, "little")


def _undo(lanes: list[int], cycles: int, near: int, far: int, rotations: tuple[int, ...], mask: int) -> None:
    """Add to each word the one `near` it combined with the rotated one `far` from it, in order, `cycles` times."""
    size = len(lanes)
    for _ in range(cycles):
        for index in range(size):
            other = lanes[(index + far) % size]
            rotation = rotations[index % len(rotations)]
            if rotation:
                shifted = other << rotation
                other = shifted & mask | shifted >> 32 & mask
            lanes[index] = lanes[index] + (lanes[(index + near) % size] ^ other) & mask
