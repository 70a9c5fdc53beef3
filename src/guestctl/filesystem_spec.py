"""``guest://``: the files in an image for fsspec, and for pandas, pyarrow and what else opens fsspec's URLs.

::

    fsspec.open("guest://var/log/syslog::disk.qcow2")
    fsspec.open("guest://var/log/syslog::https://example.org/disk.qcow2")
    fsspec.filesystem("guest", fo="disk.qcow2", device="/dev/sda1")

Read-only. Installing ``guestctl[fsspec]`` registers it.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any, NoReturn

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from guestctl.block import BlockDevice, CachedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import DirEntry
from guestctl.disk.reader import DiskReader, ImageFile
from guestctl.disk.stat import FileStat
from guestctl.disk.volumes.keys import Keys, parse_key
from guestctl.machine import Machine
from guestctl.machine.guest_tree import GuestTree

_PAGE_BYTES = 1 << 20  # what is read at once over a network
_PAGE_COUNT = 64
_TYPES = {stat_module.S_IFREG: "file", stat_module.S_IFDIR: "directory"}


class GuestFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The guest on the image `fo`, or the filesystem on its `device`, through the paths ``/…``.

    `fo` is a URL of fsspec's, `target_protocol` and `target_options` say how it is opened; local files are
    mapped into memory. `keys` are texts ``ID:key:TEXT`` or ``ID:file:PATH``, or a `Keys`; `allow_dirs` as for
    `DiskReader.open`. An image that is not local can name no other files.
    """

    protocol = "guest"
    root_marker = "/"
    cachable = False  # an image may change between two openings

    def __init__(
        self,
        fo: str = "",
        *,
        device: str | None = None,
        keys: Keys | Sequence[str] = (),
        format: str | None = None,
        allow_dirs: Sequence[str] = (),
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(keys, Keys):
            keys = Keys(parse_key(text) for text in keys)
        image = fsspec.open(fo, "rb", protocol=target_protocol, **(target_options or {}))
        if isinstance(image.fs, LocalFileSystem):
            machine = Machine.open(image.path, format=format, allow_dirs=allow_dirs, keys=keys)
        else:
            machine = Machine([_open_remote(image.fs, image.path, format, keys)], keys=keys)
        self._tree = GuestTree.open(machine, device)
        self._files = self._tree.filesystem

    def close(self) -> None:
        """Close the image; otherwise that is done when nothing refers to it any more."""
        self._tree.close()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return "/" + os.fspath(path).removeprefix("guest://").strip("/")

    # Reading

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        status = self._files.stat(path)
        if not status.is_dir():
            return [self.info(path)] if detail else [path]
        if not detail:
            return sorted(path.rstrip("/") + "/" + name for name in self._files.listdir(path))
        return sorted(map(self._listed, self._files.scandir(path)), key=lambda found: str(found["name"]))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        status = self._files.stat(path) if self._files.exists(path) else self._files.lstat(path)
        return _described(path, status) | self._link(path)

    def exists(self, path: str, **_: Any) -> bool:
        return self._files.exists(self._strip_protocol(path))

    def isfile(self, path: str) -> bool:
        return self._files.is_file(self._strip_protocol(path))

    def isdir(self, path: str) -> bool:
        return self._files.is_dir(self._strip_protocol(path))

    def modified(self, path: str) -> datetime:
        seconds = self._files.stat(self._strip_protocol(path)).st_mtime
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError) as error:  # as far from now as a datetime does not reach
            raise InvalidFormat(f"{path}: {error}", structure="modification time", offset=0) from error

    def _open(self, path: str, mode: str = "rb", **_: Any) -> IO[bytes]:
        if mode != "rb":
            self._refuse(path)
        return self._tree.open_file(self._strip_protocol(path))

    def _listed(self, entry: DirEntry) -> dict[str, Any]:
        """As fsspec's local filesystem has it: a link is neither file nor directory, and as large as its target."""
        found = _described(entry.path, entry.stat(follow_symlinks=False))
        if entry.is_symlink():
            size = self._files.stat(entry.path).st_size if self._files.exists(entry.path) else 0
            found |= {"size": size} | self._link(entry.path)
        return found

    def _link(self, path: str) -> dict[str, Any]:
        if not self._files.is_symlink(path):
            return {}
        return {"islink": True, "destination": self._files.readlink(path)}

    # Writing

    def _refuse(self, path: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    mkdir = makedirs = rmdir = rm_file = rm = _rm = cp_file = touch = mv = put_file = pipe_file = _refuse


def _described(path: str, status: FileStat) -> dict[str, Any]:
    return {
        "name": path,
        "size": status.st_size,
        "type": _TYPES.get(stat_module.S_IFMT(status.st_mode), "other"),
        "created": status.st_ctime,
        "islink": False,
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime,
        "ino": status.st_ino,
        "nlink": status.st_nlink,
    }


class _RemoteDevice(BlockDevice):
    """A file of one of fsspec's filesystems."""

    def __init__(self, files: AbstractFileSystem, path: str) -> None:
        self._files = files
        self._path = path
        self.size = files.size(path)
        if self.size is None:
            raise OSError(errno.ESPIPE, "its size is not known", path)

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length)
        data: bytes = self._files.cat_file(self._path, start=offset, end=offset + length) if length else b""
        if len(data) != length:
            raise OSError(errno.EIO, f"{len(data)} bytes of {length} came", self._path)
        return data


def _open_remote(files: AbstractFileSystem, path: str, format: str | None, keys: Keys) -> DiskReader:
    device = CachedDevice(_RemoteDevice(files, path), page_count=_PAGE_COUNT, page_bytes=_PAGE_BYTES)
    image = ImageFile(path=path, device=device, opened=[], beside=(), allow_dirs=(), chain=(), keys=keys)
    return image.reader(format)
