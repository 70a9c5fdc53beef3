"""Inodes (section "INODE_ITEM"), decoded as their attributes are asked for."""

from __future__ import annotations

import os
import struct
from typing import Any

from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.stat import FileStat


def _field(layout: struct.Struct) -> Any:
    """One field; untyped, since `FileStat` declares its type."""
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        return unpack(self.data, self.at)[0]

    return property(decode)


def _time(layout: struct.Struct) -> Any:
    unpack = layout.unpack_from

    def decode(self: InodeStat) -> Any:
        seconds, nanoseconds = unpack(self.data, self.at)
        return seconds * 1_000_000_000 + nanoseconds

    return property(decode)


class InodeStat(FileStat):
    """The attributes of the inode at `at` in the leaf `data`."""

    __slots__ = ("_sectorsize", "at", "data", "st_ino", "st_mode", "st_size")

    def __init__(self, ino: int, mode: int, size: int, data: bytes, at: int, sectorsize: int) -> None:
        self.st_ino = ino
        self.st_mode = mode
        self.st_size = size
        self.data = data
        self.at = at
        self._sectorsize = sectorsize

    st_nlink: int = _field(L.INODE_NLINK)
    st_uid: int = _field(L.INODE_UID)
    st_gid: int = _field(L.INODE_GID)
    st_atime_ns: int = _time(L.INODE_ATIME)
    st_mtime_ns: int = _time(L.INODE_MTIME)
    st_ctime_ns: int = _time(L.INODE_CTIME)
    st_birthtime_ns: int | None = _time(L.INODE_OTIME)
    flags: int = _field(L.INODE_FLAGS)
    generation: int = _field(L.INODE_GENERATION)

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        (nbytes,) = L.INODE_NBYTES.unpack_from(self.data, self.at)
        return int(-(-nbytes // self._sectorsize) * self._sectorsize >> 9)

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        """Stored as the kernel keeps it: 12 bits of major number above 20 of minor."""
        if self.st_mode >> 12 not in (0x2, 0x6):
            return 0
        (device,) = L.INODE_RDEV.unpack_from(self.data, self.at)
        return os.makedev(device >> 20 & 0xFFF, device & 0xFFFFF)
