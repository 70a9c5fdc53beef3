"""A `System` over a directory of this machine, or over files in memory, for the detectors of guests."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from guestctl.core.types import GuestType
from guestctl.detectors.files import Tree
from guestctl.detectors.system import System
from guestctl.machine import Guest, Machine
from memory_filesystem import MemoryFileSystem
from tree_filesystem import Node, TreeFileSystem, directory, file, link


def system_of(tree: Tree, family: GuestType = GuestType.LINUX) -> System:
    guest = SimpleNamespace(tree=tree, type=family, root="/dev/sda1")
    return System(cast(Machine, None), cast(Guest, guest))


def memory_system(files: Mapping[str, str | bytes | None], family: GuestType = GuestType.LINUX) -> System:
    return system_of(MemoryFileSystem(files), family)


def host_system(root: Path) -> System:
    """The files below `root` with their modes, owners and times."""
    return system_of(TreeFileSystem(_node(root)))


def _node(path: Path) -> Node:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return link(os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return directory(*[(child.name, _node(child)) for child in path.iterdir()])
    data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return file(data, mode=status.st_mode & 0o7777, uid=status.st_uid, mtime_ns=status.st_mtime_ns)
