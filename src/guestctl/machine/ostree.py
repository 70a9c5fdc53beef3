"""OSTree's deployments (ostree-admin-deploy(1)): ``/ostree/deploy/OS/deploy/CHECKSUM.SERIAL``, each a whole root.

The one that boots is named by the kernel's option ``ostree=`` in the entry of the highest version, which lies in
``/boot/loader/entries`` or on a filesystem of its own; without entries the newest one is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import FileSystem

if TYPE_CHECKING:
    from guestctl.machine.machine import Machine

_MAX_ENTRIES = 256
_MAX_ENTRY_BYTES = 64 << 10
_OPTION = re.compile(r"^options\b.*?\bostree=(\S+)", re.MULTILINE)
_VERSION = re.compile(r"^version\s+(\d{1,9})\s*$", re.MULTILINE)


class Deployment(NamedTuple):
    """A directory, and the device of the boot entry that names it, where that is another one."""

    path: str
    boot: str | None


class _Entry(NamedTuple):
    version: int
    path: str  # what it calls the deployment: a link
    device: str | None


def find_deployment(machine: Machine, filesystem: FileSystem[Any]) -> Deployment | None:
    """The deployment in `filesystem` that boots, or None where there is none."""
    if not filesystem.is_dir("/ostree/deploy"):
        return None
    paths = list(islice(_deployments(filesystem), _MAX_ENTRIES))
    if not paths:
        return None
    for entry in sorted(_boot_entries(machine, filesystem), key=lambda entry: entry.version, reverse=True):
        if filesystem.is_dir(entry.path) and filesystem.realpath(entry.path) in paths:
            return Deployment(filesystem.realpath(entry.path), entry.device)
    return Deployment(max(paths, key=lambda path: filesystem.stat(path).st_mtime_ns), None)


def _deployments(filesystem: FileSystem[Any]) -> Iterator[str]:
    for system in filesystem.scandir("/ostree/deploy"):
        directory = f"{system.path}/deploy"
        if system.is_dir(follow_symlinks=False) and filesystem.is_dir(directory):
            yield from (one.path for one in filesystem.scandir(directory) if one.is_dir(follow_symlinks=False))


def _boot_entries(machine: Machine, filesystem: FileSystem[Any]) -> Iterator[_Entry]:
    yield from _entries_below(filesystem, "/boot/loader/entries", None)
    for device in machine.devices:
        identity = machine.identity(device)
        other = machine.try_filesystem(device) if identity and identity.usage == "filesystem" else None
        if other is not None and other is not filesystem:
            try:
                yield from _entries_below(other, "/loader/entries", device)
            except (GuestctlError, OSError) as error:
                machine.warnings.append(f"{device}: /loader/entries: {error}")


def _entries_below(filesystem: FileSystem[Any], directory: str, device: str | None) -> Iterator[_Entry]:
    if not filesystem.is_dir(directory):
        return
    for name in sorted(filesystem.listdir(directory))[:_MAX_ENTRIES]:
        path = f"{directory}/{name}"
        if name.endswith(".conf") and filesystem.is_file(path):
            text = filesystem.read_text(path, limit=_MAX_ENTRY_BYTES)
            option, version = _OPTION.search(text), _VERSION.search(text)
            if option:
                yield _Entry(int(version[1]) if version else 0, option[1], device)
