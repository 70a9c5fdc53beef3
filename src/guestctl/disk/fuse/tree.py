"""A `FileSystem` as a mount, read-only.

libfuse names files by their paths; the kernel asks for each name once and remembers it, since nothing
here ever changes. What is damaged is EIO, and a damaged directory gives the names that can be read first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.fuse.operations import Entry, Listing, Operations, damage_is_eio, failure

_MAX_CACHED_PATHS = 1 << 17
_MAX_CACHED_XATTRS = 256
_MAX_NAME_BYTES = 1024  # FUSE_NAME_MAX: the kernel drops a listing with a longer name
_NO_XATTR: int = getattr(errno, "ENOATTR", errno.ENODATA)
_UNKNOWN_INODE = 0xFFFFFFFF  # libfuse's; an entry whose inode is 0 counts as removed
_SPACE_SHIFT = 56  # inode numbers have 56 bits in XFS, 48 in NTFS, and less where there is no other tree


class TreeOperations(Operations):
    """The whole tree of `filesystem`, which its caller keeps open."""

    def __init__(self, filesystem: FileSystem[Any]) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._nodes: dict[str, Any] = {}
        self._spaces: dict[Hashable, int] = {}
        self._xattrs = lru_cache(_MAX_CACHED_XATTRS)(filesystem.node_xattrs)

    # Attributes

    @damage_is_eio
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        node = self._node(path)
        status = self._filesystem.node_stat(node)
        return {
            "st_mode": status.st_mode,
            "st_ino": self._inode(node, status.st_ino),
            "st_nlink": status.st_nlink,
            "st_uid": status.st_uid,
            "st_gid": status.st_gid,
            "st_rdev": status.st_rdev,
            "st_size": status.st_size,
            "st_blocks": status.st_blocks,
            "st_atime": status.st_atime_ns,
            "st_mtime": status.st_mtime_ns,
            "st_ctime": status.st_ctime_ns,
        }

    @damage_is_eio
    def readlink(self, path: str) -> str:
        return self._filesystem.node_target(self._node(path))

    @damage_is_eio
    def listxattr(self, path: str) -> list[str]:
        return list(self._xattrs(self._node(path)))

    @damage_is_eio
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        value = self._xattrs(self._node(path)).get(name)
        if value is None:
            raise failure(_NO_XATTR)
        return value

    @damage_is_eio
    def statfs(self, path: str) -> dict[str, int]:
        usage, unit = self._filesystem.usage(), self._filesystem.block_size
        return {
            "f_bsize": unit,
            "f_frsize": unit,
            "f_blocks": usage.size // unit,
            "f_bfree": (usage.size - usage.used) // unit,
            "f_bavail": usage.available // unit,
            "f_files": usage.inodes,
            "f_ffree": usage.inodes - usage.inodes_used,
            "f_favail": usage.inodes - usage.inodes_used,
            "f_namemax": 255,
        }

    # Content

    def device(self, path: str, flags: int) -> BlockDevice:
        return self._filesystem.node_data(self._node(path))

    def listing(self, path: str) -> Listing:
        directory = self._node(path)
        prefix = path.rstrip("/") + "/"
        entries = [
            (".", self._entry_attributes(directory, 0), 1),
            ("..", self._entry_attributes(self._node(os.path.dirname(path)), 0), 2),
        ]
        try:
            damaged = self._add_entries(directory, prefix, entries)
        except GuestctlError:
            damaged = True
        return Listing(entries, damaged)

    def _add_entries(self, directory: Any, prefix: str, entries: list[Entry]) -> bool:
        """Append the entries of `directory`; whether there are names that cannot be shown."""
        damaged = False
        for name, node, kind in self._filesystem.node_entries(directory):
            if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
                damaged = True
                continue
            self._remember(prefix + name, node)
            entries.append((name, self._entry_attributes(node, kind), len(entries) + 1))
        return damaged

    def _entry_attributes(self, node: Any, kind: int) -> dict[str, int]:
        try:
            status = self._filesystem.node_stat(node)
            return {"st_ino": self._inode(node, status.st_ino), "st_mode": status.st_mode}
        except GuestctlError:
            return {"st_ino": _UNKNOWN_INODE, "st_mode": kind}

    # Nodes

    def _node(self, path: str) -> Any:
        """The node at `path`, in which the kernel has resolved links and dots."""
        node = self._nodes.get(path)
        if node is not None:
            return node
        end, node = len(path), None
        while end > 0 and node is None:
            end = path.rfind("/", 0, end)
            node = self._nodes.get(path[:end])
        if node is None:
            node = self._filesystem.root
        for name in path[end:].split("/"):
            if name:
                node = self._filesystem.node_lookup(node, name)
                if node is None:
                    raise failure(errno.ENOENT)
        self._remember(path, node)
        return node

    def _remember(self, path: str, node: Any) -> None:
        if len(self._nodes) >= _MAX_CACHED_PATHS:
            self._nodes.clear()
        self._nodes[path] = node

    def _inode(self, node: Any, number: int) -> int:
        """`number` so that it differs where the kernel would show another st_dev."""
        space = self._spaces.setdefault(self._filesystem.node_space(node), len(self._spaces))
        return (number ^ space << _SPACE_SHIFT) & 0xFFFFFFFFFFFFFFFF
