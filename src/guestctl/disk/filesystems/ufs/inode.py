"""Inodes (``struct ufs1_dinode``, ``struct ufs2_dinode``)."""

from __future__ import annotations

import os
import struct
from typing import Any

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ufs import layout as L
from guestctl.disk.filesystems.ufs.superblock import Superblock
from guestctl.disk.stat import FileStat

_CHUNK_BYTES = 16 << 10
_MAX_CHUNKS = 512  # 8 MiB
_CHARACTER, _BLOCK = 0x2, 0x6
_FILE_TYPES = frozenset((0x1, _CHARACTER, 0x4, _BLOCK, 0x8, 0xA, 0xC))  # di_mode >> 12
_NANOSECONDS = 1_000_000_000
_STRUCTURE = "inode"


class Layout:
    """How the inodes of one version and byte order are decoded."""

    def __init__(self, superblock: Superblock) -> None:
        order = superblock.order
        self.size = superblock.inode_size
        # di_mode, di_nlink, di_size
        self.head = struct.Struct(f"{order}HH4xQ" if superblock.version == 1 else f"{order}HH12xQ").unpack_from
        if superblock.version == 1:
            self.owner = struct.Struct(f"{order}112xII" if superblock.typed_entries else f"{order}4xHH").unpack_from
            self.blocks = struct.Struct(f"{order}104xI").unpack_from
            self.times = struct.Struct(f"{order}16x6i").unpack_from
            self.addresses = struct.Struct(f"{order}{L.UFS1_BLOCKS}x{L.DIRECT_BLOCKS + L.INDIRECT_LEVELS}I").unpack_from
        else:
            self.owner = struct.Struct(f"{order}4xII").unpack_from
            self.blocks = struct.Struct(f"{order}24xQ").unpack_from
            self.times = struct.Struct(f"{order}32x4q4i").unpack_from
            self.addresses = struct.Struct(f"{order}{L.UFS2_BLOCKS}x{L.DIRECT_BLOCKS + L.INDIRECT_LEVELS}Q").unpack_from
        self.addresses_at = L.UFS1_BLOCKS if superblock.version == 1 else L.UFS2_BLOCKS
        self.ufs2 = superblock.version == 2


class InodeStat(FileStat):
    """The attributes of an inode, which is at `at` in `data`, decoded as they are asked for."""

    __slots__ = ("_layout", "at", "data", "offset", "st_ino", "st_mode", "st_nlink", "st_size")

    def __init__(self, ino: int, head: tuple[int, int, int], data: bytes, at: int, offset: int, layout: Layout) -> None:
        self.st_ino = ino
        self.st_mode, self.st_nlink, self.st_size = head
        self.data = data
        self.at = at
        self.offset = offset  # on the device, in bytes
        self._layout = layout

    @property
    def st_uid(self) -> int:  # type: ignore[override]
        return int(self._layout.owner(self.data, self.at)[0])

    @property
    def st_gid(self) -> int:  # type: ignore[override]
        return int(self._layout.owner(self.data, self.at)[1])

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        return int(self._layout.blocks(self.data, self.at)[0])

    def _time(self, seconds: int, nanoseconds: int) -> int:
        times: tuple[int, ...] = self._layout.times(self.data, self.at)
        return times[seconds] * _NANOSECONDS + times[nanoseconds]

    # UFS1 has pairs of seconds and nanoseconds; UFS2 all seconds (atime mtime ctime birthtime),
    # then nanoseconds in another order (mtime atime ctime birthtime).
    @property
    def st_atime_ns(self) -> int:  # type: ignore[override]
        return self._time(0, 5) if self._layout.ufs2 else self._time(0, 1)

    @property
    def st_mtime_ns(self) -> int:  # type: ignore[override]
        return self._time(1, 4) if self._layout.ufs2 else self._time(2, 3)

    @property
    def st_ctime_ns(self) -> int:  # type: ignore[override]
        return self._time(2, 6) if self._layout.ufs2 else self._time(4, 5)

    @property
    def st_birthtime_ns(self) -> int | None:  # type: ignore[override]
        return self._time(3, 7) if self._layout.ufs2 else None

    @property
    def addresses(self) -> tuple[int, ...]:
        """Twelve direct blocks and three levels of indirect ones, in fragments."""
        addresses: tuple[int, ...] = self._layout.addresses(self.data, self.at)
        return addresses

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        """``di_rdev`` stands in the first address: major numbers in bits 8 to 15, minor numbers around them."""
        if self.st_mode >> 12 not in (_CHARACTER, _BLOCK):
            return 0
        device = self.addresses[0] & 0xFFFFFFFF
        return os.makedev(device >> 8 & 0xFF, device & 0xFFFF00FF)

    def inline(self, length: int) -> bytes:
        """The first bytes where the addresses would be: a short symbolic link."""
        start = self.at + self._layout.addresses_at
        return self.data[start : start + length]


class InodeTable:
    """All inodes of a filesystem, by number."""

    def __init__(self, device: BlockDevice, superblock: Superblock) -> None:
        self._device = device
        self._superblock = superblock
        self._layout = Layout(superblock)
        self._per_chunk = _CHUNK_BYTES // superblock.inode_size
        self._chunks: dict[tuple[int, int], tuple[bytes, int]] = {}

    def stat(self, ino: int) -> InodeStat:
        """The inode `ino`, which a directory names. Raises `InvalidFormat`."""
        superblock = self._superblock
        if not L.ROOT_INODE <= ino < superblock.inodes_count:
            raise _bad(f"inode {ino} of {superblock.inodes_count}", superblock.offset)
        group, index = divmod(ino, superblock.inodes_per_group)
        chunk, index = divmod(index, self._per_chunk)
        key = (group, chunk)
        found = self._chunks.get(key)
        if found is None:
            found = self._load(key)
        data, start = found
        at = index * superblock.inode_size
        if at + superblock.inode_size > len(data):
            raise _bad(f"inode {ino} is outside the device", start)
        head = self._layout.head(data, at)
        mode, links, size = head
        if mode >> 12 not in _FILE_TYPES or not links or size >> 63:
            message = (
                f"inode {ino}: mode {mode:#o}, {links} links, size {size}" if mode else f"inode {ino} is not in use"
            )
            raise _bad(message, start + at)
        return InodeStat(ino, head, data, at, start + at, self._layout)

    def _load(self, key: tuple[int, int]) -> tuple[bytes, int]:
        superblock = self._superblock
        group, chunk = key
        first = chunk * self._per_chunk
        count = min(self._per_chunk, superblock.inodes_per_group - first)
        start = superblock.inode_offset(group * superblock.inodes_per_group + first)
        length = max(0, min(count * superblock.inode_size, self._device.size - start))
        if start < 0 or not length:
            raise _bad("the inode table is outside the device", max(0, start))
        if len(self._chunks) >= _MAX_CHUNKS:
            self._chunks = {}
        self._chunks[key] = found = bytes(self._device.read(start, length)), start
        return found


def _bad(message: str, offset: int, **values: Any) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset, **values)
