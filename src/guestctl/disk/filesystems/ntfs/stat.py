"""The attributes of a file, decoded from its record as they are asked for."""

from __future__ import annotations

import stat
from struct import Struct
from typing import TYPE_CHECKING, Any

from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.attributes import find
from guestctl.disk.stat import FileStat

if TYPE_CHECKING:
    from guestctl.disk.filesystems.ntfs.filesystem import NtfsFileSystem

DIRECTORY_MODE, REGULAR_MODE = stat.S_IFDIR | 0o777, stat.S_IFREG | 0o777
_data_sizes = Struct("<8xB3xH26xQQ").unpack_from  # non-resident flag, flags, allocated and real size
_value_length = Struct("<16xI").unpack_from
_total_allocated = L.TOTAL_ALLOCATED.unpack_from


def _time(index: int) -> Any:
    unpack = Struct(f"<{8 * index}xQ").unpack_from

    def decode(self: NtfsStat) -> int:
        return (unpack(self.data, self.times_at)[0] - L.EPOCH) * 100  # type: ignore[no-any-return]

    return property(decode)


class NtfsStat(FileStat):
    """The attributes of a file whose record is at `at` in `data`, its times at `times_at`."""

    __slots__ = ("_filesystem", "at", "data", "node", "st_ino", "st_mode", "times_at")

    def __init__(self, filesystem: NtfsFileSystem, node: int, mode: int, data: bytes, at: int, times_at: int) -> None:
        self._filesystem = filesystem
        self.node = node
        self.st_ino = node & L.RECORD_NUMBER_MASK
        self.st_mode = mode
        self.data = data
        self.at = at
        self.times_at = times_at

    st_birthtime_ns: int = _time(0)
    st_mtime_ns: int = _time(1)
    st_ctime_ns: int = _time(2)
    st_atime_ns: int = _time(3)
    st_uid = 0
    st_gid = 0

    @property
    def st_nlink(self) -> int:  # type: ignore[override]
        """The links that the record counts, short names among them; 1 for a directory, as ntfs-3g has it."""
        if self.st_mode >> 12 == 0x4:
            return 1
        return self.data[self.at + 18] | self.data[self.at + 19] << 8

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        return self._filesystem.device_number(self.node) if self.st_mode >> 12 in (0x2, 0x6) else 0

    @property
    def st_size(self) -> int:  # type: ignore[override]
        return self._sizes()[0]

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        return self._sizes()[1] + 511 >> 9

    def _sizes(self) -> tuple[int, int]:
        """Bytes, and bytes of clusters."""
        data, at = self.data, self.at
        if self.st_mode >> 12 == 0x8:
            first = at + (data[at + 20] | data[at + 21] << 8)
            found = find(data, first, at + self._filesystem.record_size, L.DATA)
            if found >= 0:
                non_resident, flags, allocated, size = _data_sizes(data, found)
                if not non_resident:
                    (size,) = _value_length(data, found)
                    return size, size + 7 & ~7
                if flags & (L.COMPRESSION_MASK | L.ATTRIBUTE_SPARSE):
                    (allocated,) = _total_allocated(data, found)
                if data[found + 16 : found + 24] == bytes(8):
                    return size, allocated
        return self._filesystem.sizes(self.node, self.st_mode)
