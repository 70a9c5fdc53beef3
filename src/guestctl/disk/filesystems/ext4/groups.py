"""Block groups: where each group's inode table lies, and what is free.

Section "Block Group Descriptors" of the kernel's ext4 documentation; "Meta Block Groups" and
"Flexible Block Groups" for where the descriptors and the tables are. Descriptors are read one at
a time as their groups are needed, so that opening a large filesystem costs what a small one does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator

from guestctl.block.device import Buffer
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.superblock import Volume

_STRUCTURE = "block group descriptor"
_ZEROS = re.compile("0+")


class GroupTable:
    """The block group descriptors of a filesystem."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._device = volume.device
        self._superblock = volume.superblock
        self._per_block = volume.block_size // volume.superblock.desc_size
        self._verify = volume.verify
        self._tables: dict[int, int] = {}

    def inode_offset(self, ino: int) -> int:
        """Where the inode `ino` lies on the device, in bytes."""
        group, index = divmod(ino - 1, self._superblock.inodes_per_group)
        return self.inode_table(group) + index * self._superblock.inode_size

    def inode_table(self, group: int) -> int:
        """The offset of the inode table of `group` in bytes."""
        try:
            return self._tables[group]
        except KeyError:
            table = self._tables[group] = self._read_table(group)
            return table

    def _read_table(self, group: int) -> int:
        superblock = self._superblock
        offset = self._offset(group)
        raw = bytes(self._device.read(offset, superblock.desc_size))
        if self._verify:
            self._check(group, raw, offset)
        block = self._block_of(raw, L.GROUP_INODE_TABLE_LO, L.GROUP_INODE_TABLE_HI)
        length = -(-superblock.inodes_per_group * superblock.inode_size // superblock.block_size)
        if not superblock.first_data_block < block <= superblock.blocks_count - length:
            raise InvalidFormat(
                f"bg_inode_table of group {group} is block {block}", structure=_STRUCTURE, offset=offset, actual=block
            )
        return block * superblock.block_size

    def _offset(self, group: int) -> int:
        block, index = divmod(group, self._per_block)
        return self._block_number(block) * self._superblock.block_size + index * self._superblock.desc_size

    def _block_number(self, index: int) -> int:
        """Where the descriptor block with this index lies."""
        superblock = self._superblock
        if not superblock.incompat & L.INCOMPAT_META_BG or index < superblock.first_meta_bg:
            return L.SUPERBLOCK_OFFSET // superblock.block_size + 1 + index
        group = index * self._per_block
        block = superblock.first_data_block + group * superblock.blocks_per_group + self.has_superblock(group)
        # Blocks of 1 KiB counted from 0 (bigalloc): the superblock is in block 1.
        return block + (superblock.block_size == 1024 and not index and not superblock.first_data_block)

    def _check(self, group: int, raw: bytes, offset: int) -> None:
        superblock = self._superblock
        at = L.GROUP_DESC_CHECKSUM
        stored = int.from_bytes(raw[at : at + 2], "little")
        number = group.to_bytes(4, "little")
        if superblock.metadata_csum:
            state = checksums.crc32c(superblock.seed, number + raw[:at] + b"\0\0" + raw[at + 2 :])
            computed = checksums.stored(state) & 0xFFFF
        elif superblock.ro_compat & L.RO_COMPAT_GDT_CSUM:
            computed = checksums.crc16(0xFFFF, superblock.uuid + number + raw[:at] + raw[at + 2 :])
        else:
            return
        if computed != stored:
            raise self.volume.mismatch(_STRUCTURE, offset, stored=stored, computed=computed)

    def has_superblock(self, group: int) -> bool:
        """Whether `group` begins with a superblock or a copy of it."""
        superblock = self._superblock
        if not group:
            return True
        if superblock.compat & L.COMPAT_SPARSE_SUPER2:
            return group in superblock.backup_groups
        if group == 1 or not superblock.ro_compat & L.RO_COMPAT_SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    def free_counts(self) -> tuple[int, int]:
        """(free clusters, free inodes), summed over the descriptors as the kernel does at mount."""
        wide = bool(self._superblock.incompat & L.INCOMPAT_64BIT)
        base = L.GROUP_FREE_64 if wide else L.GROUP_FREE
        padded = struct.Struct(f"{base.format}{self._superblock.desc_size - base.size}x")
        clusters = inodes = 0
        for block in self._descriptor_blocks():
            rows = list(padded.iter_unpack(block))
            clusters += sum([row[0] for row in rows])
            inodes += sum([row[1] for row in rows])
            if wide:
                clusters += sum([row[2] for row in rows]) << 16
                inodes += sum([row[3] for row in rows]) << 16
        return clusters, inodes

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of the free clusters."""
        superblock = self._superblock
        cluster_bytes = superblock.cluster_blocks * superblock.block_size
        bits = superblock.blocks_per_group // superblock.cluster_blocks
        for group in range(superblock.groups_count):
            first = superblock.first_data_block + group * superblock.blocks_per_group
            clusters = min(bits, -(-(superblock.blocks_count - first) // superblock.cluster_blocks))
            digits = f"{int.from_bytes(self._block_bitmap(group, bits), 'little'):0{bits}b}"[::-1]
            for free in _ZEROS.finditer(digits, 0, clusters):
                start = first * superblock.block_size + free.start() * cluster_bytes
                end = min(start + len(free[0]) * cluster_bytes, superblock.blocks_count * superblock.block_size)
                yield start, end - start

    def _block_bitmap(self, group: int, bits: int) -> bytes:
        superblock = self._superblock
        offset = self._offset(group)
        raw = bytes(self._device.read(offset, superblock.desc_size))
        if self._verify:
            self._check(group, raw, offset)
        has_flags = superblock.metadata_csum or superblock.ro_compat & L.RO_COMPAT_GDT_CSUM
        if has_flags and _u16(raw, L.GROUP_FLAGS) & L.GROUP_BLOCK_UNINIT:
            return self._initial_bitmap(group, raw, bits)
        block = self._block_of(raw, L.GROUP_BLOCK_BITMAP_LO, L.GROUP_BLOCK_BITMAP_HI)
        if not superblock.first_data_block < block < superblock.blocks_count:
            message = f"bg_block_bitmap of group {group} is block {block}"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=offset, actual=block)
        bitmap = bytes(self._device.read(block * superblock.block_size, bits // 8))
        if self._verify and superblock.metadata_csum:
            stored, computed = _u16(raw, L.GROUP_BITMAP_CHECKSUM_LO), checksums.crc32c(superblock.seed, bitmap)
            computed = checksums.stored(computed)
            if len(raw) > L.GROUP_BITMAP_CHECKSUM_HI:
                stored |= _u16(raw, L.GROUP_BITMAP_CHECKSUM_HI) << 16
            else:
                computed &= 0xFFFF
            if computed != stored:
                at = block * superblock.block_size
                raise self.volume.mismatch("block bitmap", at, stored=stored, computed=computed)
        return bitmap

    def _initial_bitmap(self, group: int, raw: bytes, bits: int) -> bytes:
        """The bitmap of a group that holds nothing but its own structures, which was never written."""
        superblock = self._superblock
        if superblock.cluster_blocks > 1 or superblock.incompat & L.INCOMPAT_META_BG:
            return b"\xff" * (bits // 8)  # where the structures lie is not as simple there
        first = superblock.first_data_block + group * superblock.blocks_per_group
        used = 0
        if self.has_superblock(group):
            used = (1 << 1 + -(-superblock.groups_count // self._per_block) + superblock.reserved_gdt_blocks) - 1
        table_blocks = -(-superblock.inodes_per_group * superblock.inode_size // superblock.block_size)
        for low, high, count in (
            (L.GROUP_BLOCK_BITMAP_LO, L.GROUP_BLOCK_BITMAP_HI, 1),
            (L.GROUP_INODE_BITMAP_LO, L.GROUP_INODE_BITMAP_HI, 1),
            (L.GROUP_INODE_TABLE_LO, L.GROUP_INODE_TABLE_HI, table_blocks),
        ):
            bit = self._block_of(raw, low, high) - first
            if 0 <= bit < bits:
                used |= (1 << count) - 1 << bit
        return (used & (1 << bits) - 1).to_bytes(bits // 8, "little")

    def _block_of(self, raw: bytes, low: int, high: int) -> int:
        wide = self._superblock.incompat & L.INCOMPAT_64BIT
        return _u32(raw, low) | (_u32(raw, high) << 32 if wide else 0)

    def _descriptor_blocks(self) -> Iterator[Buffer]:
        size = self._superblock.desc_size
        for first in range(0, self._superblock.groups_count, self._per_block):
            count = min(self._per_block, self._superblock.groups_count - first)
            yield self._device.read(self._offset(first), count * size)

    def overhead_blocks(self, journal_blocks: int) -> int:
        """Blocks that hold the filesystem's own structures, as the kernel subtracts them in ``statfs``.

        With bigalloc the kernel trusts ``s_overhead_clusters``, which mke2fs records; where it is 0,
        this counts as if clusters were blocks, which the kernel refines by looking at each group.
        """
        superblock = self._superblock
        if superblock.cluster_blocks > 1 and superblock.overhead_clusters:
            return superblock.overhead_clusters * superblock.cluster_blocks
        inode_blocks = superblock.inodes_per_group * superblock.inode_size // superblock.block_size
        overhead = superblock.first_data_block + journal_blocks + superblock.groups_count * (inode_blocks + 2)
        copies = self._groups_with_superblock()
        overhead += len(copies) * (1 + superblock.reserved_gdt_blocks)
        descriptor_blocks = -(-superblock.groups_count // self._per_block)
        if not superblock.incompat & L.INCOMPAT_META_BG:
            return overhead + len(copies) * descriptor_blocks
        first_meta = min(superblock.first_meta_bg, descriptor_blocks)
        overhead += first_meta * sum(group < first_meta * self._per_block for group in copies)
        # Each meta block group has its block of descriptors in its first, second and last group.
        whole, rest = divmod(superblock.groups_count, self._per_block)
        in_rest = min(rest, 2) if whole >= first_meta else 0
        return overhead + len({0, 1, self._per_block - 1}) * max(0, whole - first_meta) + in_rest

    def _groups_with_superblock(self) -> Collection[int]:
        count = self._superblock.groups_count
        if self._superblock.compat & L.COMPAT_SPARSE_SUPER2:
            return {0, *(group for group in self._superblock.backup_groups if group < count)}
        if not self._superblock.ro_compat & L.RO_COMPAT_SPARSE_SUPER:
            return range(count)
        powers = {base**power for base in (3, 5, 7) for power in range(count.bit_length())}
        return {0, *(group for group in powers if group < count)}


def _u16(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 2], "little")


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _is_power(value: int, base: int) -> bool:
    while value % base == 0:
        value //= base
    return value == 1
