"""Inodes (chapter "On-disk Inode").

Inodes of versions 1 and 2 (in version 4 filesystems) and 3 (in version 5) of 256 to 2048 bytes are
read, with both kinds of time stamps and of extent counters. An inode number says where the inode
lies, so that no inode B+tree is needed; a version 5 inode also carries its number, and must be
the one asked for. An inode that is not in use, such as one in a sparse part of a chunk, is damage:
whoever refers to one refers to a deleted file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from typing import Any

from google_crc32c import value

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.superblock import Volume
from guestctl.disk.stat import FileStat

# Inodes are read in chunks this long: files made together lie together, and a chunk is small enough
# to be a slice of a mapped file.
_CHUNK_BYTES = 32 << 10
_MAX_CHUNKS = 256  # 8 MiB
_CHARACTER, _BLOCK = 0x2, 0x6
_FILE_TYPES = (0x1, _CHARACTER, 0x4, _BLOCK, 0x8, 0xA, 0xC)  # di_mode >> 12
_MAGIC = int.from_bytes(L.INODE_MAGIC, "big") << 4
_MAGIC_AND_TYPES = frozenset(_MAGIC | kind for kind in _FILE_TYPES)
_FORMATS = (L.FMT_DEV, L.FMT_LOCAL, L.FMT_EXTENTS, L.FMT_BTREE)
_VERSIONS_V4 = frozenset(version << 8 | form for version in (1, 2) for form in _FORMATS)
_VERSIONS_V5 = frozenset(3 << 8 | form for form in _FORMATS)
_BIGTIME_EPOCH_NS = L.BIGTIME_EPOCH * 1_000_000_000
_STRUCTURE = "inode"

_head = L.INODE_HEAD.unpack_from
_flags2 = L.INODE_FLAGS2.unpack_from


def _field(layout: struct.Struct) -> Any:
    """One field, decoded when it is asked for; untyped, since `FileStat` declares its type."""
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        return unpack(self.data, self.at)[0]

    return property(decode)


def _time(layout: struct.Struct) -> Any:
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        time, flags2 = unpack(self.data, self.at)
        if flags2 & L.DIFLAG2_BIGTIME and self.version == 3:
            return time - _BIGTIME_EPOCH_NS
        return _nanoseconds(time, False)

    return property(decode)


def _nanoseconds(time: int, big: bool) -> int:
    """Section "Timestamps": two signed 32-bit numbers, or with bigtime nanoseconds since December 1901."""
    if big:
        return time - _BIGTIME_EPOCH_NS
    seconds = time >> 32
    return (seconds - (seconds >> 31 << 32)) * 1_000_000_000 + (time & 0xFFFFFFFF)


class InodeStat(FileStat):
    """The attributes of an inode, which is at `at` in `data`, decoded as they are asked for."""

    __slots__ = ("_volume", "at", "data", "form", "st_ino", "st_mode", "st_size", "version")

    def __init__(
        self, ino: int, mode: int, version_and_format: int, size: int, data: bytes, at: int, volume: Volume
    ) -> None:
        self.st_ino = ino
        self.st_mode = mode
        self.st_size = size
        self.version = version_and_format >> 8
        self.form = version_and_format & 0xFF  # di_format
        self.data = data
        self.at = at
        self._volume = volume

    st_uid: int = _field(L.INODE_UID)
    st_gid: int = _field(L.INODE_GID)
    st_atime_ns: int = _time(L.INODE_ATIME)
    st_mtime_ns: int = _time(L.INODE_MTIME)
    st_ctime_ns: int = _time(L.INODE_CTIME)
    _crtime: int = _field(L.INODE_CRTIME)
    _nlink: int = _field(L.INODE_NLINK)
    _onlink: int = _field(L.INODE_ONLINK)
    _nblocks: int = _field(L.INODE_NBLOCKS)
    flags: int = _field(L.INODE_FLAGS)
    forkoff: int = _field(L.INODE_FORKS)

    @property
    def flags2(self) -> int:
        return int(_flags2(self.data, self.at)[0]) if self.version == 3 else 0

    @property
    def st_nlink(self) -> int:  # type: ignore[override]
        return self._nlink if self.version > 1 else self._onlink

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        return self._nblocks << self._volume.block_log - 9

    @property
    def st_birthtime_ns(self) -> int | None:  # type: ignore[override]
        if self.version < 3:
            return None
        return _nanoseconds(self._crtime, bool(self.flags2 & L.DIFLAG2_BIGTIME))

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        if self.st_mode >> 12 not in (_CHARACTER, _BLOCK):
            return 0
        device = int.from_bytes(self.data_fork[:4], "big")
        return os.makedev(device >> 18 & 0x3FFF, device & 0x3FFFF)

    @property
    def literal(self) -> int:
        """Where the forks begin, from the start of the inode."""
        return L.LITERAL_V3 if self.version == 3 else L.LITERAL_V2

    @property
    def data_fork(self) -> bytes:
        end = self.literal + self.forkoff * 8 if self.forkoff else self._volume.inode_size
        return self.data[self.at + self.literal : self.at + min(end, self._volume.inode_size)]

    @property
    def attribute_fork(self) -> bytes:
        return self.data[self.at + self.literal + self.forkoff * 8 : self.at + self._volume.inode_size]

    @property
    def attribute_format(self) -> int:
        return int(L.INODE_FORKS.unpack_from(self.data, self.at)[1])

    @property
    def extent_counts(self) -> tuple[int, int]:
        """How many extents the data fork and the attribute fork have."""
        if self.flags2 & L.DIFLAG2_NREXT64:
            data, attribute = L.INODE_BIG_NEXTENTS.unpack_from(self.data, self.at)
        else:
            data, attribute = L.INODE_NEXTENTS.unpack_from(self.data, self.at)
        return data, attribute

    @property
    def offset(self) -> int:
        """Where the inode lies on the device, in bytes."""
        return inode_offset(self._volume, self.st_ino)


def inode_offset(volume: Volume, ino: int) -> int:
    """Where the inode `ino` lies on the device, in bytes; -1 where there is no room for it."""
    superblock = volume.superblock
    block = volume.offset(ino >> superblock.inodes_per_block_log)
    if block < 0:
        return -1
    return block + ((ino & (1 << superblock.inodes_per_block_log) - 1) << superblock.inode_log)


class InodeTable:
    """All inodes of a filesystem, by number."""

    def __init__(self, volume: Volume) -> None:
        superblock = volume.superblock
        self._volume = volume
        self._inode_size = 1 << superblock.inode_log
        self._versions = _VERSIONS_V5 if superblock.v5 else _VERSIONS_V4
        # A power of two, so that finding an inode is a shift and a mask.
        self._shift = (_CHUNK_BYTES >> superblock.inode_log).bit_length() - 1
        count = 1 << self._shift
        self._index_mask = count - 1
        self._count = count
        self._rows = struct.Struct(f"{self._inode_size}s" * count)
        self._checksums = struct.Struct("<" + f"{L.DI_CRC}xI{self._inode_size - L.DI_CRC - 4}x" * count)
        rest = self._inode_size - L.DI_UUID - 16
        self._owners = struct.Struct(">" + f"{L.DI_INO}xQ16s{rest}x" * count)
        self._chunks: dict[int, tuple[bytes, Collection[int]]] = {}

    def stat(self, ino: int) -> InodeStat:
        """The inode `ino`, which a directory names. Raises `InvalidFormat` and `ChecksumMismatch`."""
        try:
            data, damaged = self._chunks[ino >> self._shift]
        except KeyError:
            data, damaged = self._load(ino)
        at = (ino & self._index_mask) * self._inode_size
        magic_and_mode, version_and_format, size = _head(data, at)
        if (
            magic_and_mode >> 12 not in _MAGIC_AND_TYPES
            or version_and_format not in self._versions
            or size < 0
            or ino in damaged
        ):
            raise self._damage(ino, data, at)
        return InodeStat(ino, magic_and_mode & 0xFFFF, version_and_format, size, data, at, self._volume)

    def _damage(self, ino: int, data: bytes, at: int) -> InvalidFormat:
        """What is wrong with an inode."""
        offset = inode_offset(self._volume, ino)
        if offset < 0:
            return _bad(f"inode {ino} is outside the filesystem", 0)
        raw = data[at : at + self._inode_size]
        magic_and_mode, version_and_format, size = _head(raw)
        if raw[:2] != L.INODE_MAGIC:
            return _bad(f"di_magic is {raw[:2]!r}, expected {L.INODE_MAGIC!r}", offset, L.INODE_MAGIC, raw[:2])
        if version_and_format not in self._versions:
            version, form = divmod(version_and_format, 256)
            return _bad(f"di_version is {version}, di_format {form}", offset, actual=version_and_format)
        if self._volume.verify:
            try:
                self._volume.check_crc(raw, L.DI_CRC, _STRUCTURE, offset)
            except InvalidFormat as error:
                return error
            number = int.from_bytes(raw[L.DI_INO : L.DI_INO + 8], "big")
            if number != ino:
                return _bad(f"di_ino is {number}", offset, ino, number)
            if raw[L.DI_UUID : L.DI_UUID + 16] != self._volume.superblock.uuid:
                return _bad("belongs to another filesystem", offset)
        mode = magic_and_mode & 0xFFFF
        if not mode:
            return _bad("a deleted file: di_mode is 0", offset)
        if mode >> 12 not in _FILE_TYPES:
            return _bad(f"di_mode is {mode:#o}", offset, actual=mode)
        return _bad(f"di_size is {size}", offset, actual=size)

    def _load(self, ino: int) -> tuple[bytes, Collection[int]]:
        """The chunk with the inode `ino`, and the inodes in it that need a closer look."""
        if ino < 0 or inode_offset(self._volume, ino) < 0:
            raise _bad(f"inode {ino} is outside the filesystem", 0)
        first = ino & ~self._index_mask
        superblock = self._volume.superblock
        group, block = divmod(first >> superblock.inodes_per_block_log, 1 << superblock.ag_block_log)
        start = (group * superblock.ag_blocks + block) << self._volume.block_log
        start += (first & (1 << superblock.inodes_per_block_log) - 1) << superblock.inode_log
        end = (group * superblock.ag_blocks + self._volume.ag_blocks(group)) << self._volume.block_log
        length = self._inode_size << self._shift
        available = max(0, min(length, end - start, self._volume.device.size - start))
        data = bytes(self._volume.device.read(start, available)).ljust(length, b"\0")
        damaged = self._damaged(first, data) if self._volume.verify else ()
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks = {}
        self._chunks[ino >> self._shift] = data, damaged
        return data, damaged

    def _damaged(self, first: int, data: bytes) -> set[int]:
        """The inodes whose checksum, number or filesystem is wrong.

        A walk looks at every inode of a chunk, and verifying them one by one would be a third of its
        time. So the fields are gathered for all inodes of the chunk by slices with a stride.
        """
        count, size, uuid = self._count, self._inode_size, self._volume.superblock.uuid
        blank = bytearray(data)
        for byte in range(L.DI_CRC, L.DI_CRC + 4):
            blank[byte::size] = bytes(count)
        computed = tuple(map(value, self._rows.unpack(blank)))
        expected = self._checksums.unpack(data)
        found = self._owners.unpack(data)
        wanted = range(first, first + count)
        if computed == expected and found[::2] == tuple(wanted) and found[1::2] == (uuid,) * count:
            return set()
        columns = zip(wanted, found[::2], found[1::2], computed, expected, strict=True)
        return {ino for ino, number, owner, one, other in columns if number != ino or owner != uuid or one != other}


def _bad(message: str, offset: int, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset, expected=expected, actual=actual)
