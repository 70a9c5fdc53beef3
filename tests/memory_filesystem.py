"""A `FileSystem` over a dictionary, for what looks at files and does not care where they lie."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.disk.filesystem import FileSystem, Usage
from guestctl.disk.stat import PlainStat


class Link(str):
    """Content that makes a symbolic link."""


class MemoryFileSystem(FileSystem[str]):
    """``{"/etc/hostname": "guest", "/bin": Link("usr/bin"), "/proc": None}``; None is a directory."""

    type = "memory"
    size = 0
    block_size = 512
    root = "/"

    def __init__(self, files: Mapping[str, str | bytes | None], *, xattrs: dict[str, dict[str, bytes]] | None = None):
        self.warnings = []
        self._xattrs = xattrs or {}
        self._files: dict[str, str | bytes | None] = {"/": None}
        for path, content in files.items():
            parent = path.rpartition("/")[0]
            while parent:
                self._files.setdefault(parent, None)
                parent = parent.rpartition("/")[0]
            self._files[path] = content
        self._inodes = {path: number for number, path in enumerate(self._files, 2)}

    def usage(self) -> Usage:
        return Usage(1000, 500, 500)

    def node_stat(self, node: str) -> PlainStat:
        content = self._files[node]
        kind = stat.S_IFDIR if content is None else stat.S_IFLNK if isinstance(content, Link) else stat.S_IFREG
        size = len(content.encode() if isinstance(content, str) else content or b"")
        return PlainStat(self._inodes[node], kind | 0o755, 1, size, 0, 0, 0, 0)

    def node_entries(self, node: str) -> Iterable[tuple[str, str, int]]:
        prefix = node.rstrip("/") + "/"
        for path in self._files:
            if path.startswith(prefix) and path != prefix and "/" not in path[len(prefix) :]:
                yield path[len(prefix) :], path, stat.S_IFMT(self.node_stat(path).st_mode)

    def node_target(self, node: str) -> str:
        content = self._files[node]
        assert isinstance(content, Link)
        return str(content)

    def node_data(self, node: str) -> BlockDevice:
        content = self._files[node]
        assert content is not None
        return MemoryDevice(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)

    def node_xattrs(self, node: str) -> dict[str, bytes]:
        return self._xattrs.get(node, {})
