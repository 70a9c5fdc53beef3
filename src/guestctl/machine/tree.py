"""``MountTree``: filesystems mounted on one another, seen as one."""

from __future__ import annotations

import stat as stat_module
from collections.abc import Hashable, Iterable
from typing import Any

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import FileSystem, StrPath, Usage
from guestctl.disk.stat import FileStat

# (index of the filesystem, node in it)
_Node = tuple[int, Any]


class MountTree(FileSystem[_Node]):
    """A tree that crosses filesystems. Attributes such as ``type`` and ``uuid`` are the root filesystem's.

    ``top`` is the directory of the root filesystem that is the root of the tree.
    """

    def __init__(self, root: FileSystem[Any], top: StrPath = "/") -> None:
        self.type = root.type
        self.version = root.version
        self.label = root.label
        self.uuid = root.uuid
        self.size = root.size
        self.block_size = root.block_size
        self.warnings = root.warnings
        self.root = (0, root.resolve(top))
        self._filesystems = [root]
        self._mounts: dict[_Node, _Node] = {}
        self._covered: dict[_Node, set[str]] = {}  # directory -> names in it that are mount points

    def mount(self, path: StrPath, filesystem: FileSystem[Any], source: StrPath = "/") -> None:
        """Put the directory `source` of `filesystem` in the place of the one at `path`."""
        trail = self._resolve(str(path), True)
        if len(trail) < 2:
            raise OSError(f"{path} is the root of the tree")
        name, node, mode = trail[-1]
        if not stat_module.S_ISDIR(mode):
            raise NotADirectoryError(f"{path} is not a directory")
        source_node = filesystem.resolve(source)
        if not filesystem.node_stat(source_node).is_dir():
            raise NotADirectoryError(f"{source} is not a directory")
        self._filesystems.append(filesystem)
        self._mounts[node] = (len(self._filesystems) - 1, source_node)
        self._covered.setdefault(trail[-2][1], set()).add(name)
        self._names = None

    def usage(self) -> Usage:
        return self._filesystems[0].usage()

    def node_stat(self, node: _Node) -> FileStat:
        return self._filesystems[node[0]].node_stat(node[1])

    def node_entries(self, node: _Node) -> Iterable[tuple[str, _Node, int]]:
        index = node[0]
        entries = [(name, (index, child), kind) for name, child, kind in self._filesystems[index].node_entries(node[1])]
        if node in self._covered:
            return [(name, self._mounts.get(child, child), kind) for name, child, kind in entries]
        return entries

    def node_lookup(self, node: _Node, name: str) -> _Node | None:
        child = self._filesystems[node[0]].node_lookup(node[1], name)
        if child is None:
            return None
        found: _Node = (node[0], child)
        return self._mounts.get(found, found)

    def node_target(self, node: _Node) -> str:
        return self._filesystems[node[0]].node_target(node[1])

    def node_data(self, node: _Node) -> BlockDevice:
        return self._filesystems[node[0]].node_data(node[1])

    def node_xattrs(self, node: _Node) -> dict[str, bytes]:
        return self._filesystems[node[0]].node_xattrs(node[1])

    def node_space(self, node: _Node) -> Hashable:
        return node[0], self._filesystems[node[0]].node_space(node[1])
