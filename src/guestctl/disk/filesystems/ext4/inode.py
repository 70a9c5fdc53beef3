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
from typing import Any, NamedTuple

from google_crc32c import extend

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.checksums import inode_prefix
from guestctl.disk.filesystems.ext4.groups import GroupTable
from guestctl.disk.stat import FileStat

# Tables are read in chunks this long: files made together lie together, and a chunk is small enough
# to be a slice of a mapped file.
_CHUNK_BYTES = 16 << 10
_MAX_CHUNKS = 512  # some 20 MiB
_MASK = 0xFFFFFFFF
_DIRECTORY, _REGULAR = 0x4, 0x8
_FILE_TYPES = frozenset((0x1, 0x2, _DIRECTORY, 0x6, _REGULAR, 0xA, 0xC))  # i_mode >> 12
_STRUCTURE = "inode"

_head = L.INODE_HEAD.unpack_from


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


class _Fields(NamedTuple):
    st_ino: int
    st_mode: int
    st_size: int
    flags: int
    generation: int
    raw: bytes  # the inode, zeros where i_extra_isize does not reach
    groups: GroupTable


class InodeStat(_Fields, FileStat):  # type: ignore[misc]  # FileStat's attributes can be set, these cannot
    """The attributes of an inode, those that are asked for less often decoded when they are."""

    __slots__ = ()

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
        if not self.groups.volume.superblock.ro_compat & L.RO_COMPAT_HUGE_FILE:
            return int(low)
        blocks = int(low | high << 32)
        return blocks << (self.groups.volume.block_shift - 9) if self.flags & L.FL_HUGE_FILE else blocks

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
        return int(low | high << 32 if self.groups.volume.superblock.incompat & L.INCOMPAT_64BIT else low)

    @property
    def offset(self) -> int:
        """Where the inode lies on the device, in bytes."""
        return self.groups.inode_offset(self.st_ino)


class InodeTable:
    """All inodes of a filesystem, by number.

    A walk looks at every inode of a table, so a chunk is decoded and verified in one tight loop when
    it is first touched; that is half the cost of doing it inode by inode.
    """

    def __init__(self, groups: GroupTable) -> None:
        superblock = groups.volume.superblock
        size = superblock.inode_size
        self._groups = groups
        self._seed = groups.volume.seed
        self._inode_size = size
        stride = max(size, L.DECODED_INODE_BYTES)
        # Values of i_extra_isize with which an inode is decoded as it stands, and has a wide checksum.
        self._plain_extra = set(range(L.EXTRA_ISIZE_WITH_CRTIME, size - L.GOOD_OLD_INODE_BYTES + 1, 4))
        if self._seed is None:
            self._plain_extra.add(0)
        # A power of two, so that finding an inode is a shift and a mask; within one group's table.
        self._shift = 0
        while size << (self._shift + 1) <= _CHUNK_BYTES and not superblock.inodes_per_group >> self._shift & 1:
            self._shift += 1
        self._index_mask = (1 << self._shift) - 1
        self._heads = struct.Struct(f"{L.INODE_HEAD.format}{stride - L.INODE_HEAD.size}x")
        self._rows = struct.Struct(f"{stride}s" * (1 << self._shift))
        self._stride = stride
        self._chunks: dict[int, list[InodeStat | None]] = {}
        self._sized_types = {_REGULAR, _DIRECTORY} if superblock.incompat & L.INCOMPAT_LARGEDIR else {_REGULAR}

    def stat(self, ino: int) -> InodeStat:
        """The inode `ino`, which a directory names. Raises `InvalidFormat` and `ChecksumMismatch`."""
        index = ino - 1
        try:
            inode = self._chunks[index >> self._shift][index & self._index_mask]
        except KeyError:
            inode = self._load(index >> self._shift)[index & self._index_mask]
        if inode is not None:
            return inode
        if ino < L.GOOD_OLD_FIRST_INODE and ino != L.ROOT_INODE:
            raise _bad(f"inode {ino} is reserved", self._groups.inode_offset(ino))
        return self.read(ino)

    def read(self, ino: int) -> InodeStat:
        """The inode `ino`, reserved ones too, with every check made by itself."""
        raw = self.raw(ino)
        padded = raw.ljust(self._stride, b"\0")
        mode, size, links, flags, generation, size_high, checksum, extra_isize, checksum_hi = _head(padded)
        offset = self._groups.inode_offset(ino)
        if self._seed is not None:
            wide = extra_isize >= L.EXTRA_ISIZE_WITH_CHECKSUM_HI
            stored = checksum | checksum_hi << 16 if wide else checksum
            computed = checksums.inode_checksum(self._seed, ino, generation, raw, wide=wide)
            if computed != stored:
                raise self._groups.volume.mismatch(_STRUCTURE, offset, stored=stored, computed=computed)
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
        if extra_isize:
            padded = padded[: L.GOOD_OLD_INODE_BYTES + extra_isize].ljust(self._stride, b"\0")
        return InodeStat(ino, mode, size, flags, generation, padded, self._groups)

    def raw(self, ino: int) -> bytes:
        """All bytes of the inode `ino` as they are stored."""
        return bytes(self._groups.volume.device.read(self._groups.inode_offset(ino), self._inode_size))

    def _load(self, number: int) -> list[InodeStat | None]:
        """A chunk of the tables; None for what is unused, damaged or unusual, and needs a closer look."""
        volume = self._groups.volume
        first = number << self._shift
        if not 0 <= first < volume.superblock.inodes_count:
            message = f"inode {first + 1} or later, but there are {volume.superblock.inodes_count}"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=L.SUPERBLOCK_OFFSET)
        data = bytes(volume.device.read(self._groups.inode_offset(first + 1), self._inode_size << self._shift))
        if self._stride > self._inode_size:
            rest = bytes(self._stride - self._inode_size)
            data = b"".join([data[at : at + self._inode_size] + rest for at in range(0, len(data), self._inode_size)])
        chunk = self._decode(first + 1, data)
        if number == 0:
            for reserved in range(1, L.GOOD_OLD_FIRST_INODE):
                if reserved != L.ROOT_INODE and reserved <= len(chunk):
                    chunk[reserved - 1] = None
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks = {}
        self._chunks[number] = chunk
        return chunk

    def _decode(self, first: int, data: bytes) -> list[InodeStat | None]:
        seed, groups, plain_extra = self._seed, self._groups, self._plain_extra
        new = tuple.__new__
        chunk: list[InodeStat | None] = []
        for ino, (row, head) in enumerate(
            zip(self._blank_rows(data), self._heads.iter_unpack(data), strict=True), first
        ):
            mode, size, links, flags, generation, size_high, checksum, extra_isize, checksum_hi = head
            if (
                links
                and not size_high
                and mode >> 12 in _FILE_TYPES
                and extra_isize in plain_extra
                and (
                    seed is None
                    or extend(seed, inode_prefix(ino, generation) + row) + (checksum | checksum_hi << 16) == _MASK
                )
            ):
                chunk.append(new(InodeStat, (ino, mode, size, flags, generation, row, groups)))
            else:
                chunk.append(None)
        return chunk

    def _blank_rows(self, data: bytes) -> tuple[bytes, ...]:
        """The inodes of a chunk; where checksums are verified, with zeros in place of them."""
        if self._seed is not None:
            blank = bytearray(data)
            zeros = bytes(1 << self._shift)
            for at in (L.I_CHECKSUM_LO, L.I_CHECKSUM_LO + 1, L.I_CHECKSUM_HI, L.I_CHECKSUM_HI + 1):
                blank[at :: self._stride] = zeros
            data = bytes(blank)
        return self._rows.unpack(data)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset)
