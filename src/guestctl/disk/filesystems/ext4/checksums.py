"""The checksums of ext4 metadata (section "Checksums" of the kernel's ext4 documentation).

``metadata_csum`` uses CRC-32C without the customary final inversion. Here a *state* is the
customary, inverted value that `google_crc32c.extend` takes and gives; what the disk stores is
`stored` of the last state. ``gdt_csum`` uses CRC-16 (polynomial 0x8005, reflected).
"""

from __future__ import annotations

import struct

from google_crc32c import extend

_MASK = 0xFFFFFFFF
# What the checksums of an inode and of its blocks begin with: its number and its i_generation.
inode_prefix = struct.Struct("<II").pack


def stored(state: int) -> int:
    """The checksum as it is stored for a CRC-32C state."""
    return state ^ _MASK


def seed_from_field(checksum_seed: int) -> int:
    """The filesystem's initial state where ``s_checksum_seed`` holds it."""
    return checksum_seed ^ _MASK


def seed_from_uuid(uuid: bytes) -> int:
    """The filesystem's initial state where it comes from ``s_uuid``."""
    return crc32c(0, uuid)


def crc32c(state: int, data: bytes) -> int:
    """The state after `data`."""
    return int(extend(state, data))


def inode_seed(seed: int, inode: int, generation: int) -> int:
    """The initial state for what belongs to one inode: its directory blocks and extent blocks."""
    return crc32c(seed, inode_prefix(inode, generation))


def inode_checksum(seed: int, inode: int, generation: int, raw: bytes, *, wide: bool) -> int:
    """The checksum of the inode `raw` (all its bytes), of which 16 bits are kept unless `wide`.

    ``i_checksum_hi`` counts as zero only where ``i_extra_isize`` covers it, which is `wide`.
    """
    blank = bytearray(raw)
    blank[0x7C:0x7E] = b"\0\0"
    if wide:
        blank[0x82:0x84] = b"\0\0"
    value = stored(crc32c(inode_seed(seed, inode, generation), bytes(blank)))
    return value if wide else value & 0xFFFF


def crc16(state: int, data: bytes) -> int:
    """The CRC-16 after `data`."""
    for byte in data:
        state = (state >> 8) ^ _CRC16[(state ^ byte) & 0xFF]
    return state


def _crc16_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC16 = _crc16_table()
