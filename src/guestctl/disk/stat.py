"""File attributes, under the names of ``os.stat_result``."""

from __future__ import annotations

import stat
from dataclasses import dataclass


class FileStat:
    """What ``os.lstat`` would give for a mount. Times are whole nanoseconds since 1970.

    A filesystem's room derives its own class where decoding each field on demand is cheaper than
    decoding all of them.
    """

    __slots__ = ()

    st_ino: int
    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int  # bytes
    st_blocks: int  # units of 512 bytes
    st_rdev: int  # as os.makedev
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int | None

    @property
    def st_atime(self) -> float:
        return self.st_atime_ns / 1e9

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9

    @property
    def st_ctime(self) -> float:
        return self.st_ctime_ns / 1e9

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.st_mode)

    def is_file(self) -> bool:
        return stat.S_ISREG(self.st_mode)

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.st_mode)


@dataclass(frozen=True, slots=True)
class PlainStat(FileStat):
    """Attributes that were all decoded at once."""

    st_ino: int
    st_mode: int
    st_nlink: int
    st_size: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int | None = None
    st_uid: int = 0
    st_gid: int = 0
    st_rdev: int = 0
