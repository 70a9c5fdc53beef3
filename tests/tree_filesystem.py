"""A `FileSystem` of nodes made by hand, with what no kernel would write: one name twice, names that are paths."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.disk.filesystem import FileSystem, Usage
from guestctl.disk.stat import PlainStat


@dataclass(eq=False)
class Node:
    """A file of any kind; ``entries`` are those of a directory, in order."""

    kind: int = stat.S_IFREG
    mode: int = 0o644
    data: BlockDevice = field(default_factory=lambda: MemoryDevice(b""))
    target: str = ""
    entries: list[tuple[str, Node]] = field(default_factory=list)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    links: int = 1
    uid: int = 0
    rdev: int = 0
    mtime_ns: int = 10**9


def file(data: bytes | BlockDevice = b"", **more: object) -> Node:
    return Node(data=MemoryDevice(data) if isinstance(data, bytes) else data, **more)  # type: ignore[arg-type]


def directory(*entries: tuple[str, Node], mode: int = 0o755) -> Node:
    return Node(stat.S_IFDIR, mode, entries=list(entries))


def link(target: str) -> Node:
    return Node(stat.S_IFLNK, 0o777, target=target)


class TreeFileSystem(FileSystem[Node]):
    type = "tree"
    size = 0
    block_size = 512

    def __init__(self, root: Node) -> None:
        self.root = root
        self.warnings = []

    def usage(self) -> Usage:
        return Usage(1000, 500, 500)

    def node_stat(self, node: Node) -> PlainStat:
        size = len(node.target) if node.target else node.data.size
        return PlainStat(
            st_ino=id(node),
            st_mode=node.kind | node.mode,
            st_nlink=node.links,
            st_size=size,
            st_blocks=0,
            st_atime_ns=0,
            st_mtime_ns=node.mtime_ns,
            st_ctime_ns=0,
            st_uid=node.uid,
            st_rdev=node.rdev,
        )

    def node_entries(self, node: Node) -> Iterable[tuple[str, Node, int]]:
        return [(name, child, child.kind) for name, child in node.entries]

    def node_target(self, node: Node) -> str:
        return node.target

    def node_data(self, node: Node) -> BlockDevice:
        return node.data

    def node_xattrs(self, node: Node) -> dict[str, bytes]:
        return node.xattrs
