"""The attributes of a file, decoded from its record as they are asked for."""

from __future__ import annotations

import stat
from struct import Struct
from typing import TYPE_CHECKING, Any

from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.stat import FileStat

if TYPE_CHECKING:
    from guestctl.disk.filesystems.ntfs.filesystem import NtfsFileSystem

DIRECTORY_MODE, REGULAR_MODE = stat.S_IFDIR | 0o777, stat.S_IFREG | 0o777
_type_and_length = Struct("<II").unpack_from
_form = Struct("<8xBB6xI").unpack_from  # non-resident flag, name length, length of the value
_data_sizes = Struct("<16xQ16xQQ").unpack_from  # first VCN, allocated and real size
_DIRECTORY, _REGULAR = 0x4, 0x8  # st_mode >> 12
_LINKS, _FIRST = 18, 20  # places in a record: links, first attribute
_DATA, _LEAST_BYTES, _NON_RESIDENT_BYTES = L.DATA, L.RESIDENT_BYTES, L.NON_RESIDENT_BYTES


def _time(index: int) -> Any:
    unpack = Struct(f"<{8 * index}xQ").unpack_from

    def decode(self: NtfsStat) -> int:
        return (unpack(self.data, self.times_at)[0] - L.EPOCH) * 100  # type: ignore[no-any-return]

    return property(decode)


class NtfsStat(FileStat):
    """The attributes of a file whose record is at `at` in `data`, its times at `times_at`."""

    __slots__ = ("_filesystem", "at", "data", "st_ino", "st_mode", "times_at")

    def __init__(self, filesystem: NtfsFileSystem, number: int, mode: int, data: bytes, at: int, times_at: int) -> None:
        self._filesystem = filesystem
        self.st_ino = number
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
        if self.st_mode >> 12 == _DIRECTORY:
            return 1
        return self.data[self.at + _LINKS] | self.data[self.at + _LINKS + 1] << 8

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        return self._filesystem.device_number(self.st_ino) if self.st_mode >> 12 in (0x2, 0x6) else 0

    @property
    def st_size(self) -> int:  # type: ignore[override]
        data, at = self.data, self.at
        if self.st_mode >> 12 == _REGULAR:
            end = at + self._filesystem.record_size - _NON_RESIDENT_BYTES
            at += data[at + _FIRST] | data[at + _FIRST + 1] << 8
            while at <= end:
                kind, length = _type_and_length(data, at)
                if kind >= _DATA:
                    non_resident, name_length, size = _form(data, at)
                    first_vcn = 0
                    if non_resident:
                        first_vcn, length, size = _data_sizes(data, at)
                    if kind > _DATA or name_length or size > length or first_vcn:
                        break
                    return size  # type: ignore[no-any-return]
                if length < _LEAST_BYTES:
                    break
                at += length
        return self._filesystem.sizes(self.st_ino, self.st_mode)[0]

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        return self._filesystem.sizes(self.st_ino, self.st_mode)[1] + 511 >> 9
