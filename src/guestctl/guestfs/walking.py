"""What libguestfs takes from The Sleuth Kit and YARA: files by their inodes, without a mount, and by rules.

Deleted files are not shown: a filesystem here is what its kernel shows.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from typing import Any

from guestctl.disk.stat import FileStat
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

_TYPES = {
    stat.S_IFBLK: "b",
    stat.S_IFCHR: "c",
    stat.S_IFDIR: "d",
    stat.S_IFIFO: "f",
    stat.S_IFLNK: "l",
    stat.S_IFREG: "r",
    stat.S_IFSOCK: "s",
}
_ALLOCATED = 1
_NS = 1_000_000_000


class Walking(Handle):
    """``filesystem_walk``, ``find_inode``, and ``yara_…``, which needs the package yara-python."""

    _rules: Any = None

    @launched
    def filesystem_walk(self, device: str) -> list[dict[str, Any]]:
        """A dict with ``tsk_inode``, ``tsk_name`` (without a slash before it) and so on for each file on a device."""
        return list(self._walked(device))

    @launched
    def find_inode(self, device: str, inode: int) -> list[dict[str, Any]]:
        """Those of `filesystem_walk` with an inode number."""
        return [found for found in self._walked(device) if found["tsk_inode"] == inode]

    def _walked(self, device: str) -> Iterator[dict[str, Any]]:
        filesystem = self._filesystem(device)
        for path, node, status in filesystem.find("/", onerror=lambda error: None):
            target = filesystem.node_target(node) if status.is_symlink() else ""
            yield _entry(path.lstrip("/") or ".", status, target)

    @launched
    def yara_load(self, filename: str) -> None:
        """Load the rules in the host's `filename`, compiled or as source; those before them are forgotten."""
        yara = _yara()
        try:
            self._rules = yara.load(filename)
        except yara.Error:
            try:
                self._rules = yara.compile(filename, includes=False)
            except yara.Error as error:
                raise GuestFSError(str(error), errno.EINVAL) from error

    @launched
    def yara_destroy(self) -> None:
        """Forget the rules."""
        self._loaded_rules()
        self._rules = None

    @launched
    def yara_scan(self, path: str) -> list[dict[str, Any]]:
        """A dict with ``yara_name`` (the path) and ``yara_rule`` for each rule that a file matches."""
        rules = self._loaded_rules()
        data = self._tree.read_bytes(self._path(path))
        return [{"yara_name": path, "yara_rule": match.rule} for match in rules.match(data=data)]

    def _loaded_rules(self) -> Any:
        if self._rules is None:
            raise GuestFSError("you must call 'yara_load' first", errno.EINVAL)
        return self._rules


def _entry(name: str, status: FileStat, target: str) -> dict[str, Any]:
    times = {"a": status.st_atime_ns, "m": status.st_mtime_ns, "c": status.st_ctime_ns}
    times["cr"] = status.st_birthtime_ns or 0
    return {
        "tsk_inode": status.st_ino,
        "tsk_type": _TYPES.get(stat.S_IFMT(status.st_mode), "u"),
        "tsk_size": status.st_size,
        "tsk_name": name,
        "tsk_flags": _ALLOCATED,
        **{f"tsk_{kind}time_sec": time // _NS for kind, time in times.items()},
        **{f"tsk_{kind}time_nsec": time % _NS for kind, time in times.items()},
        "tsk_nlink": status.st_nlink,
        "tsk_link": target,
        "tsk_spare1": 0,
    }


def _yara() -> Any:
    try:
        import yara
    except ImportError as error:
        raise NotImplementedError("yara_load: needs the Python package yara-python") from error
    return yara
