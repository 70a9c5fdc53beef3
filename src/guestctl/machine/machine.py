"""``Machine``: the disks of one virtual machine, their filesystems, and the guests on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from guestctl.block import BlockDevice
from guestctl.core.errors import DetectionError, GuestctlError
from guestctl.core.types import GuestType
from guestctl.disk.filesystem import FileSystem, Identity, Options, Subvolume, Usage
from guestctl.disk.partition import Partition
from guestctl.disk.reader import DiskReader
from guestctl.disk.volumes.keys import Keys
from guestctl.machine.assembly import Assembly
from guestctl.machine.devices import Devices, Disk
from guestctl.machine.roots import Root, find_root

_SUBVOLUME_PREFIX = "btrfsvol:"


class FoundFilesystem(NamedTuple):
    """What one device holds; ``identity`` is None where nothing known is there."""

    device: str
    size: int
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Guest:
    """One operating system: the device of its root, and its whole tree."""

    root: str
    type: GuestType
    mountpoints: dict[str, str]  # path -> device
    tree: FileSystem[Any]
    installer: bool = False  # a medium that one installs from, or a live system


class Machine:
    """The disks of one virtual machine. Filesystems open when they are asked for.

    A device is called as libguestfs calls it: ``/dev/sda1``, ``/dev/VG/LV``, ``/dev/md127``; a subvolume of a
    Btrfs that is not its default one ``btrfsvol:/dev/sda1/PATH``.
    """

    def __init__(self, disks: Sequence[DiskReader], *, options: Options = Options(), keys: Keys | None = None) -> None:
        self.options = options
        self.warnings: list[str] = []
        self._devices = Devices(disks, keys or Keys(), self.warnings)
        self._filesystems: dict[str, FileSystem[Any]] = {}
        self._failures = dict(self._devices.failures)

    @classmethod
    def open(
        cls,
        *images: str | os.PathLike[str],
        format: str | None = None,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        options: Options = Options(),
        keys: Keys | None = None,
    ) -> Self:
        """Open the images as the disks of one machine, in order; an OVA may hold several.

        Arguments are those of `DiskReader.open`.
        """
        readers: list[DiskReader] = []
        try:
            for image in images:
                readers += DiskReader.open_all(image, format=format, allow_dirs=allow_dirs, keys=keys)
            return cls(readers, options=options, keys=keys)
        except BaseException:
            for reader in readers:
                reader.close()
            raise

    # Devices

    @property
    def disks(self) -> list[Disk]:
        return self._devices.disks

    @property
    def devices(self) -> dict[str, BlockDevice]:
        """Every device that may hold a filesystem, by name: disks and partitions in their order, then volumes."""
        return dict(self._devices.by_name)

    @property
    def partitioned(self) -> dict[str, BlockDevice]:
        """The disks and arrays in whose place there are partitions."""
        return dict(self._devices.partitioned)

    def parents(self, device: str) -> tuple[str, ...]:
        """The devices that `device` lies on: those of a volume, the disk of a partition."""
        return self._devices.parents(device)

    def partition(self, device: str) -> Partition | None:
        """The partition that `device` is, or None for any other."""
        return self._devices.partition(device)

    def identity(self, device: str) -> Identity | None:
        """What `device` holds; a device that cannot be identified is a warning and None."""
        return self._devices.identity(device)

    def found(self) -> Iterator[FoundFilesystem]:
        """What each device holds, without opening it."""
        for name, device in self._devices.by_name.items():
            yield FoundFilesystem(name, device.size, self.identity(name))

    def find_device(self, spec: str) -> str | None:
        """The device that an fstab or kernel command line names: ``UUID=…``, ``/dev/vda1``, ``/dev/disk/by-…``."""
        return self._devices.find(spec)

    def unlock(self, device: str, secret: bytes, name: str) -> None:
        """Open the encrypted `device` as the volume `name`, and assemble what lies on that.

        Raises `KeyRequired` where `secret` does not open it, `DetectionError` where it is not encrypted.
        """
        self._devices.unlock(device, secret, name)

    def lock(self, name: str) -> None:
        """Take back the volume `name` that `unlock` made, on which nothing else may lie."""
        self._devices.lock(name)
        self._filesystems.pop(name, None)
        self._failures.pop(name, None)

    # Filesystems

    @property
    def failures(self) -> dict[str, GuestctlError]:
        """Why what a device holds cannot be read, as far as that was tried."""
        return dict(self._failures)

    def filesystem(self, device: str) -> FileSystem[Any]:
        """The filesystem on `device`, opened once. Raises as `FileSystem.detect`."""
        if device in self._failures:
            raise self._failures[device]
        if device not in self._filesystems:
            if device.startswith(_SUBVOLUME_PREFIX):
                self._filesystems[device] = self._open_subvolume(device)
            else:
                self._open(device)
        return self._filesystems[device]

    def _open(self, name: str) -> None:
        by_name = self._devices.by_name
        if name not in by_name:
            raise DetectionError(f"no device {name} in this machine (there are: {', '.join(by_name)})")
        options = self.options._replace(siblings=self._devices.siblings(name))
        try:
            filesystem = FileSystem.detect(by_name[name], options=options)
        except GuestctlError as error:
            self._failures[name] = error
            raise
        for other, device in by_name.items():
            if other == name or any(device is member for member in filesystem.members):
                self._filesystems[other] = filesystem

    def _open_subvolume(self, name: str) -> FileSystem[Any]:
        rest = name.removeprefix(_SUBVOLUME_PREFIX)
        device = max((one for one in self._devices.by_name if rest.startswith(f"{one}/")), key=len, default=None)
        if device is None:
            raise DetectionError(f"no device of {name} in this machine")
        try:
            return self.filesystem(device).open_subvolume(rest.removeprefix(f"{device}/"))
        except FileNotFoundError as error:
            raise DetectionError(f"{device} has no subvolume {error.filename}") from error

    def subvolumes(self, device: str) -> dict[str, Subvolume]:
        """The subvolumes of the filesystem on `device` but the default one, by the names that `filesystem` takes."""
        filesystem = self.try_filesystem(device)
        if filesystem is None:
            return {}
        try:
            return {
                f"{_SUBVOLUME_PREFIX}{device}/{one.path}": one
                for one in filesystem.subvolumes()
                if one.path is not None and one.id != filesystem.subvolume_id
            }
        except GuestctlError as error:
            self.warnings.append(f"{device}: subvolumes: {error}")
            return {}

    def usage(self, device: str) -> Usage | None:
        """Bytes used on `device`, or None where its filesystem cannot be read."""
        filesystem = self.try_filesystem(device)
        if filesystem is None:
            return None
        try:
            return filesystem.usage()
        except GuestctlError as error:
            self.warnings.append(f"{device}: {error}")
            return None

    def try_filesystem(self, device: str) -> FileSystem[Any] | None:
        """The filesystem on `device`, or None; why what is there cannot be read is a warning, once."""
        known_failure = device in self._failures
        try:
            return self.filesystem(device)
        except DetectionError:
            return None
        except GuestctlError as error:
            if not known_failure:
                self.warnings.append(f"{device}: {error}")
            return None

    # Guests

    def guests(self) -> list[Guest]:
        """Each root filesystem with its mount points assembled into one tree."""
        guests = []
        seen: list[FileSystem[Any]] = []
        for device in self._devices.by_name:
            identity = self.identity(device)
            if identity is not None and identity.usage in ("raid", "crypto"):
                continue
            filesystem = self.try_filesystem(device)
            if filesystem is None or any(filesystem is one for one in seen):
                continue
            seen.append(filesystem)
            root = self._root(device)
            if root is not None:
                guests.append(self._assemble(device, root))
            guests += [self._assemble(name, root) for name, root in self._subvolume_roots(device)]
        return guests

    def _assemble(self, name: str, root: Root) -> Guest:
        found = Assembly(self, name, root)
        return Guest(name, root.type, found.mountpoints, found.tree, root.installer)

    def _subvolume_roots(self, device: str) -> list[tuple[str, Root]]:
        """The roots among subvolumes; snapshots of a root, or what the default subvolume was taken from, are none."""
        subvolumes = self.subvolumes(device)
        roots = {name: root for name in subvolumes if (root := self._root(name)) is not None}
        if not roots:
            return []
        filesystem = self.filesystem(device)
        default = next((one for one in filesystem.subvolumes() if one.id == filesystem.subvolume_id), None)
        originals = {one.uuid for one in (*(subvolumes[name] for name in roots), default) if one and one.uuid}
        return [
            (name, root)
            for name, root in roots.items()
            if subvolumes[name].parent_uuid not in originals
            and not (default and default.parent_uuid == subvolumes[name].uuid)
        ]

    def _root(self, name: str) -> Root | None:
        """What has its root there, or None."""
        filesystem = self.try_filesystem(name)
        if filesystem is None:
            return None
        try:
            root = find_root(filesystem)
            if root is None and filesystem.is_dir("/ostree"):
                from guestctl.machine.ostree import find_deployment

                found = find_deployment(self, filesystem)
                root = Root(GuestType.LINUX, path=found.path, boot=found.boot) if found else None
            return root
        except (GuestctlError, OSError) as error:
            self.warnings.append(f"{name}: {error}")
            return None

    # The whole

    def image_files(self) -> list[str]:
        """The host files that the disks are read from, backing files included."""
        files = []
        for disk in self.disks:
            reader: DiskReader | None = disk.reader
            while reader is not None:
                files.append(reader.path)
                reader = reader.backing
        return files

    def all_warnings(self) -> list[str]:
        """Those of the machine and of every filesystem opened so far, each once."""
        found = dict.fromkeys(self.warnings)
        seen: set[int] = set()
        for device, filesystem in self._filesystems.items():
            if id(filesystem.warnings) not in seen:
                seen.add(id(filesystem.warnings))
                found.update(dict.fromkeys(f"{device}: {warning}" for warning in filesystem.warnings))
        return list(found)

    def close(self) -> None:
        """Close the filesystems and the disks."""
        for filesystem in self._filesystems.values():
            filesystem.close()
        for disk in self.disks:
            disk.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
