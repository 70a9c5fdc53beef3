"""Where a loader's paths lead: it knows a device and a path on it, the guest a path in its tree.

A file is called by its path in the tree; on a device that is not mounted there by GRUB's notation,
``(/dev/sda1)/EFI/BOOT/BOOTX64.EFI``. Loaders see the top level of a Btrfs, or its default subvolume.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.detectors.firmware import efi_system_partitions
from guestctl.detectors.system import System
from guestctl.disk.filesystem import FileSystem

# No menu is larger; parsing takes some microseconds a character.
_MAX_TEXT_BYTES = 1 << 20
_MAX_NAMES = 1000  # of a directory of entries
_SUBVOLUME_PREFIX = "btrfsvol:"


class _Mount(NamedTuple):
    mountpoint: str  # without a slash at the end
    device: str
    prefix: str  # where its root is as a loader sees the device; without a slash at the end


class Places:
    """The files that the loaders of a guest may name."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.machine = system.machine
        self._filesystems: dict[str, FileSystem[Any] | None] = {}

    @cached_property
    def _mounts(self) -> list[_Mount]:
        """Those in the tree, the ones with the longest prefixes first."""
        mounts = [
            _Mount(mountpoint.rstrip("/"), *self._split(name))
            for mountpoint, name in self.system.guest.mountpoints.items()
        ]
        return sorted(mounts, key=lambda mount: len(mount.prefix), reverse=True)

    def _split(self, name: str) -> tuple[str, str]:
        rest = name.removeprefix(_SUBVOLUME_PREFIX)
        if rest == name:
            return name, self._default_prefix(name)
        device = max((one for one in self.machine.devices if rest.startswith(f"{one}/")), key=len)
        return device, rest.removeprefix(device).rstrip("/")

    def _default_prefix(self, device: str) -> str:
        """The path of the default subvolume of a Btrfs; nothing elsewhere."""
        filesystem = self.machine.filesystem(device)
        if filesystem.subvolume_id is None:
            return ""
        found = (one.path for one in filesystem.subvolumes() if one.id == filesystem.subvolume_id and one.path)
        return "".join(f"/{path}" for path in found)

    @cached_property
    def esps(self) -> list[str]:
        """The EFI system partitions."""
        return list(efi_system_partitions(self.machine))

    def filesystem(self, device: str) -> FileSystem[Any] | None:
        """What is on `device` as a loader sees it; None where that cannot be read."""
        if device not in self._filesystems:
            try:
                found = self.machine.filesystem(device)
                self._filesystems[device] = found.open_subvolume("") if found.subvolume_id is not None else found
            except GuestctlError:
                self._filesystems[device] = None  # a warning of the machine's
        return self._filesystems[device]

    def locate(self, device: str | None, path: str) -> str:
        """What the file at `path` of `device` is called; where the device is unknown, it is looked for in the tree."""
        path = "/" + path.lstrip("/")
        tree = self.system.tree
        if device is None:
            return next((base + path for base in ("", "/boot") if tree.exists(base + path)), path)
        filesystem = self.filesystem(device)
        if filesystem is not None and filesystem.subvolume_id is not None and not filesystem.exists(path):
            relative = self._default_prefix(device) + path
            path = relative if filesystem.exists(relative) else path
        for mountpoint, mounted, prefix in self._mounts:
            if mounted == device and f"{path}/".startswith(f"{prefix}/"):
                return mountpoint + path.removeprefix(prefix) or "/"
        return f"({device}){path}"

    def origin(self, name: str) -> tuple[str, str]:
        """The device, and the path on it, of a file that is called `name`: what `locate` was given."""
        if name.startswith("("):
            device, _, path = name[1:].partition(")")
            return device, path
        found = [mount for mount in self._mounts if f"{name}/".startswith(f"{mount.mountpoint}/")]
        mountpoint, device, prefix = max(found, key=lambda mount: len(mount.mountpoint))
        return device, prefix + name.removeprefix(mountpoint)

    def _resolve(self, name: str) -> tuple[FileSystem[Any] | None, str]:
        if not name.startswith("("):
            return self.system.tree, name
        device, path = self.origin(name)
        return self.filesystem(device), path

    def is_file(self, name: str) -> bool:
        filesystem, path = self._resolve(name)
        return filesystem is not None and filesystem.is_file(path)

    def kind(self, name: str) -> str | None:
        """Whether a "file" or a "directory" is there; None where nothing is."""
        filesystem, path = self._resolve(name)
        if filesystem is None or not filesystem.exists(path):
            return None
        return "directory" if filesystem.is_dir(path) else "file"

    def open(self, name: str) -> BlockDevice:
        """The bytes of a file. Raises as `FileSystem.device`."""
        filesystem, path = self._resolve(name)
        if filesystem is None:
            raise FileNotFoundError(2, "No such file or directory", name)
        return filesystem.device(path)

    def read_text(self, name: str) -> str | None:
        """The text of a file, or None where there is none; what cannot be read is a warning."""
        filesystem, path = self._resolve(name)
        try:
            if filesystem is None or not filesystem.is_file(path):
                return None
            return filesystem.read_text(path, limit=_MAX_TEXT_BYTES)
        except (GuestctlError, OSError) as error:
            self.warn(name, error)
            return None

    def listdir(self, name: str) -> list[str]:
        """Sorted names in a directory; none where there is none, or it cannot be read, which is a warning."""
        filesystem, path = self._resolve(name)
        try:
            if filesystem is None or not filesystem.is_dir(path):
                return []
            names = sorted(filesystem.listdir(path))
        except (GuestctlError, OSError) as error:
            self.warn(name, error)
            return []
        if len(names) > _MAX_NAMES:
            self.warn(name, f"only the first {_MAX_NAMES} of {len(names)} names are looked at")
        return names[:_MAX_NAMES]

    def warn(self, name: str, problem: Exception | str) -> None:
        """Add a warning, once."""
        warning = f"{name}: {problem}"
        if warning not in self.system.warnings:
            self.system.warnings.append(warning)
