"""Inodes (section "Index Nodes" of the kernel's ext4 documentation).

Inodes of 128 bytes up to a block are read, with the fields that ``i_extra_isize`` covers:
nanoseconds, seconds of 34 bits and creation times. As the kernel does, an ``i_extra_isize`` of 0
in a large inode counts as that of today, and an inode without links or with an unknown type is
damage: whoever refers to one refers to a deleted file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from google_crc32c import extend

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.groups import GroupTable
from guestctl.disk.filesystems.ext4.superblock import Volume
from guestctl.disk.stat import FileStat

# Tables are read in chunks this long: files made together lie together, and a chunk is small enough
# to be a slice of a mapped file.
_CHUNK_BYTES = 16 << 10
_MAX_CHUNKS = 512  # 16 MiB with the copies that have no checksums
_MASK = 0xFFFFFFFF
_DIRECTORY, _REGULAR = 0x4, 0x8
_FILE_TYPES = frozenset((0x1, 0x2, _DIRECTORY, 0x6, _REGULAR, 0xA, 0xC))  # i_mode >> 12
_STRUCTURE = "inode"

_head = L.INODE_HEAD.unpack_from
_prefix = struct.Struct("<II").pack


def _field(decode: Callable[[InodeStat], int]) -> Any:
    """A field that is decoded when it is asked for; untyped, since `FileStat` declares its type."""
    return property(decode)


def _time(layout: struct.Struct) -> Any:
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> int:
        seconds, extra = unpack(self.raw)
        # "Inode Timestamps": two bits extend the seconds, thirty are nanoseconds.
        nanoseconds: int = (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)
        return nanoseconds

    return property(decode)


class InodeStat(FileStat):
    """The attributes of an inode. ``raw`` is the inode, zeros where ``i_extra_isize`` does not reach."""

    __slots__ = ("_table", "flags", "generation", "raw", "st_ino", "st_mode", "st_size")

    def __init__(
        self, ino: int, mode: int, size: int, flags: int, generation: int, raw: bytes, table: InodeTable
    ) -> None:
        self.st_ino = ino
        self.st_mode = mode
        self.st_size = size
        self.flags = flags
        self.generation = generation
        self.raw = raw
        self._table = table

    st_atime_ns: int = _time(L.INODE_ATIME)
    st_mtime_ns: int = _time(L.INODE_MTIME)
    st_ctime_ns: int = _time(L.INODE_CTIME)

    @_field
    def st_nlink(self) -> int:
        (links,) = L.INODE_LINKS.unpack_from(self.raw)
        return int(links)

    @_field
    def st_uid(self) -> int:
        low, _, high, _ = L.INODE_OWNER.unpack_from(self.raw)
        return int(low | high << 16)

    @_field
    def st_gid(self) -> int:
        _, low, _, high = L.INODE_OWNER.unpack_from(self.raw)
        return int(low | high << 16)

    @_field
    def st_blocks(self) -> int:
        low, high = L.INODE_BLOCKS.unpack_from(self.raw)
        if not self._table.volume.superblock.ro_compat & L.RO_COMPAT_HUGE_FILE:
            return int(low)
        blocks = int(low | high << 32)
        return blocks << (self._table.volume.block_shift - 9) if self.flags & L.FL_HUGE_FILE else blocks

    @_field
    def st_rdev(self) -> int:
        if self.st_mode >> 12 not in (0x2, 0x6):
            return 0
        old, new = L.INODE_DEVICE.unpack_from(self.raw)
        if old:
            return os.makedev(old >> 8 & 0xFF, old & 0xFF)
        return os.makedev((new & 0xFFF00) >> 8, new & 0xFF | (new >> 12 & 0xFFF00))

    @property
    def st_birthtime_ns(self) -> int | None:  # type: ignore[override]
        extra_isize = int.from_bytes(self.raw[L.I_EXTRA_ISIZE : L.I_EXTRA_ISIZE + 2], "little")
        if extra_isize < L.EXTRA_ISIZE_WITH_CRTIME:
            return None
        seconds, extra = L.INODE_CRTIME.unpack_from(self.raw)
        nanoseconds: int = (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)
        return nanoseconds

    @property
    def file_acl(self) -> int:
        """The number of the block with extended attributes, or 0."""
        low, high = L.INODE_FILE_ACL.unpack_from(self.raw)
        return int(low | high << 32 if self._table.volume.superblock.incompat & L.INCOMPAT_64BIT else low)

    @property
    def offset(self) -> int:
        """Where the inode lies on the device, in bytes."""
        return self._table.offset(self.st_ino)


class InodeTable:
    """All inodes of a filesystem, by number."""

    def __init__(self, volume: Volume, groups: GroupTable) -> None:
        superblock = volume.superblock
        size = superblock.inode_size
        self.volume = volume
        self._groups = groups
        self._seed = volume.seed
        self._inode_size = size
        self._stride = max(size, L.DECODED_INODE_BYTES)
        # Values of i_extra_isize with which an inode is decoded as it stands.
        self._plain_extra = frozenset((0, *range(L.EXTRA_ISIZE_WITH_CRTIME, size - L.GOOD_OLD_INODE_BYTES + 1, 4)))
        # A power of two, so that finding an inode is a shift and a mask; within one group's table.
        self._shift = 0
        while size << (self._shift + 1) <= _CHUNK_BYTES and not superblock.inodes_per_group >> self._shift & 1:
            self._shift += 1
        self._index_mask = (1 << self._shift) - 1
        self._chunks: dict[int, tuple[bytes, bytes]] = {}
        self._sized_types = {_REGULAR, _DIRECTORY} if superblock.incompat & L.INCOMPAT_LARGEDIR else {_REGULAR}

    def stat(self, ino: int, *, special: bool = False) -> InodeStat:
        """The inode `ino`. One that no directory may name is damage unless `special` is set.

        Raises `InvalidFormat` and `ChecksumMismatch`.
        """
        index = ino - 1
        try:
            raw, blank = self._chunks[index >> self._shift]
        except KeyError:
            raw, blank = self._load(index >> self._shift)
        at = (index & self._index_mask) * self._stride
        mode, size, links, flags, generation, size_high, checksum, extra_isize, checksum_hi = _head(raw, at)
        body = blank[at : at + self._stride]
        if self._seed is not None:
            if extra_isize < L.EXTRA_ISIZE_WITH_CHECKSUM_HI:
                # No room for i_checksum_hi: 16 bits are kept.
                self._check_checksum(ino, generation, checksum, wide=False)
            elif extend(self._seed, _prefix(ino, generation) + body) + (checksum | checksum_hi << 16) != _MASK:
                self._check_checksum(ino, generation, checksum | checksum_hi << 16, wide=True)
        kind = mode >> 12
        if not links or kind not in _FILE_TYPES:
            raise self._bad(ino, f"i_mode is {mode:#o}" if links else "a deleted file: i_links_count is 0")
        if ino < L.GOOD_OLD_FIRST_INODE and ino != L.ROOT_INODE and not special:
            raise self._bad(ino, f"inode {ino} is reserved")
        if extra_isize not in self._plain_extra:
            body = self._trimmed(ino, body, extra_isize)
        if size_high and kind in self._sized_types:
            size |= size_high << 32
            if size >> 63:
                raise self._bad(ino, f"size of {size} bytes")
        return InodeStat(ino, mode, size, flags, generation, body, self)

    def raw(self, ino: int) -> bytes:
        """All bytes of the inode `ino` as they are stored."""
        return bytes(self.volume.device.read(self.offset(ino), self._inode_size))

    def offset(self, ino: int) -> int:
        """Where the inode `ino` lies on the device, in bytes."""
        group, index = divmod(ino - 1, self.volume.superblock.inodes_per_group)
        return self._groups.inode_table(group) + index * self._inode_size

    def _load(self, number: int) -> tuple[bytes, bytes]:
        """A chunk of the tables as it is stored, and with zeros for the checksums."""
        first = number << self._shift
        if not 0 <= first < self.volume.superblock.inodes_count:
            raise InvalidFormat(
                f"there are {self.volume.superblock.inodes_count} inodes",
                structure=_STRUCTURE,
                offset=L.SUPERBLOCK_OFFSET,
                actual=first + 1,
            )
        raw = bytes(self.volume.device.read(self.offset(first + 1), self._inode_size << self._shift))
        if self._stride > self._inode_size:
            rest = bytes(self._stride - self._inode_size)
            raw = b"".join([raw[at : at + self._inode_size] + rest for at in range(0, len(raw), self._inode_size)])
        blank = raw
        if self._seed is not None:
            cleared = bytearray(raw)
            zeros = bytes(1 << self._shift)
            for at in (L.I_CHECKSUM_LO, L.I_CHECKSUM_LO + 1, L.I_CHECKSUM_HI, L.I_CHECKSUM_HI + 1):
                cleared[at :: self._stride] = zeros
            blank = bytes(cleared)
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks = {}
        self._chunks[number] = raw, blank
        return raw, blank

    def _check_checksum(self, ino: int, generation: int, stored: int, *, wide: bool) -> None:
        seed = self.volume.superblock.seed
        computed = checksums.inode_checksum(seed, ino, generation, self.raw(ino), wide=wide)
        if computed != stored:
            raise self.volume.mismatch(_STRUCTURE, self.offset(ino), stored=stored, computed=computed)

    def _trimmed(self, ino: int, body: bytes, extra_isize: int) -> bytes:
        end = L.GOOD_OLD_INODE_BYTES + extra_isize
        if end > self._inode_size or extra_isize & 3:
            raise self._bad(ino, f"i_extra_isize is {extra_isize}")
        return body[:end].ljust(self._stride, b"\0")

    def _bad(self, ino: int, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure=_STRUCTURE, offset=self.offset(ino))
