"""``Mountpoints``: the directories that ``mkmountpoint`` makes where no root filesystem is mounted."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterable

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.disk.filesystem import FileSystem, Usage
from guestctl.disk.stat import FileStat, PlainStat


class Mountpoints(FileSystem[str]):
    """Empty directories; a node is its path."""

    type = "tmpfs"
    size = 0
    block_size = 4096
    root = "/"

    def __init__(self) -> None:
        self.warnings = []
        self.paths: list[str] = []

    def make(self, path: str) -> None:
        """As ``os.mkdir``."""
        if path == "/" or path in self.paths:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        parent = posixpath.dirname(path)
        if parent != "/" and parent not in self.paths:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.paths.append(path)

    def remove(self, path: str) -> None:
        """As ``os.rmdir``."""
        if path not in self.paths:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if any(posixpath.dirname(other) == path for other in self.paths):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self.paths.remove(path)

    def usage(self) -> Usage:
        return Usage(0, 0, 0)

    def node_stat(self, node: str) -> FileStat:
        number = 1 + (self.paths.index(node) + 1 if node in self.paths else 0)
        return PlainStat(number, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0)

    def node_entries(self, node: str) -> Iterable[tuple[str, str, int]]:
        for path in self.paths:
            if posixpath.dirname(path) == node:
                yield posixpath.basename(path), path, stat.S_IFDIR

    def node_target(self, node: str) -> str:
        raise AssertionError("there are only directories")

    def node_data(self, node: str) -> BlockDevice:
        return MemoryDevice(b"")
