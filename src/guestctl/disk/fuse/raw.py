"""Devices as raw files, in the directories that their names have below ``/dev``."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping

from guestctl.block import BlockDevice, WritableDevice
from guestctl.disk.fuse.operations import Listing, Operations, damage_is_eio, failure

_DIRECTORY_MODE = stat.S_IFDIR | 0o555
_SECTOR_BYTES = 512


class RawOperations(Operations):
    """`devices` by name (``/dev/VG/LV`` is the file ``VG/LV``), which their caller keeps open.

    The files of writable devices are writable. ``conflicts`` are the names that have no place,
    since another device's name stands where they want a directory, or the reverse.
    """

    def __init__(self, devices: Mapping[str, BlockDevice]) -> None:
        super().__init__()
        self._time = time.time_ns()
        self._devices: dict[str, BlockDevice] = {}
        self._directories: dict[str, dict[str, str]] = {"/": {}}  # path -> name -> path
        self.conflicts = [name for name, device in devices.items() if not self._place(name, device)]
        self._inodes = {path: number for number, path in enumerate([*self._directories, *self._devices], 1)}

    def _place(self, name: str, device: BlockDevice) -> bool:
        path = "/" + name.removeprefix("/dev/").strip("/")
        parents = [path[:end] for end, character in enumerate(path) if character == "/" and end]
        if path in self._directories or any(parent in self._devices for parent in parents):
            return False
        self._devices[path] = device
        above = "/"
        for step in (*parents, path):
            self._directories.setdefault(above, {})[step.rpartition("/")[2]] = step
            above = step
        return True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        number = self._inodes.get(path)
        if number is None:
            raise failure(errno.ENOENT)
        common = {
            "st_ino": number,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
            "st_atime": self._time,
            "st_mtime": self._time,
            "st_ctime": self._time,
        }
        device = self._devices.get(path)
        if device is None:
            return {"st_mode": _DIRECTORY_MODE, "st_nlink": 2, **common}
        mode = 0o644 if isinstance(device, WritableDevice) else 0o444
        blocks = max(0, device.size // _SECTOR_BYTES - 1)  # as a file with holes: programs then ask where they are
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": device.size, "st_blocks": blocks, **common}

    def listing(self, path: str) -> Listing:
        names = {".": path, "..": os.path.dirname(path), **self._directories[path]}
        return Listing([(name, self.getattr(there), place) for place, (name, there) in enumerate(names.items(), 1)])

    def device(self, path: str, flags: int) -> BlockDevice:
        device = self._devices[path]
        if flags & os.O_ACCMODE != os.O_RDONLY and not isinstance(device, WritableDevice):
            raise failure(errno.EACCES)
        return device

    @damage_is_eio
    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        device = self._files[fh]
        assert isinstance(device, WritableDevice)  # or it would not be open for writing
        data = data[: max(0, device.size - offset)]
        if not data:
            raise failure(errno.ENOSPC)
        device.write(offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """A device keeps its size, as a block device does when a program opens it with O_TRUNC."""
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return self.flush(path, fh)

    @damage_is_eio
    def flush(self, path: str, fh: int) -> int:
        """At each close, too: unmounting does not wait for us."""
        device = self._files[fh]
        if isinstance(device, WritableDevice):
            device.flush()
        return 0
