"""Guests out of dictionaries, for tests of what boots: a machine whose devices hold `MemoryFileSystem`s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from guestctl.core.errors import DetectionError
from guestctl.core.types import GuestType
from guestctl.detectors.system import System
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.machine import Guest, Machine
from guestctl.machine.tree import MountTree
from memory_filesystem import MemoryFileSystem

Files = Mapping[str, str | bytes | None]
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"


@dataclass
class MemoryMachine:
    """The devices of one disk by their names; those that ``types`` names are partitions with that type, and FAT."""

    filesystems: dict[str, FileSystem[Any]]
    types: dict[str, str] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)  # ``UUID=…`` -> device
    warnings: list[str] = field(default_factory=list)

    @property
    def devices(self) -> dict[str, None]:
        return dict.fromkeys(self.filesystems)

    @property
    def disks(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="/dev/sda", reader=SimpleNamespace(size=0), table=None)]

    def filesystem(self, device: str) -> FileSystem[Any]:
        if device not in self.filesystems:
            raise DetectionError(f"no device {device}")
        return self.filesystems[device]

    def identity(self, device: str) -> Identity:
        return Identity("vfat" if device in self.types else "ext4")

    def partition(self, device: str) -> SimpleNamespace:
        return SimpleNamespace(type=self.types.get(device, "0fc63daf-8483-4772-8e79-3d69d8477de4"))

    def find_device(self, spec: str) -> str | None:
        return self.specs.get(spec, spec if spec in self.filesystems else None)


def memory_system(
    files: Mapping[str, Files],
    mountpoints: Mapping[str, str],
    *,
    types: Mapping[str, str] | None = None,
    specs: Mapping[str, str] | None = None,
    family: GuestType = GuestType.LINUX,
) -> System:
    """A guest, of Linux if not told: `files` of each device, and where devices are mounted, the root first."""
    filesystems: dict[str, FileSystem[Any]] = {device: MemoryFileSystem(one) for device, one in files.items()}
    root = mountpoints["/"]
    tree = MountTree(filesystems[root])
    for path, device in mountpoints.items():
        if path != "/":
            tree.mount(path, filesystems[device])
    machine = cast(Machine, MemoryMachine(filesystems, dict(types or {}), dict(specs or {})))
    return System(machine, Guest(root, family, dict(mountpoints), tree))
