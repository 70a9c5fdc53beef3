"""``FileSystem``: detection, and the path operations that all filesystems share.

A filesystem's room answers a few questions about *nodes* (its own handle for a file: an inode
number, a record number, a place in a directory). Everything that takes a path is written here,
once. Paths are absolute, separated by ``/``; a name that is no UTF-8 carries its bytes as
surrogate escapes, as with ``os.fsdecode``.
"""

from __future__ import annotations

import errno
import fnmatch
import importlib
import io
import os
import stat as stat_module
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from guestctl.block import BlockDevice, DeviceStream
from guestctl.core.errors import DetectionError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems import Probe, matches
from guestctl.disk.partition import Partition
from guestctl.disk.stat import FileStat

N = TypeVar("N", bound=Hashable)
StrPath = str | os.PathLike[str]

_MAX_SYMLINKS = 40  # as the kernel's MAXSYMLINKS
_MAX_DEPTH = 4096  # a path of one-letter names reaches 2048 at PATH_MAX
_MAX_CACHED_NAMES = 1 << 16


class Identity(NamedTuple):
    """What a device holds, in the words of ``blkid -p``."""

    type: str
    usage: str = "filesystem"
    version: str | None = None
    label: str | None = None
    uuid: str | None = None


class Options(NamedTuple):
    """How filesystems are to be opened."""

    ignore_checksums: bool = False
    codepage: str = "cp437"  # FAT short names
    siblings: Sequence[BlockDevice] = ()  # where the rest of a filesystem on several devices may be


class Usage(NamedTuple):
    """Sizes in bytes, as ``statvfs`` gives them for a mount; inode counts are 0 where there are none."""

    size: int
    used: int
    available: int
    inodes: int = 0
    inodes_used: int = 0


class Entry(NamedTuple, Generic[N]):
    """A name in a directory. ``kind`` is the file type bits of st_mode, or 0 where only the node knows."""

    name: str
    node: N
    kind: int


class Subvolume(NamedTuple):
    """A tree of its own in a filesystem. ``path`` is from the top-level one, without a slash before it; or None."""

    id: int
    parent_id: int  # the subvolume that holds its name
    path: str | None
    uuid: str | None
    parent_uuid: str | None  # of a snapshot: what it was taken from
    generation: int
    read_only: bool


class WalkError(NamedTuple):
    """What went wrong below a path that was walked."""

    path: str
    error: Exception


class FileSystem(ABC, Generic[N]):
    """A filesystem that is read. A room's class sets the attributes and answers the ``node_`` questions."""

    type: str  # blkid's word
    version: str | None = None
    label: str | None = None
    uuid: str | None = None
    size: int  # bytes that the filesystem spans
    block_size: int
    root: N
    warnings: list[str]
    members: Sequence[BlockDevice] = ()  # all its devices, where there may be several
    subvolume_id: int | None = None  # where there are subvolumes: the one that is seen

    # What a room answers

    @abstractmethod
    def usage(self) -> Usage:
        """Bytes and inodes, total and used."""

    @abstractmethod
    def node_stat(self, node: N) -> FileStat:
        """The attributes of `node`."""

    @abstractmethod
    def node_entries(self, node: N) -> Iterable[tuple[str, N, int]]:
        """The names in a directory in on-disk order, without ``.`` and ``..``: tuples as `Entry`."""

    @abstractmethod
    def node_target(self, node: N) -> str:
        """Where a symbolic link points."""

    @abstractmethod
    def node_data(self, node: N) -> BlockDevice:
        """The bytes of a regular file."""

    def node_lookup(self, node: N, name: str) -> N | None:
        """The node that `name` has in the directory `node`, or None."""
        for entry_name, child, _ in self.node_entries(node):
            if entry_name == name:
                return child
        return None

    def node_xattrs(self, node: N) -> dict[str, bytes]:
        """Extended attributes with their full names and the values the kernel shows."""
        return {}

    def node_space(self, node: N) -> Hashable:
        """Which space of inode numbers `node` is in: ``st_ino`` tells files apart within one of them alone."""
        return 0

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of what the filesystem does not use, ascending; it may leave some out.

        Raises `UnsupportedFeature` where that is not known, or not to be trusted.
        """
        raise UnsupportedFeature(f"the free blocks of {self.type}", feature="free blocks")

    def subvolumes(self) -> Sequence[Subvolume]:
        """All subvolumes but the top-level one, by id."""
        return ()

    def open_subvolume(self, path: str) -> FileSystem[N]:
        """The subvolume at `path` as a filesystem of its own. Raises ``FileNotFoundError`` where there is none."""
        raise FileNotFoundError(errno.ENOENT, "No such subvolume", path)

    def close(self) -> None:
        """Release what the filesystem opened; its device stays open."""

    # Paths

    def resolve(self, path: StrPath, *, follow: bool = True) -> N:
        """The node at `path`; a symbolic link in its last component is followed unless told otherwise.

        Raises ``FileNotFoundError``, ``NotADirectoryError`` and, past 40 links, ``OSError`` with ELOOP.
        """
        return self._resolve(os.fspath(path), follow)[-1][1]

    def realpath(self, path: StrPath) -> str:
        """`path` without links, ``.`` and ``..``."""
        return "/" + "/".join(name for name, _, _ in self._resolve(os.fspath(path), True)[1:])

    def _resolve(self, path: str, follow: bool) -> list[tuple[str, N, int]]:
        root = ("", self.root, stat_module.S_IFDIR)
        trail = [root]
        pending = path.split("/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if not stat_module.S_ISDIR(trail[-1][2]):
                raise _error(errno.ENOTDIR, path)
            if name in ("", "."):
                continue
            if name == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            child = self._lookup(trail[-1][1], name)
            if child is None:
                raise _error(errno.ENOENT, path)
            mode = self.node_stat(child).st_mode
            if stat_module.S_ISLNK(mode) and (pending or follow):
                links += 1
                if links > _MAX_SYMLINKS:
                    raise _error(errno.ELOOP, path)
                target = self.node_target(child)
                if target.startswith("/"):
                    trail = [root]
                pending.extend(reversed(target.split("/")))
            else:
                trail.append((name, child, mode))
        return trail

    _names: dict[tuple[N, str], N | None] | None = None

    def _lookup(self, node: N, name: str) -> N | None:
        if self._names is None or len(self._names) > _MAX_CACHED_NAMES:
            self._names = {}
        key = (node, name)
        try:
            return self._names[key]
        except KeyError:
            child = self._names[key] = self.node_lookup(node, name)
            return child

    def stat(self, path: StrPath) -> FileStat:
        """As ``os.stat``."""
        return self.node_stat(self.resolve(path))

    def lstat(self, path: StrPath) -> FileStat:
        """As ``os.lstat``."""
        return self.node_stat(self.resolve(path, follow=False))

    def exists(self, path: StrPath) -> bool:
        return self._mode(path) is not None

    def is_dir(self, path: StrPath) -> bool:
        return stat_module.S_ISDIR(self._mode(path) or 0)

    def is_file(self, path: StrPath) -> bool:
        return stat_module.S_ISREG(self._mode(path) or 0)

    def is_symlink(self, path: StrPath) -> bool:
        return stat_module.S_ISLNK(self._mode(path, follow=False) or 0)

    def _mode(self, path: StrPath, *, follow: bool = True) -> int | None:
        try:
            return self._resolve(os.fspath(path), follow)[-1][2]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise

    def readlink(self, path: StrPath) -> str:
        """As ``os.readlink``."""
        node = self.resolve(path, follow=False)
        if not stat_module.S_ISLNK(self.node_stat(node).st_mode):
            raise _error(errno.EINVAL, os.fspath(path))
        return self.node_target(node)

    def xattrs(self, path: StrPath, *, follow: bool = True) -> dict[str, bytes]:
        """All extended attributes, as ``os.getxattr`` gives each."""
        return self.node_xattrs(self.resolve(path, follow=follow))

    def device(self, path: StrPath) -> BlockDevice:
        """The bytes of a regular file as a `BlockDevice`."""
        path = os.fspath(path)
        node = self.resolve(path)
        mode = self.node_stat(node).st_mode
        if stat_module.S_ISDIR(mode):
            raise _error(errno.EISDIR, path)
        if not stat_module.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return self.node_data(node)

    def open(self, path: StrPath) -> io.BufferedReader:
        """A seekable binary file."""
        return io.BufferedReader(DeviceStream(self.device(path)), 1 << 16)

    def read_bytes(self, path: StrPath, *, limit: int | None = None) -> bytes:
        """The whole file; with `limit`, `InvalidFormat` where it is larger than that many bytes."""
        device = self.device(path)
        if limit is not None and device.size > limit:
            raise InvalidFormat(
                f"{os.fspath(path)} has {device.size} bytes, more than the {limit} that make sense",
                structure="file",
                offset=0,
            )
        return bytes(device.read(0, device.size))

    def read_text(self, path: StrPath, *, limit: int | None = None) -> str:
        """The whole file as UTF-8, bytes that are none as surrogate escapes."""
        return self.read_bytes(path, limit=limit).decode("utf-8", "surrogateescape")

    def listdir(self, path: StrPath = "/") -> list[str]:
        """As ``os.listdir``."""
        path = os.fspath(path)
        return [name for name, _, _ in _checked_names(path, self.node_entries(self._directory(path)))]

    def scandir(self, path: StrPath = "/") -> Iterator[DirEntry]:
        """As ``os.scandir``."""
        path = os.fspath(path)
        base = path.rstrip("/") + "/"
        for name, node, kind in _checked_names(path, self.node_entries(self._directory(path))):
            yield DirEntry(self, node, name, base + name, kind)

    def _directory(self, path: str) -> N:
        _name, node, mode = self._resolve(path, True)[-1]
        if not stat_module.S_ISDIR(mode):
            raise _error(errno.ENOTDIR, path)
        return node

    def walk(self, top: StrPath = "/") -> Iterator[tuple[str, list[str], list[str]]]:
        """As ``os.walk``, top down; a damaged directory raises."""
        pending = [os.fspath(top)]
        while pending:
            path = pending.pop()
            directories: list[str] = []
            files: list[str] = []
            for entry in self.scandir(path):
                (directories if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
            yield path, directories, files
            base = path.rstrip("/") + "/"
            pending.extend(base + name for name in reversed(directories))

    def find(
        self,
        top: StrPath = "/",
        *,
        onerror: Callable[[WalkError], None] | None = None,
        sort: bool = False,
    ) -> Iterator[tuple[str, N, FileStat]]:
        """Everything from `top` down: (path, node, attributes), a directory before what it holds.

        With `sort` the paths of files ascend by their bytes. `onerror` receives what cannot be read, and
        the walk goes on; without it the walk raises. A directory that stands in two places, such as
        inside itself, is an error the second time.
        """
        top = os.fspath(top)
        node = self.resolve(top, follow=False)
        status = self.node_stat(node)
        base = "/" + top.strip("/")
        yield base, node, status
        if not stat_module.S_ISDIR(status.st_mode):
            return
        node_stat, directory = self.node_stat, stat_module.S_IFDIR
        seen: set[N] = {node}
        levels = [self._listing(base, node, onerror, sort)]
        prefixes = [base.rstrip("/") + "/"]
        while levels:
            prefix = prefixes[-1]
            for name, child, _ in levels[-1]:
                path = prefix + name
                try:
                    status = node_stat(child)
                except InvalidFormat as error:
                    _report(path, error, onerror)
                    continue
                yield path, child, status
                if status.st_mode & 0xF000 == directory:
                    if child in seen or len(levels) >= _MAX_DEPTH:
                        message = "a directory in two places" if child in seen else "directories nested too deep"
                        _report(path, InvalidFormat(message, structure="directory", offset=0), onerror)
                        continue
                    seen.add(child)
                    levels.append(self._listing(path, child, onerror, sort))
                    prefixes.append(path + "/")
                    break
            else:
                levels.pop()
                prefixes.pop()

    def _listing(
        self, path: str, node: N, onerror: Callable[[WalkError], None] | None, sort: bool
    ) -> Iterator[tuple[str, N, int]]:
        entries: list[tuple[str, N, int]] = []
        try:
            entries += self.node_entries(node)
        except (InvalidFormat, UnsupportedFeature) as error:
            _report(path, error, onerror)  # and go on with the names that came before
        entries = _checked_names(path, entries, onerror)
        if sort:
            entries.sort(key=self._sort_key)
        return iter(entries)

    def _sort_key(self, entry: tuple[str, N, int]) -> bytes:
        name, node, kind = entry
        is_directory = stat_module.S_ISDIR(kind) if kind else stat_module.S_ISDIR(self.node_stat(node).st_mode)
        return (name + "/" if is_directory else name).encode("utf-8", "surrogateescape")

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths that match an absolute `pattern` of ``*``, ``?``, ``[…]`` and ``**`` (any directories)."""
        parts = [part for part in pattern.split("/") if part]
        yield from self._glob("", parts)

    def _glob(self, base: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            yield base or "/"
            return
        head, rest = parts[0], parts[1:]
        if head == "**":
            yield from self._glob(base, rest)
            for path, directories, _ in self.walk(base or "/"):
                for name in directories:
                    yield from self._glob(path.rstrip("/") + "/" + name, rest)
        elif not any(character in head for character in "*?["):
            if self._mode(f"{base}/{head}", follow=False) is not None:
                yield from self._glob(f"{base}/{head}", rest)
        elif self.is_dir(base or "/"):
            for name in sorted(self.listdir(base or "/")):
                hidden = name.startswith(".") and not head.startswith(".")
                if not hidden and fnmatch.fnmatchcase(name, head):
                    yield from self._glob(f"{base}/{name}", rest)

    def __enter__(self) -> FileSystem[N]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Detection

    @staticmethod
    def identify(device: BlockDevice, usage: str | None = None) -> Identity | None:
        """What `device` holds, or None where nothing known is there; `usage` is the only one to be looked for."""
        for candidate, magic_offset in matches(device):
            if usage not in (None, candidate.usage):
                continue
            identity = _identify(candidate, magic_offset, device)
            if identity is not None:
                return identity
        return None

    @staticmethod
    def detect(
        device: BlockDevice, partition: Partition | None = None, options: Options = Options()
    ) -> FileSystem[Any]:
        """The filesystem on `device`, or in a partition of it.

        Raises `DetectionError` where nothing known is there, `UnsupportedFeature` where what is
        there cannot be read, `InvalidFormat` where it is damaged.
        """
        if partition is not None:
            device = partition.device(device)
        for candidate, magic_offset in matches(device):
            if _identify(candidate, magic_offset, device) is None:
                continue
            opener = getattr(_room(candidate), "open_filesystem", None) if candidate.module else None
            if opener is None:
                raise UnsupportedFeature(f"cannot read {candidate.type} content", feature=candidate.type)
            filesystem: FileSystem[Any] = opener(device, options)
            return filesystem
        raise DetectionError("no known filesystem")


class DirEntry:
    """As ``os.DirEntry``."""

    __slots__ = ("_filesystem", "_kind", "_node", "name", "path")

    def __init__(self, filesystem: FileSystem[Any], node: Any, name: str, path: str, kind: int) -> None:
        self._filesystem = filesystem
        self._node = node
        self._kind = kind
        self.name = name
        self.path = path

    def inode(self) -> int:
        return self.stat(follow_symlinks=False).st_ino

    def is_symlink(self) -> bool:
        return stat_module.S_ISLNK(self._type())

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is(stat_module.S_IFDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._is(stat_module.S_IFREG, follow_symlinks)

    def stat(self, *, follow_symlinks: bool = True) -> FileStat:
        if follow_symlinks and self.is_symlink():
            return self._filesystem.stat(self.path)
        return self._filesystem.node_stat(self._node)

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def _type(self) -> int:
        if not self._kind:
            self._kind = stat_module.S_IFMT(self._filesystem.node_stat(self._node).st_mode)
        return self._kind

    def _is(self, kind: int, follow_symlinks: bool) -> bool:
        if follow_symlinks and self.is_symlink():
            mode = self._filesystem._mode(self.path)
            return mode is not None and stat_module.S_IFMT(mode) == kind
        return self._type() == kind


def _identify(candidate: Probe, magic_offset: int, device: BlockDevice) -> Identity | None:
    identity: Identity | None
    if candidate.module is not None:
        identity = getattr(_room(candidate), candidate.identify)(device)
        return identity
    if candidate.fields is None:
        return Identity(candidate.type, candidate.usage)
    fields = importlib.import_module("guestctl.disk.filesystems.identified.fields")
    identity = fields.read_fields(device, magic_offset, candidate)
    return identity


def _room(candidate: Probe) -> Any:
    package = "guestctl.disk" if "." in str(candidate.module) else "guestctl.disk.filesystems"
    return importlib.import_module(f"{package}.{candidate.module}")


def _checked_names(
    path: str, entries: Iterable[tuple[str, N, int]], onerror: Callable[[WalkError], None] | None = None
) -> list[tuple[str, N, int]]:
    """The entries; one whose name could be taken for a path is corruption, as the kernel has it."""
    entries = entries if isinstance(entries, list) else list(entries)
    if "/" not in "".join([entry[0] for entry in entries]):
        return entries
    bad = [entry for entry in entries if "/" in entry[0]]
    for name, _, _ in bad:
        _report(path, InvalidFormat(f"{name!r} is no file name", structure="directory entry", offset=0), onerror)
    return [entry for entry in entries if "/" not in entry[0]]


def _report(path: str, error: Exception, onerror: Callable[[WalkError], None] | None) -> None:
    if onerror is None:
        raise error
    onerror(WalkError(path, error))


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
