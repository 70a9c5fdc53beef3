"""The files that differ between two trees: two sorted walks side by side, nothing kept but what could not be read.

Compared are type, content, permissions, owner, extended attributes, targets of links and numbers of devices;
times are not. A file in the place of a directory is the one removed and the other added.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from guestctl.core.errors import GuestctlError
from guestctl.detectors.diff.places import Places
from guestctl.detectors.files import Tree
from guestctl.disk.filesystem import WalkError
from guestctl.disk.stat import FileStat

OnError = Callable[[WalkError], None]

_TEXTS_BELOW = "/etc/"
_MAX_TEXT_BYTES = 64 << 10
_MAX_TEXT_LINES = 1000  # difflib is quadratic
_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)


class FileState(msgspec.Struct, frozen=True, kw_only=True):
    """A file on one side; ``mode`` is st_mode."""

    mode: int
    uid: int
    gid: int
    size: int


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """A file that differs: added where ``before`` is None, removed where ``after`` is."""

    path: str
    before: FileState | None
    after: FileState | None
    differs: list[str] = []  # "type", "content", "mode", "owner", "xattrs", "target", "device"
    diff: str = ""  # of a text, as diff -u prints it


class _Found(NamedTuple):
    key: bytes  # by which walks ascend
    path: str
    node: Any
    status: FileStat


def diff_files(
    left: Tree,
    right: Tree,
    top: str = "/",
    *,
    places: Places,
    onerror: OnError,
    quick: bool = False,
    with_text: bool = False,
) -> Iterator[FileChange]:
    """What differs at `top` and below it, by path. `onerror` receives what cannot be compared.

    With `quick` files of one size, mtime and ctime are taken for the same. `with_text` shows how small texts below
    /etc differ that everyone in the guest may read. Raises ``FileNotFoundError`` where `top` is on neither side.
    """
    if not any(_is_there(tree, top) for tree in (left, right)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), top)
    failed: tuple[set[str], set[str]] = (set(), set())
    walks = [_walk(tree, top, paths, onerror) for tree, paths in zip((left, right), failed, strict=True)]
    pair = _Pair(left, right, places, quick, with_text)
    before, after = next(walks[0], None), next(walks[1], None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.key < after.key):
            assert before is not None
            if not _hidden(before.path, failed[1]):
                yield FileChange(path=before.path, before=_state(before.status), after=None)
            before = next(walks[0], None)
        elif before is None or after.key < before.key:
            if not _hidden(after.path, failed[0]):
                yield FileChange(path=after.path, before=None, after=_state(after.status))
            after = next(walks[1], None)
        else:
            try:
                change = pair.compare(before, after)
            except (GuestctlError, OSError) as error:
                onerror(WalkError(after.path, error))
                change = None
            if change is not None:
                yield change
            before, after = next(walks[0], None), next(walks[1], None)


def _is_there(tree: Tree, top: str) -> bool:
    return tree.exists(top) or tree.is_symlink(top)


def _walk(tree: Tree, top: str, failed: set[str], onerror: OnError) -> Iterator[_Found]:
    def remember(failure: WalkError) -> None:
        failed.add(failure.path)
        onerror(failure)

    if not _is_there(tree, top):
        return
    for path, node, status in tree.find(top, onerror=remember, sort=True):
        name = path + "/" if stat.S_ISDIR(status.st_mode) else path
        yield _Found(name.encode("utf-8", "surrogateescape"), path, node, status)


def _hidden(path: str, failed: set[str]) -> bool:
    """Whether what is not there may be so only because it, or a directory above, could not be read."""
    if not failed:
        return False
    parts = path.split("/")
    return path in failed or any(("/".join(parts[:count]) or "/") in failed for count in range(1, len(parts)))


def _state(status: FileStat) -> FileState:
    return FileState(mode=status.st_mode, uid=status.st_uid, gid=status.st_gid, size=status.st_size)


class _Pair:
    """The two trees, and how their files are compared."""

    def __init__(self, left: Tree, right: Tree, places: Places, quick: bool, with_text: bool) -> None:
        self._left = left
        self._right = right
        self._places = places
        self._quick = quick
        self._with_text = with_text

    def compare(self, before: _Found, after: _Found) -> FileChange | None:
        old, new = before.status, after.status
        differs = []
        if old.st_mode != new.st_mode:
            if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
                differs.append("type")
            if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
                differs.append("mode")
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            differs.append("owner")
        if "type" not in differs:
            differs += self._data(before, after)
        if self._left.node_xattrs(before.node) != self._right.node_xattrs(after.node):
            differs.append("xattrs")
        if not differs:
            return None
        diff = self._text(before, after) if self._with_text and "content" in differs else ""
        return FileChange(path=after.path, before=_state(old), after=_state(new), differs=differs, diff=diff)

    def _data(self, before: _Found, after: _Found) -> list[str]:
        old, new = before.status, after.status
        kind = stat.S_IFMT(new.st_mode)
        if kind == stat.S_IFREG:
            return [] if self._same_content(before, after) else ["content"]
        if kind == stat.S_IFLNK:
            same = self._left.node_target(before.node) == self._right.node_target(after.node)
            return [] if same else ["target"]
        return ["device"] if kind in _DEVICES and old.st_rdev != new.st_rdev else []

    def _same_content(self, before: _Found, after: _Found) -> bool:
        old, new = before.status, after.status
        if old.st_size != new.st_size:
            return False
        if self._quick and (old.st_mtime_ns, old.st_ctime_ns) == (new.st_mtime_ns, new.st_ctime_ns):
            return True
        left, right = self._left.node_data(before.node), self._right.node_data(after.node)
        return self._places.same_content(left, right)

    def _text(self, before: _Found, after: _Found) -> str:
        public = before.status.st_mode & after.status.st_mode & stat.S_IROTH
        if not (public and after.path.startswith(_TEXTS_BELOW)):
            return ""
        sides = [_lines(self._left, before), _lines(self._right, after)]
        if sides[0] is None or sides[1] is None:
            return ""
        from difflib import unified_diff

        name = after.path.lstrip("/")
        return "".join(unified_diff(sides[0], sides[1], f"a/{name}", f"b/{name}"))


def _lines(tree: Tree, found: _Found) -> list[str] | None:
    """The lines of a small text, each with its end; None where it is none."""
    if found.status.st_size > _MAX_TEXT_BYTES:
        return None
    device = tree.node_data(found.node)
    content = bytes(device.read(0, device.size)) if device.size <= _MAX_TEXT_BYTES else b"\0"
    if b"\0" in content:
        return None
    parts = content.decode("utf-8", "surrogateescape").split("\n")
    lines = [f"{part}\n" for part in parts[:-1]]
    if parts[-1]:
        lines.append(f"{parts[-1]}\n\\ No newline at end of file\n")
    return lines if len(lines) <= _MAX_TEXT_LINES else None
