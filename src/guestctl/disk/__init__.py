"""What the bytes of a disk mean: image formats, partitions, volumes, filesystems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.disk.filesystem import FileSystem
    from guestctl.disk.host_device import attach
    from guestctl.disk.loop_device import LoopDevice
    from guestctl.disk.nbd_device import NbdDevice
    from guestctl.disk.partition import Partition, PartitionTable
    from guestctl.disk.reader import DiskReader

_NAMES = {
    "DiskReader": "guestctl.disk.reader",
    "FileSystem": "guestctl.disk.filesystem",
    "LoopDevice": "guestctl.disk.loop_device",
    "NbdDevice": "guestctl.disk.nbd_device",
    "Partition": "guestctl.disk.partition",
    "PartitionTable": "guestctl.disk.partition",
    "attach": "guestctl.disk.host_device",
}

__all__ = ["DiskReader", "FileSystem", "LoopDevice", "NbdDevice", "Partition", "PartitionTable", "attach"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NAMES[name]), name)
