"""What is at a path: kinds, attributes, links, sizes."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.stat import FileStat
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_SD_MAJOR, _SD_MINORS = 8, 16  # the kernel's numbers of SCSI disks (Documentation/admin-guide/devices.txt)


class Paths(Handle):
    """``exists``, ``is_file`` and their kin, ``stat`` and its kin, and what other groups need to know of a path."""

    # What other groups of calls use

    def _status(self, path: str, *, follow: bool = True) -> FileStat:
        path = self._path(path)
        return self._tree.stat(path) if follow else self._tree.lstat(path)

    def _content(self, path: str, directory: str = "Is a directory") -> BlockDevice:
        """The bytes of a regular file; `directory` is what is said where a directory is."""
        path = self._path(path)
        node = self._tree.resolve(path)
        mode = self._tree.node_stat(node).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, directory, path)
        if not stat.S_ISREG(mode):  # there is no kernel with a driver, and nobody at the other end
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
        return self._tree.node_data(node)

    def _content_or_device(self, path: str) -> BlockDevice:
        """The bytes of a device, or of a regular file."""
        return self._device(path) if path.startswith("/dev/") else self._content(path, "is a directory")

    def _mounted_at(self, path: str) -> tuple[str, str, FileSystem[Any]]:
        """Where the filesystem that holds `path` is mounted, the device, and itself."""
        real = self._tree.realpath(self._path(path))
        covering = [where for where in self._mounts if (real + "/").startswith(where.rstrip("/") + "/")]
        if not covering:
            return "/", "", self._mountpoints
        where = max(covering, key=len)
        return where, *self._mounts[where]

    def _names_in(self, path: str, names: Sequence[str]) -> str:
        """What to put before `names`, which must be none but file names."""
        for name in names:
            if "/" in name or not name:
                raise GuestFSError(f"names: '{name}' is not a file name", errno.EINVAL)
        return self._path(path).rstrip("/") + "/"

    def _images(self) -> list[str]:
        """The host's files that the disks are read from."""
        return [image for image in self._machine.image_files() if os.path.exists(image)]

    @contextmanager
    def _host_file(self, filename: str) -> Iterator[IO[bytes]]:
        """A file of the host, to be written anew; never an image of this handle."""
        if os.path.exists(filename) and any(os.path.samefile(filename, image) for image in self._images()):
            raise OSError(errno.EBUSY, "is an image that is being read", filename)
        with open(filename, "wb", buffering=0) as stream:
            yield stream

    # Kinds

    @launched
    def exists(self, path: str) -> bool:
        """Whether anything is at `path`; a symbolic link is something wherever it points."""
        return self._mode(path, False) != 0

    @launched
    def is_file(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a regular file is at `path`."""
        return stat.S_ISREG(self._mode(path, followsymlinks))

    @launched
    def is_dir(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a directory is at `path`."""
        return stat.S_ISDIR(self._mode(path, followsymlinks))

    @launched
    def is_symlink(self, path: str) -> bool:
        """Whether a symbolic link is at `path`."""
        return stat.S_ISLNK(self._mode(path, False))

    @launched
    def is_fifo(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a named pipe is at `path`."""
        return stat.S_ISFIFO(self._mode(path, followsymlinks))

    @launched
    def is_socket(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a socket is at `path`."""
        return stat.S_ISSOCK(self._mode(path, followsymlinks))

    @launched
    def is_blockdev(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a block device node is at `path`."""
        return stat.S_ISBLK(self._mode(path, followsymlinks))

    @launched
    def is_chardev(self, path: str, followsymlinks: bool | None = None) -> bool:
        """Whether a character device node is at `path`."""
        return stat.S_ISCHR(self._mode(path, followsymlinks))

    is_file_opts, is_dir_opts, is_fifo_opts = is_file, is_dir, is_fifo
    is_socket_opts, is_blockdev_opts, is_chardev_opts = is_socket, is_blockdev, is_chardev

    def _mode(self, path: str, follow: bool | None) -> int:
        """st_mode, or 0 where nothing is."""
        try:
            return self._status(path, follow=bool(follow)).st_mode
        except OSError as error:
            if error.errno in _ABSENT:
                return 0
            raise

    # Attributes

    @launched
    def statns(self, path: str) -> dict[str, int]:
        """Attributes of what is at `path`, as stat(2) gives them."""
        return self._statns(path, follow=True)

    @launched
    def lstatns(self, path: str) -> dict[str, int]:
        """`statns` of a symbolic link itself."""
        return self._statns(path, follow=False)

    @launched
    def stat(self, path: str) -> dict[str, int]:
        """`statns` without nanoseconds."""
        return _without_nanoseconds(self._statns(path, follow=True))

    @launched
    def lstat(self, path: str) -> dict[str, int]:
        """`lstatns` without nanoseconds."""
        return _without_nanoseconds(self._statns(path, follow=False))

    def _statns(self, path: str, *, follow: bool) -> dict[str, int]:
        status = self._status(path, follow=follow)
        holder = path if follow or not stat.S_ISLNK(status.st_mode) else posixpath.dirname(path.rstrip("/")) or "/"
        where, device, filesystem = self._mounted_at(holder)
        return _as_statns(status, self._device_number(where, device), filesystem.block_size)

    def _device_number(self, where: str, device: str) -> int:
        """The kernel's number of a disk or partition; other devices get numbers of unnamed ones."""
        disk = re.fullmatch("/dev/sd([a-p])([0-9]|1[0-5])?", device)
        if disk:
            return _SD_MAJOR << 8 | (ord(disk[1]) - ord("a")) * _SD_MINORS + int(disk[2] or 0)
        return 1 + list(self._mounts).index(where) if where in self._mounts else 0

    @launched
    def lstatnslist(self, path: str, names: Sequence[str]) -> list[dict[str, int]]:
        """`lstatns` of each of `names` in the directory `path`; where there is none, ``st_ino`` is -1."""
        base = self._names_in(path, names)
        self._directory(path)
        return [self._lstatns_or_none(base + name) for name in names]

    @launched
    def lstatlist(self, path: str, names: Sequence[str]) -> list[dict[str, int]]:
        """`lstatnslist` without nanoseconds."""
        return [_without_nanoseconds(one) for one in self.lstatnslist(path, names)]

    def _lstatns_or_none(self, path: str) -> dict[str, int]:
        try:
            return self._statns(path, follow=False)
        except OSError:
            return {**dict.fromkeys(_STATNS, 0), "st_ino": -1}

    def _directory(self, path: str) -> None:
        if not self._status(path).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    @launched
    def filesize(self, file: str) -> int:
        """The size of a file in bytes."""
        return self._status(file).st_size

    @launched
    def du(self, path: str) -> int:
        """KiB that `path` and what is below it take on the disk; files with several names count once."""
        seen = set()
        blocks = 0
        for _, node, status in self._tree.find(self._path(path)):
            if status.st_nlink < 2 or status.is_dir():
                blocks += status.st_blocks
            elif node not in seen:
                seen.add(node)
                blocks += status.st_blocks
        return (blocks + 1) // 2

    # Links and names

    @launched
    def readlink(self, path: str) -> str:
        """Where a symbolic link points."""
        return self._tree.readlink(self._path(path))

    @launched
    def readlinklist(self, path: str, names: Sequence[str]) -> list[str]:
        """`readlink` of each of `names` in the directory `path`; empty for those that are no links."""
        base = self._names_in(path, names)
        self._directory(path)
        return [self._target_or_empty(base + name) for name in names]

    def _target_or_empty(self, path: str) -> str:
        try:
            return self._tree.readlink(path)
        except OSError:
            return ""

    @launched
    def realpath(self, path: str) -> str:
        """`path` without ``.``, ``..`` and symbolic links."""
        return self._tree.realpath(self._path(path))

    @launched
    def case_sensitive_path(self, path: str) -> str:
        """`path` with the names that are there, where only the case of ASCII letters differs.

        The last name need not be there, and then stays as it is.
        """
        found = ""
        names = [name for name in self._path(path).split("/") if name]
        for index, name in enumerate(names):
            self._directory(found or "/")
            actual = _same_but_for_case(name, self._tree.listdir(found or "/"))
            if actual is None and (index < len(names) - 1 or path.endswith("/")):
                raise OSError(errno.ENOENT, "not found", name)
            found += "/" + (actual or name)
        if path.endswith("/"):
            self._directory(found or "/")
        return found or "/"

    # What is done without a daemon, and with nothing to write

    @launched
    def sync(self) -> None:
        """Nothing: nothing waits to be written."""

    @launched
    def echo_daemon(self, words: Sequence[str]) -> str:
        """The words with blanks between them."""
        return " ".join(words)

    @launched
    def sleep(self, secs: int) -> None:
        """Wait."""
        time.sleep(secs)

    @launched
    def get_umask(self) -> int:
        """What `umask` set; 0o022 otherwise."""
        mask: int = self._settings.get("umask", 0o022)
        return mask

    @launched
    def umask(self, mask: int) -> int:
        """Set the mask for the permissions of new files. Gives the one before."""
        if not 0 <= mask <= 0o777:
            raise GuestFSError(
                f"{mask & 0xFFFFFFFF:#o}: mask negative or out of range".replace("0o", "0"), errno.EINVAL
            )
        before = self.get_umask()
        self._settings["umask"] = mask
        return before


_TIMES = ("atime", "mtime", "ctime")
_STATNS = (
    *("st_dev", "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks"),
    *(f"st_{one}_{unit}" for one in _TIMES for unit in ("sec", "nsec")),
    *(f"st_spare{number}" for number in range(1, 7)),
)


def _as_statns(status: FileStat, device: int, block_size: int) -> dict[str, int]:
    known = {"st_dev": device, "st_blksize": block_size}
    for one in _TIMES:
        known[f"st_{one}_sec"], known[f"st_{one}_nsec"] = divmod(getattr(status, f"st_{one}_ns"), 10**9)
    return {name: known[name] if name in known else int(getattr(status, name, 0)) for name in _STATNS}


def _without_nanoseconds(status: dict[str, int]) -> dict[str, int]:
    return {
        name.removeprefix("st_").removesuffix("_sec"): value
        for name, value in status.items()
        if not name.endswith("_nsec") and "spare" not in name
    }


def _same_but_for_case(name: str, names: Sequence[str]) -> str | None:
    if name in names:
        return name
    folded = _folded(name)
    return next((one for one in names if _folded(one) == folded), None)


def _folded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").lower()


def write_all(stream: IO[bytes], buffer: Any) -> None:
    """All of `buffer`: a pipe may take a part of it."""
    view = memoryview(buffer)
    while view:
        view = view[stream.write(view) :]
