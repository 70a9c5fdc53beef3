"""Copying files of a guest to the host, where nothing may be written but below one directory.

A guest's directory can hold any name, twice, and a link that leads anywhere. So a name that is a
path is refused; a file replaces what has its name instead of being written through it; a directory
is entered only where a real directory is; and the guest's symbolic links are made last of all.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Any

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.filesystem import FileSystem, WalkError
from guestctl.disk.stat import FileStat

# What Windows does not take in a name, or takes for a stream or another directory.
_WINDOWS_RESERVED = frozenset('<>:"/\\|?*')


def copy_out(
    filesystem: FileSystem[Any],
    path: str,
    directory: str | os.PathLike[str],
    *,
    keep: Sequence[str] = (),
    onerror: Callable[[WalkError], None] | None = None,
) -> None:
    """Copy what is at `path`, with everything below it, into the existing `directory`.

    Files there that have the copies' names are replaced, but for those in `keep`: the images.

    Permission bits, modification times, symbolic links and holes are kept; set-id bits, owners and
    extended attributes are not. Devices, pipes and sockets go to `onerror` like what cannot be
    read; without `onerror` they raise.
    """
    directory = os.fspath(directory)
    if not os.path.isdir(directory):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    top = filesystem.realpath(path)
    kept = {(status.st_dev, status.st_ino) for status in map(os.stat, keep)}
    copy = _Copy(filesystem, directory, kept, onerror)
    skip = len(top.rpartition("/")[0]) + 1
    for found, node, status in filesystem.find(top, onerror=onerror):
        try:
            copy.add(found[skip:], node, status)
        except (GuestctlError, OSError) as error:
            if onerror is None:
                raise
            onerror(WalkError(found, error))
    copy.finish()


class _Copy:
    def __init__(
        self,
        filesystem: FileSystem[Any],
        directory: str,
        kept: set[tuple[int, int]],
        onerror: Callable[[WalkError], None] | None,
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._kept = kept
        self._onerror = onerror
        self._directories: list[tuple[str, FileStat]] = []
        self._entered = {os.path.dirname(os.path.join(directory, "name"))}
        self._links: list[tuple[str, str]] = []

    def add(self, name: str, node: Any, status: FileStat) -> None:
        target = os.path.join(self._directory, *map(_checked, name.split("/"))) if name else self._directory
        if status.is_dir() and not name:
            self._directories.append((target, status))
            return
        # What lies below a directory that was refused must not slip through the link in its place.
        if os.path.dirname(target) not in self._entered:
            raise OSError(errno.ENOTDIR, "Not a directory of its own", os.path.dirname(target))
        if status.is_dir():
            _make_directory(target)
            self._entered.add(target)
            self._directories.append((target, status))
            return
        if status.is_symlink():
            self._links.append((target, self._filesystem.node_target(node)))
        elif status.is_file():
            device = self._filesystem.node_data(node)
            self._remove(target)
            try:
                _write_file(target, device, status)
            except BaseException:
                self._remove(target)
                raise
        else:
            raise OSError(errno.EINVAL, "Not a file, directory or symbolic link: left out", name)

    def _remove(self, path: str) -> None:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if (status.st_dev, status.st_ino) in self._kept:
            raise FileExistsError(errno.EEXIST, "Is an image that is being read", path)
        os.unlink(path)

    def finish(self) -> None:
        for target, link in self._links:
            try:
                self._remove(target)
                os.symlink(link, target)
            except OSError as error:
                if self._onerror is None:
                    raise
                self._onerror(WalkError(target, error))
        # Last, and from the bottom: a directory may be read-only, and its time changes with its content.
        for target, status in reversed(self._directories):
            if _is_real_directory(target):
                os.chmod(target, stat.S_IMODE(status.st_mode) & 0o777)
                os.utime(target, ns=(_clamped(status.st_atime_ns), _clamped(status.st_mtime_ns)))


def _checked(name: str) -> str:
    reserved = _WINDOWS_RESERVED if sys.platform == "win32" else "/\0"
    if name in ("", ".", "..") or any(character in reserved for character in name):
        raise InvalidFormat(f"the name {name!r} cannot be a file's name here", structure="directory entry", offset=0)
    return name


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _is_real_directory(path):
            raise


def _is_real_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _write_file(path: str, device: BlockDevice, status: FileStat) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb", buffering=0) as stream:
        for run, buffer in device.chunks(0, device.size):
            if run.source is None:
                continue
            stream.seek(run.offset)
            view = memoryview(buffer)
            while view:
                view = view[stream.write(view) :]
        stream.truncate(device.size)
    os.chmod(path, stat.S_IMODE(status.st_mode) & 0o777)
    os.utime(path, ns=(_clamped(status.st_atime_ns), _clamped(status.st_mtime_ns)))


def _clamped(nanoseconds: int) -> int:
    """The host's system call takes 64-bit seconds, some of its filesystems less."""
    return max(-(2**62), min(nanoseconds, 2**63 - 1))
