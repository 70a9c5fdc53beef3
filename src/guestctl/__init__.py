"""guestctl looks inside virtual machine disks, converts them and repairs them, from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl._version import __version__

if TYPE_CHECKING:
    from guestctl.core.errors import GuestctlError
    from guestctl.disk import DiskReader, FileSystem, PartitionTable
    from guestctl.path import Path

_NAMES = {
    "DiskReader": "guestctl.disk.reader",
    "FileSystem": "guestctl.disk.filesystem",
    "GuestctlError": "guestctl.core.errors",
    "PartitionTable": "guestctl.disk.partition",
    "Path": "guestctl.path",
}

__all__ = ["DiskReader", "FileSystem", "GuestctlError", "PartitionTable", "Path", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
