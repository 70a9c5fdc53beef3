"""``Path``: a path into a guest, read as with ``pathlib``.

::

    with guestctl.Path("disk.qcow2") as root:
        for line in (root / "etc" / "fstab").read_text().splitlines():
            print(line)
        print(sorted((root / "var/log").rglob("*.log")))

Absolute paths lead to the guest's root, and symbolic links stay inside the guest. What does not exist raises as in
``pathlib``; what is damaged raises `GuestctlError`.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import total_ordering
from itertools import groupby
from pathlib import PurePosixPath
from stat import S_ISBLK, S_ISCHR, S_ISFIFO, S_ISSOCK
from types import TracebackType
from typing import IO, Any, Self

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.stat import FileStat
from guestctl.disk.volumes.keys import Keys
from guestctl.machine import Machine
from guestctl.machine.guest_tree import GuestTree

StrPath = str | os.PathLike[str]

_MAX_SYMLINKS = 40
_MAGIC = re.compile(r"[*?\[]")


@total_ordering
class Path:
    """A path into the guest on the disks `images`, or into the filesystem on `device` of them.

    Other arguments are those of `Machine.open`. What was opened is closed by `close`, as a context manager,
    or with the last path that leads there. Paths are equal where they are the same text in the same guest.
    """

    __slots__ = ("_pure", "_tree")

    def __init__(
        self,
        *images: StrPath,
        device: str | None = None,
        format: str | None = None,
        allow_dirs: Sequence[StrPath] = (),
        keys: Keys | None = None,
    ) -> None:
        machine = Machine.open(*images, format=format, allow_dirs=allow_dirs, keys=keys)
        self._tree = GuestTree.open(machine, device)
        self._pure = PurePosixPath("/")

    @classmethod
    def on(cls, filesystem: FileSystem[Any], path: StrPath = "/") -> Self:
        """A path in a tree that is open, such as ``guest.tree``; closing the path leaves it open."""
        return cls._at(GuestTree(filesystem), PurePosixPath("/", path))

    @classmethod
    def _at(cls, tree: GuestTree, pure: PurePosixPath) -> Self:
        new = cls.__new__(cls)
        new._tree, new._pure = tree, pure
        return new

    def _with(self, pure: PurePosixPath) -> Self:
        return self._at(self._tree, pure)

    def close(self) -> None:
        """Close what `Path` opened, for all paths there."""
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # The text

    @property
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    @property
    def parent(self) -> Self:
        return self._with(self._pure.parent)

    @property
    def parents(self) -> tuple[Self, ...]:
        return tuple(self._with(pure) for pure in self._pure.parents)

    def joinpath(self, *segments: StrPath) -> Self:
        return self._with(self._pure.joinpath(*segments))

    def __truediv__(self, segment: StrPath) -> Self:
        if not isinstance(segment, str | os.PathLike):
            return NotImplemented
        return self._with(self._pure / segment)

    def with_name(self, name: str) -> Self:
        return self._with(self._pure.with_name(name))

    def with_stem(self, stem: str) -> Self:
        return self._with(self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        return self._with(self._pure.with_suffix(suffix))

    def relative_to(self, other: Path | StrPath) -> PurePosixPath:
        """The rest of the path below `other`; ``ValueError`` where it is not below."""
        return self._pure.relative_to(_pure(other))

    def is_relative_to(self, other: Path | StrPath) -> bool:
        return self._pure.is_relative_to(_pure(other))

    def match(self, pattern: str) -> bool:
        return self._pure.match(pattern)

    def as_posix(self) -> str:
        return str(self._pure)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> Self:
        return self

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        return f"<guestctl.Path {str(self._pure)!r}>"

    def __hash__(self) -> int:
        return hash((id(self._tree.filesystem), self._pure))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Path):
            return NotImplemented
        return self._tree.filesystem is other._tree.filesystem and self._pure == other._pure

    def __lt__(self, other: Path) -> bool:
        if not isinstance(other, Path) or self._tree.filesystem is not other._tree.filesystem:
            return NotImplemented
        return self._pure < other._pure

    # Attributes

    def stat(self, *, follow_symlinks: bool = True) -> FileStat:
        """As ``os.stat`` would give for a mount."""
        filesystem = self._tree.filesystem
        return filesystem.stat(str(self)) if follow_symlinks else filesystem.lstat(str(self))

    def lstat(self) -> FileStat:
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        filesystem = self._tree.filesystem
        return filesystem.exists(str(self)) or (not follow_symlinks and filesystem.is_symlink(str(self)))

    def is_dir(self) -> bool:
        return self._tree.filesystem.is_dir(str(self))

    def is_file(self) -> bool:
        return self._tree.filesystem.is_file(str(self))

    def is_symlink(self) -> bool:
        return self._tree.filesystem.is_symlink(str(self))

    def is_fifo(self) -> bool:
        return self._is(S_ISFIFO)

    def is_socket(self) -> bool:
        return self._is(S_ISSOCK)

    def is_block_device(self) -> bool:
        return self._is(S_ISBLK)

    def is_char_device(self) -> bool:
        return self._is(S_ISCHR)

    def _is(self, kind: Callable[[int], bool]) -> bool:
        return self.exists() and kind(self.stat().st_mode)

    def owner(self) -> str:
        """The user's name in the guest's /etc/passwd; ``KeyError`` where it has none."""
        return _name(self._tree.users, self.stat().st_uid, "uid")

    def group(self) -> str:
        """The group's name in the guest's /etc/group; ``KeyError`` where it has none."""
        return _name(self._tree.groups, self.stat().st_gid, "gid")

    def xattrs(self, *, follow_symlinks: bool = True) -> dict[str, bytes]:
        """Extended attributes by their full names."""
        return self._tree.filesystem.xattrs(str(self), follow=follow_symlinks)

    def readlink(self) -> PurePosixPath:
        """Where a symbolic link points, relative or absolute in the guest: ``path.parent / path.readlink()``."""
        return PurePosixPath(self._tree.filesystem.readlink(str(self)))

    def resolve(self, strict: bool = False) -> Self:
        """The path without links and ``..``; what is missing is left as it is, unless `strict`."""
        filesystem = self._tree.filesystem
        missing: list[str] = []
        pure = self._pure
        links = 0
        while True:
            try:
                found = PurePosixPath(filesystem.realpath(str(pure)))
            except (FileNotFoundError, NotADirectoryError):
                if strict or links > _MAX_SYMLINKS:
                    raise
                if filesystem.is_symlink(str(pure)):  # to what is missing
                    links += 1
                    pure = pure.parent / self._with(pure).readlink()
                else:
                    missing.append(pure.name)
                    pure = pure.parent
                continue
            for name in reversed(missing):
                found = found.parent if name == ".." else found / name
            return self._with(found)

    # Content

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """As ``pathlib.Path.open``, to read; text is UTF-8 unless told otherwise. The file keeps the guest open."""
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        if sorted(mode) not in (["r"], ["b", "r"], ["r", "t"]):
            raise ValueError(f"invalid mode: {mode!r}")
        if "b" in mode and (encoding, errors, newline) != (None, None, None):
            raise ValueError("binary mode takes no encoding, errors or newline")
        file = self._tree.open_file(str(self))
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        return self._tree.filesystem.read_bytes(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """As ``pathlib.Path.read_text``, of UTF-8 unless told otherwise."""
        data = io.BytesIO(self.read_bytes())
        return io.TextIOWrapper(data, encoding or "utf-8", errors, newline).read()

    # Directories

    def iterdir(self) -> Iterator[Self]:
        for name in self._tree.filesystem.listdir(str(self)):
            yield self._with(self._pure / name)

    def glob(self, pattern: str) -> Iterator[Self]:
        """As ``pathlib.Path.glob``; ``**`` is any directories, links to them not followed."""
        pure = PurePosixPath(pattern)
        if pure.is_absolute():
            raise NotImplementedError("Non-relative patterns are unsupported")
        if not pure.parts:
            raise ValueError(f"Unacceptable pattern: {pattern!r}")
        parts = [head for head, group in groupby(pure.parts) for _ in (group if head != "**" else (head,))]
        found = self._select(self._pure, parts, directories=pattern.endswith("/"))
        seen: set[PurePosixPath] = set()  # several ** find the same more than once
        for path in found:
            if path not in seen:
                seen.add(path)
                yield self._with(path)

    def rglob(self, pattern: str) -> Iterator[Self]:
        if PurePosixPath(pattern).is_absolute():
            raise NotImplementedError("Non-relative patterns are unsupported")
        return self.glob(f"**/{pattern}")

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[Exception], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Self, list[str], list[str]]]:
        """As ``pathlib.Path.walk``: (path, names of directories, names of the rest).

        `on_error` hears of directories that cannot be read; without it those that are damaged raise. A
        directory that stands in two places is damaged, unless links are followed.
        """
        seen: set[Any] = set()
        pending: list[tuple[PurePosixPath, tuple[list[str], list[str]] | None]] = [(self._pure, None)]
        while pending:
            pure, names = pending.pop()
            if names is not None:
                yield self._with(pure), *names
                continue
            try:
                names = self._names(pure, follow_symlinks, seen)
            except (GuestctlError, OSError) as error:
                if on_error is not None:
                    on_error(error)
                elif isinstance(error, GuestctlError):
                    raise
                continue
            if top_down:
                yield self._with(pure), *names
            else:
                pending.append((pure, names))
            pending += [(pure / name, None) for name in reversed(names[0])]

    def _names(self, pure: PurePosixPath, follow_symlinks: bool, seen: set[Any]) -> tuple[list[str], list[str]]:
        node = self._tree.filesystem.resolve(str(pure))
        if node in seen and not follow_symlinks:
            raise InvalidFormat(f"{pure} is a directory in two places", structure="directory", offset=0)
        seen.add(node)
        directories: list[str] = []
        others: list[str] = []
        for entry in self._tree.filesystem.scandir(str(pure)):
            (directories if entry.is_dir(follow_symlinks=follow_symlinks) else others).append(entry.name)
        return directories, others

    def _select(self, base: PurePosixPath, parts: list[str], *, directories: bool) -> Iterator[PurePosixPath]:
        if not parts:
            yield base
            return
        head, rest = parts[0], parts[1:]
        only_directories = bool(rest) or directories
        if head == "**":
            for path, _, _ in self._with(base).walk():
                yield from self._select(path._pure, rest, directories=directories)
        elif not _MAGIC.search(head):
            path = self._with(base / head)
            if path.is_dir() if only_directories else path.exists(follow_symlinks=False):
                yield from self._select(path._pure, rest, directories=directories)
        elif self._tree.filesystem.is_dir(str(base)):
            for entry in self._tree.filesystem.scandir(str(base)):
                if fnmatch.fnmatchcase(entry.name, head) and (not only_directories or entry.is_dir()):
                    yield from self._select(base / entry.name, rest, directories=directories)


def _pure(path: Path | StrPath) -> PurePosixPath:
    return path._pure if isinstance(path, Path) else PurePosixPath(path)


def _name(names: dict[int, str], number: int, kind: str) -> str:
    if number not in names:
        raise KeyError(f"{kind} not found: {number}")
    return names[number]
