"""Directories as archives on the host: tar and cpio.

In a tar archive owners are numbers, and ACLs and SELinux contexts are extended attributes as bsdtar writes them
(``SCHILY.xattr.``), which GNU tar takes with ``--xattrs --xattrs-include='*'``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import FileSystem, StrPath, Usage, WalkError
from guestctl.disk.stat import FileStat
from guestctl.disk.tar import write_tar
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.downloads import Downloads, check_compression, compressed
from guestctl.guestfs.globbing import component

_ACLS, _SELINUX = ("system.posix_acl_access", "system.posix_acl_default"), "security.selinux"

# cpio(5), "New ASCII Format"
_CPIO_MAGICS = {"newc": b"070701", "crc": b"070702"}
_CPIO_TRAILER = b"TRAILER!!!"
_CPIO_BLOCK_BYTES = 512
_MAX_CPIO_SIZE = 0xFFFFFFFF


class Archives(Downloads):
    """``tar_out``, ``cpio_out`` and the like."""

    @launched
    def tar_out(
        self,
        directory: str,
        tarfile: str,
        compress: str | None = None,
        numericowner: bool | None = None,
        excludes: Sequence[str] | None = None,
        xattrs: bool | None = None,
        selinux: bool | None = None,
        acls: bool | None = None,
    ) -> None:
        """Write what is below `directory` as a tar archive to the host's file `tarfile`; names begin with ``./``.

        `excludes` are wildcards for names to leave out; of a directory, with all that is below it. Owners are numbers
        whatever `numericowner` says.
        """
        top = self._archived(directory)
        if compress is not None:
            check_compression(compress)
        view = _View(self._tree, top, excludes or (), _wanted(bool(xattrs), bool(acls), bool(selinux)))
        with self._host_file(tarfile) as raw:
            if compress is None:
                write_tar(view, top, raw)
            else:
                with compressed(compress, raw) as stream:
                    write_tar(view, top, stream)

    tar_out_opts = tar_out

    @launched
    def tgz_out(self, directory: str, tarball: str) -> None:
        """`tar_out` through gzip."""
        self.tar_out(directory, tarball, compress="gzip")

    @launched
    def txz_out(self, directory: str, tarball: str) -> None:
        """`tar_out` through xz."""
        self.tar_out(directory, tarball, compress="xz")

    @launched
    def cpio_out(self, directory: str, cpiofile: str, format: str | None = None) -> None:
        """Write what is below `directory` as a cpio archive, ``newc`` or ``crc``, to the host's file `cpiofile`."""
        magic = _CPIO_MAGICS.get(format or "newc")
        if magic is None:
            raise GuestFSError(f"{format}: format must be 'newc' or 'crc'", errno.EINVAL)
        top = self._archived(directory)
        with self._host_file(cpiofile) as raw, os.fdopen(os.dup(raw.fileno()), "wb", 1 << 20) as stream:
            where, device, _ = self._mounted_at(top)
            _Cpio(self._tree, stream, magic, self._device_number(where, device)).write(top)

    def _archived(self, directory: str) -> str:
        path = self._path(directory)
        if not self._status(path).is_dir():
            raise OSError(errno.ENOTDIR, "not a directory", path)
        return self._tree.realpath(path)


def _wanted(xattrs: bool, acls: bool, selinux: bool) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        return acls if name in _ACLS else selinux if name == _SELINUX else xattrs

    return wanted


class _View(FileSystem[Any]):
    """A tree without what is excluded, and without extended attributes that are not wanted."""

    def __init__(self, tree: FileSystem[Any], top: str, excludes: Sequence[str], wanted: Callable[[str], bool]) -> None:
        self._tree = tree
        self.type, self.size, self.block_size = tree.type, tree.size, tree.block_size
        self.root, self.warnings = tree.root, tree.warnings
        self._skip = len(top.rstrip("/")) + 1
        self._patterns = [component(pattern, slashes=True) for pattern in excludes if pattern]
        self._wanted = wanted

    def usage(self) -> Usage:
        return self._tree.usage()

    def node_stat(self, node: Any) -> FileStat:
        return self._tree.node_stat(node)

    def node_entries(self, node: Any) -> Iterable[tuple[str, Any, int]]:
        return self._tree.node_entries(node)

    def node_lookup(self, node: Any, name: str) -> Any:
        return self._tree.node_lookup(node, name)

    def node_target(self, node: Any) -> str:
        return self._tree.node_target(node)

    def node_data(self, node: Any) -> BlockDevice:
        return self._tree.node_data(node)

    def node_xattrs(self, node: Any) -> dict[str, bytes]:
        return {name: value for name, value in self._tree.node_xattrs(node).items() if self._wanted(name)}

    def find(
        self, top: StrPath = "/", *, onerror: Callable[[WalkError], None] | None = None, sort: bool = False
    ) -> Iterator[tuple[str, Any, FileStat]]:
        found = self._tree.find(top, onerror=onerror, sort=sort)
        yield next(found)
        excluded = "\0"
        for path, node, status in found:
            if path.startswith(excluded):
                continue
            if self._patterns and self._is_excluded(path[self._skip :]):
                excluded = path + "/"
            else:
                yield path, node, status

    def _is_excluded(self, name: str) -> bool:
        """Whether a pattern matches the name, or what comes after a slash in it, as GNU tar has it."""
        names = [f"./{name}"]
        while names[-1].partition("/")[2]:
            names.append(names[-1].partition("/")[2])
        return any(pattern.fullmatch(one) for pattern in self._patterns for one in names)


class _Cpio:
    """An archive as ``find | cpio -o`` makes it: of hard links, the last that is found has the data."""

    def __init__(self, tree: FileSystem[Any], stream: IO[bytes], magic: bytes, device: int) -> None:
        self._device = divmod(device, 256)
        self._tree = tree
        self._stream = stream
        self._magic = magic
        self._size = 0

    def write(self, top: str) -> None:
        pending: dict[Any, list[tuple[bytes, FileStat]]] = {}
        skip = len(top.rstrip("/")) + 1
        for path, node, status in self._tree.find(top):
            name = (path[skip:] or ".").encode("utf-8", "surrogateescape")
            if not status.is_file() or status.st_nlink < 2:
                self._add(name, node, status, self._data(node, status))
                continue
            names = pending.setdefault(node, [])
            names.append((name, status))
            if len(names) == status.st_nlink:
                self._add_links(node, pending.pop(node))
        for node, names in pending.items():  # some of whose names are elsewhere
            self._add_links(node, names)
        self._header(_CPIO_TRAILER, (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0), 0)
        self._put(bytes(-self._size % _CPIO_BLOCK_BYTES))

    def _add_links(self, node: Any, names: list[tuple[bytes, FileStat]]) -> None:
        for name, status in names[:-1]:
            self._add(name, node, status, b"")
        name, status = names[-1]
        self._add(name, node, status, self._data(node, status))

    def _data(self, node: Any, status: FileStat) -> BlockDevice | bytes:
        if status.is_symlink():
            return self._tree.node_target(node).encode("utf-8", "surrogateescape")
        return self._tree.node_data(node) if status.is_file() else b""

    def _add(self, name: bytes, node: Any, status: FileStat, data: BlockDevice | bytes) -> None:
        size = len(data) if isinstance(data, bytes) else data.size
        if size > _MAX_CPIO_SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fsdecode(name))
        major, minor = (os.major(status.st_rdev), os.minor(status.st_rdev)) if _is_device(status) else (0, 0)
        numbers = (
            status.st_ino & 0xFFFFFFFF,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_mtime_ns // 10**9 & 0xFFFFFFFF,
            size,
            *self._device,
            major,
            minor,
        )
        self._header(name, numbers, self._sum(data) if self._magic == _CPIO_MAGICS["crc"] else 0)
        for buffer in (data,) if isinstance(data, bytes) else data.buffers(0, size):
            self._put(buffer)
        self._put(bytes(-self._size % 4))

    def _sum(self, data: BlockDevice | bytes) -> int:
        if isinstance(data, bytes):
            return 0
        return sum(sum(buffer) for buffer in data.buffers(0, data.size)) & 0xFFFFFFFF

    def _header(self, name: bytes, numbers: Sequence[int], check: int) -> None:
        fields = b"".join(b"%08X" % number for number in (*numbers, len(name) + 1, check))
        self._put(self._magic + fields + name + b"\0")
        self._put(bytes(-self._size % 4))

    def _put(self, buffer: Any) -> None:
        self._stream.write(buffer)
        self._size += len(buffer)


def _is_device(status: FileStat) -> bool:
    return stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)
