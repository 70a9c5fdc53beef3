"""Inodes (section "Index Nodes" of the kernel's ext4 documentation).

Inodes of 128 bytes up to a block are read, with the fields that ``i_extra_isize`` covers:
nanoseconds, seconds of 34 bits and creation times. As the kernel does, an ``i_extra_isize`` of 0
in a large inode counts as that of today, and an inode without links or with an unknown type is
damage: whoever refers to one refers to a deleted file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection
from itertools import repeat
from typing import Any

from google_crc32c import extend

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.groups import GroupTable
from guestctl.disk.stat import FileStat

# Tables are read in chunks this long: files made together lie together, and a chunk is small enough
# to be a slice of a mapped file.
_CHUNK_BYTES = 16 << 10
_MAX_CHUNKS = 512  # 8 MiB
_DIRECTORY, _REGULAR = 0x4, 0x8
_FILE_TYPES = frozenset((0x1, 0x2, _DIRECTORY, 0x6, _REGULAR, 0xA, 0xC))  # i_mode >> 12
_STRUCTURE = "inode"

_head = L.INODE_HEAD.unpack_from
# Each byte with its bits inverted: turns stored checksums into the states they were made from.
_INVERTED = bytes(range(255, -1, -1))


def _field(layout: struct.Struct) -> Any:
    """One field, decoded when it is asked for; untyped, since `FileStat` declares its type."""
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        return unpack(self.data, self.at)[0]

    return property(decode)


def _pair(layout: struct.Struct, join: Callable[[int, int], int]) -> Any:
    """A field in two parts."""
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> int:
        return join(*unpack(self.data, self.at))

    return property(decode)


def _time(layout: struct.Struct) -> Any:
    """Section "Inode Timestamps": two bits of the second word extend the seconds, thirty are nanoseconds."""
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        seconds, extra = unpack(self.data, self.at)
        return (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)

    return property(decode)


def _with_high_half(low: int, high: int) -> int:
    return low | high << 16


class InodeStat(FileStat):
    """The attributes of an inode, decoded as they are asked for.

    The inode is at `at` in `data`, with zeros where ``i_extra_isize`` does not reach.
    """

    __slots__ = ("_groups", "at", "data", "st_ino", "st_mode", "st_size")

    def __init__(self, ino: int, mode: int, size: int, data: bytes, at: int, groups: GroupTable) -> None:
        self.st_ino = ino
        self.st_mode = mode
        self.st_size = size
        self.data = data
        self.at = at
        self._groups = groups

    st_nlink: int = _field(L.INODE_LINKS)
    st_uid: int = _pair(L.INODE_UID, _with_high_half)
    st_gid: int = _pair(L.INODE_GID, _with_high_half)
    st_atime_ns: int = _time(L.INODE_ATIME)
    st_mtime_ns: int = _time(L.INODE_MTIME)
    st_ctime_ns: int = _time(L.INODE_CTIME)
    _crtime_ns: int = _time(L.INODE_CRTIME)
    flags: int = _field(L.INODE_FLAGS)
    generation: int = _field(L.INODE_GENERATION)
    extra_isize: int = _field(L.INODE_EXTRA_ISIZE)

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        low, high = L.INODE_BLOCKS.unpack_from(self.data, self.at)
        blocks = int(low)
        if self._groups.volume.superblock.ro_compat & L.RO_COMPAT_HUGE_FILE:
            blocks |= high << 32
            if self.flags & L.FL_HUGE_FILE:
                blocks <<= self._groups.volume.block_shift - 9
        if self.flags & L.FL_INLINE_DATA and self.st_mode >> 12 == _REGULAR:
            # The kernel lets no file with content look empty to tools that skip holes.
            blocks += (self.st_size + 511) >> 9
        return blocks

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        if self.st_mode >> 12 not in (0x2, 0x6):
            return 0
        old, new = L.INODE_DEVICE.unpack_from(self.data, self.at)
        if old:
            return os.makedev(old >> 8 & 0xFF, old & 0xFF)
        return os.makedev((new & 0xFFF00) >> 8, new & 0xFF | (new >> 12 & 0xFFF00))

    @property
    def st_birthtime_ns(self) -> int | None:  # type: ignore[override]
        return self._crtime_ns if self.extra_isize >= L.EXTRA_ISIZE_WITH_CRTIME else None

    @property
    def file_acl(self) -> int:
        """The number of the block with extended attributes, or 0."""
        low, high = L.INODE_FILE_ACL.unpack_from(self.data, self.at)
        return int(low | high << 32 if self._groups.volume.superblock.incompat & L.INCOMPAT_64BIT else low)

    @property
    def i_block(self) -> bytes:
        return self.data[self.at + L.I_BLOCK_OFFSET : self.at + L.I_BLOCK_END]

    @property
    def may_have_xattrs(self) -> bool:
        """Whether extended attributes are worth looking for."""
        if self.file_acl or len(self.data) <= self._groups.volume.superblock.inode_size:
            return True  # read by itself, perhaps without what follows its fields
        start = self.at + L.GOOD_OLD_INODE_BYTES + self.extra_isize
        return self.data[start : start + 4] == L.XATTR_MAGIC

    @property
    def offset(self) -> int:
        """Where the inode lies on the device, in bytes."""
        return self._groups.inode_offset(self.st_ino)


class InodeTable:
    """All inodes of a filesystem, by number."""

    def __init__(self, groups: GroupTable) -> None:
        superblock = groups.volume.superblock
        size = superblock.inode_size
        self._groups = groups
        self._seed = groups.volume.seed
        self._inode_size = size
        self._stride = max(size, L.DECODED_INODE_BYTES)
        # Values of i_extra_isize with which an inode is decoded as it stands.
        self._plain_extra = frozenset((0, *range(L.EXTRA_ISIZE_WITH_CRTIME, size - L.GOOD_OLD_INODE_BYTES + 1, 4)))
        # A power of two, so that finding an inode is a shift and a mask; within one group's table.
        self._shift = 0
        while size << (self._shift + 1) <= _CHUNK_BYTES and not superblock.inodes_per_group >> self._shift & 1:
            self._shift += 1
        count = 1 << self._shift
        self._index_mask = count - 1
        self._words = struct.Struct(f"<{count}I")
        self._pairs = struct.Struct("8s" * count)
        self._rows = struct.Struct(f"{self._stride}s" * count)
        self._chunks: dict[int, tuple[bytes, Collection[int]]] = {}
        self._sized_types = {_REGULAR, _DIRECTORY} if superblock.incompat & L.INCOMPAT_LARGEDIR else {_REGULAR}

    def stat(self, ino: int) -> InodeStat:
        """The inode `ino`, which a directory names. Raises `InvalidFormat` and `ChecksumMismatch`."""
        index = ino - 1
        try:
            data, damaged = self._chunks[index >> self._shift]
        except KeyError:
            data, damaged = self._load(index >> self._shift)
        at = (index & self._index_mask) * self._stride
        mode, size, links, size_high, extra_isize = _head(data, at)
        if (
            size_high
            or not links
            or mode >> 12 not in _FILE_TYPES
            or extra_isize not in self._plain_extra
            or ino in damaged
        ):
            return self._unusual(ino)
        return InodeStat(ino, mode, size, data, at, self._groups)

    def _unusual(self, ino: int) -> InodeStat:
        if ino < L.GOOD_OLD_FIRST_INODE and ino != L.ROOT_INODE:
            raise _bad(f"inode {ino} is reserved", self._groups.inode_offset(ino))
        return self.read(ino)

    def read(self, ino: int) -> InodeStat:
        """The inode `ino`, reserved ones too, with every check made by itself."""
        raw = self.raw(ino)
        offset = self._groups.inode_offset(ino)
        data = raw.ljust(self._stride, b"\0")
        if self._seed is not None:
            self._check_checksum(self._seed, ino, raw, data, offset)
        mode, size, links, size_high, extra_isize = _head(data)
        if not links:
            raise _bad("a deleted file: i_links_count is 0", offset)
        if mode >> 12 not in _FILE_TYPES:
            raise _bad(f"i_mode is {mode:#o}", offset)
        if extra_isize > max(0, self._inode_size - L.GOOD_OLD_INODE_BYTES) or extra_isize & 3:
            raise _bad(f"i_extra_isize is {extra_isize}", offset)
        if mode >> 12 in self._sized_types:
            if size_high >> 31:
                raise _bad(f"i_size_high is {size_high:#x}", offset)
            size |= size_high << 32
        if 0 < extra_isize < L.EXTRA_ISIZE_WITH_CRTIME:
            data = data[: L.GOOD_OLD_INODE_BYTES + extra_isize].ljust(self._stride, b"\0")
        return InodeStat(ino, mode, size, data, 0, self._groups)

    def _check_checksum(self, seed: int, ino: int, raw: bytes, data: bytes, offset: int) -> None:
        stored, extra_isize, checksum_hi = L.INODE_CHECKSUM.unpack_from(data)
        (generation,) = L.INODE_GENERATION.unpack_from(data)
        wide = extra_isize >= L.EXTRA_ISIZE_WITH_CHECKSUM_HI
        if wide:
            stored |= checksum_hi << 16
        computed = checksums.inode_checksum(seed, ino, generation, raw, wide=wide)
        if computed != stored:
            raise self._groups.volume.mismatch(_STRUCTURE, offset, stored=stored, computed=computed)

    def raw(self, ino: int) -> bytes:
        """All bytes of the inode `ino` as they are stored."""
        return bytes(self._groups.volume.device.read(self._groups.inode_offset(ino), self._inode_size))

    def _load(self, number: int) -> tuple[bytes, Collection[int]]:
        """A chunk of the tables, and the inodes in it that need a closer look."""
        volume = self._groups.volume
        first = number << self._shift
        if not 0 <= first < volume.superblock.inodes_count:
            message = f"inode {first + 1} or later, but there are {volume.superblock.inodes_count}"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=L.SUPERBLOCK_OFFSET)
        data = bytes(volume.device.read(self._groups.inode_offset(first + 1), self._inode_size << self._shift))
        if self._stride > self._inode_size:
            rest = bytes(self._stride - self._inode_size)
            data = b"".join([data[at : at + self._inode_size] + rest for at in range(0, len(data), self._inode_size)])
        damaged: set[int] = set() if self._seed is None else self._damaged(self._seed, first + 1, data)
        if not number:
            damaged.update(range(1, L.ROOT_INODE), range(L.ROOT_INODE + 1, L.GOOD_OLD_FIRST_INODE))
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks = {}
        self._chunks[number] = data, damaged
        return data, damaged

    def _damaged(self, seed: int, first: int, data: bytes) -> set[int]:
        """The inodes whose checksum of 32 bits is wrong, or that have none.

        A walk looks at every inode of a table, and verifying them one by one would be a third of its
        time. So the fields are gathered for all inodes of the chunk by slices with a stride.
        """
        count, stride = 1 << self._shift, self._stride
        prefixes = bytearray(8 * count)
        numbers = self._words.pack(*range(first, first + count))
        stored = bytearray(4 * count)
        blank = bytearray(data)
        for byte in range(4):
            prefixes[byte::8] = numbers[byte::4]
            prefixes[4 + byte :: 8] = data[L.I_GENERATION + byte :: stride]
            at = (L.I_CHECKSUM_LO, L.I_CHECKSUM_LO + 1, L.I_CHECKSUM_HI, L.I_CHECKSUM_HI + 1)[byte]
            stored[byte::4] = data[at::stride]
            blank[at::stride] = bytes(count)
        states = map(extend, repeat(seed), self._pairs.unpack(prefixes))
        computed = tuple(map(extend, states, self._rows.unpack(blank)))
        expected = self._words.unpack(stored.translate(_INVERTED))
        if computed == expected:
            return set()
        return {
            ino for ino, one, other in zip(range(first, first + count), computed, expected, strict=True) if one != other
        }


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset)
