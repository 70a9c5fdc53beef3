"""``Handle``: the state of a handle, and what its groups of calls have in common."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple, TypeVar

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import FileSystem, Identity, Options
from guestctl.disk.volumes.keys import Keys
from guestctl.guestfs.calls import NOT_LAUNCHED, GuestFSError
from guestctl.guestfs.events import EVENT_ENTER, EVENT_TRACE, Events
from guestctl.guestfs.mountpoints import Mountpoints
from guestctl.machine import Machine
from guestctl.machine.tree import MountTree

E = TypeVar("E", bound=RuntimeError)

SUBVOLUME_PREFIX = "btrfsvol:"


class Drive(NamedTuple):
    """A disk image that was added."""

    path: str
    read_only: bool
    format: str | None = None
    label: str | None = None


class Handle:
    """What every group of calls may use. Names that begin with an underscore are ours, all others libguestfs's."""

    def __init__(
        self,
        python_return_dict: bool = False,
        environment: bool = True,
        close_on_exit: bool = True,
        *,
        keys: Keys | None = None,
        options: Options = Options(),
    ) -> None:
        self._lock = threading.RLock()
        self._inside = False
        self._closed = False
        self._python_return_dict = python_return_dict
        self._keys = keys
        self._options = options
        self._drives: list[Drive] = []
        self._scratch: list[IO[bytes]] = []
        self._machine_or_none: Machine | None = None
        self._mountpoints = Mountpoints()
        # where -> (mountable, filesystem), in the order in which they were mounted
        self._mounts: dict[str, tuple[str, FileSystem[Any]]] = {}
        self._tree_or_none: FileSystem[Any] | None = None
        self._events = Events()
        self._errno = 0
        self._error_text: str | None = None

        self._settings: dict[str, Any] = {}
        if environment:
            self._parse_environment(os.environ)

    # Settings that the rest needs

    def _parse_environment(self, environment: Mapping[str, str]) -> None:
        """Take over the settings that the environment makes."""

    def _temporary_directory(self) -> str | None:
        return self._settings.get("tmpdir")

    def _allowed_directories(self) -> Sequence[str]:
        """Where, besides the images' own directories, backing files may lie: the backend setting ``allow_dir=DIR``."""
        settings: Sequence[str] = self._settings.get("backend_settings", ())
        return [value for name, _, value in (one.partition("=") for one in settings) if name == "allow_dir"]

    def _end_groups(self) -> None:
        """Close what the groups of calls have open."""

    # Around a call

    def is_ready(self) -> bool:
        """Whether the handle was launched."""
        return self._machine_or_none is not None

    def _entered(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._events.send(EVENT_ENTER, name)
        if self._settings.get("trace"):
            words = [_quote(value) for value in args] + [f"{key}:{_quote(value)}" for key, value in kwargs.items()]
            self._events.send(EVENT_TRACE, " ".join([name, *words]))

    def _left(self, name: str, result: object) -> None:
        if self._settings.get("trace"):
            self._events.send(EVENT_TRACE, f"{name} = {0 if result is None else _quote(result)}")

    def _failed(self, error: E) -> E:
        self._errno = getattr(error, "errno", errno.ENOTSUP)
        self._error_text = str(error)
        if self._settings.get("trace"):
            self._events.send(EVENT_TRACE, f"{self._error_text} (error)")
        return error

    def last_error(self) -> str | None:
        """The message of the last call that failed, or None."""
        return self._error_text

    def last_errno(self) -> int:
        """The errno of the last call that failed; 0 where there is none."""
        return self._errno

    # What calls work on

    @property
    def _machine(self) -> Machine:
        if self._machine_or_none is None:  # the call of a callback, say
            raise GuestFSError(NOT_LAUNCHED)
        return self._machine_or_none

    @property
    def _tree(self) -> FileSystem[Any]:
        """All that is mounted, as one tree."""
        if self._tree_or_none is None:
            self._tree_or_none = self._mount_all()
        return self._tree_or_none

    def _mount_all(self) -> FileSystem[Any]:
        if "/" not in self._mounts and not self._mountpoints.paths:
            raise GuestFSError("you must call 'mount' first to mount the root filesystem", errno.EINVAL)
        tree = MountTree(self._mounts["/"][1] if "/" in self._mounts else self._mountpoints)
        for path, (_, filesystem) in self._mounts.items():
            if path != "/":
                tree.mount(path, filesystem)
        return tree

    def _filesystem(self, mountable: str) -> FileSystem[Any]:
        """The filesystem on a device, or the subvolume."""
        return self._machine.filesystem(self._mountable(mountable))

    def _mountable(self, mountable: str) -> str:
        """A subvolume's name, or a device's, as libguestfs writes it."""
        return mountable if mountable.startswith(SUBVOLUME_PREFIX) else self._name(mountable)

    def _identity(self, device: str) -> Identity | None:
        """What a device holds; None for one in whose place there are partitions."""
        name = self._name(device)
        return None if name in self._machine.partitioned else self._machine.identity(name)

    def _name(self, device: str) -> str:
        """The device that may also be called /dev/vda1, /dev/mapper/VG-LV or /dev/disk/guestfs/LABEL."""
        label, _, number = device.removeprefix("/dev/disk/guestfs/").partition("/")
        if device.startswith("/dev/disk/guestfs/") and not number:
            found = self._labelled(label)
        else:
            found = device if device in self._machine.partitioned else self._machine.find_device(device)
        if found is None or not device.startswith("/dev/"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), device)
        return found

    def _labelled(self, label: str) -> str | None:
        for disk, drive in zip(self._machine.disks, self._drives, strict=False):
            if drive.label and label.startswith(drive.label):
                number = label.removeprefix(drive.label)
                if not number or f"{disk.name}{number}" in self._machine.devices:
                    return disk.name + number
        return None

    def _device(self, device: str) -> BlockDevice:
        """The bytes of a device."""
        name = self._name(device)
        return self._machine.partitioned.get(name) or self._machine.devices[name]

    def _path(self, path: str | os.PathLike[str]) -> str:
        """`path` if it is absolute."""
        path = os.fspath(path)
        if not path.startswith("/"):
            raise GuestFSError("path must start with a / character", errno.EINVAL)
        return path

    def _hash(self, table: Mapping[str, str]) -> Any:
        """A table of strings in the form that the constructor was asked for."""
        return dict(table) if self._python_return_dict else list(table.items())


def device_of(mountable: str) -> str:
    """The device of ``btrfsvol:DEVICE/PATH``; any other mountable is a device."""
    match = re.fullmatch(f"{SUBVOLUME_PREFIX}(/dev/(?:mapper/[^/]+|[^/]*[0-9]|[a-z]+|[^/]+/[^/]+))/.+", mountable)
    return match[1] if match else mountable


def normal(path: str) -> str:
    """An absolute path without what is superfluous in it."""
    return "/" + posixpath.normpath(path).strip("/") if path.strip("/") else "/"


def _quote(value: object) -> str:
    if isinstance(value, bytes):
        value = value[:256].decode("utf-8", "backslashreplace")
    return f'"{value}"' if isinstance(value, str) else str(value)
