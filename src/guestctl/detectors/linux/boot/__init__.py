"""How a Linux guest boots: its loaders, their menus, the kernel that would start, and the drivers it starts with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from guestctl.core.errors import DetectionError, GuestctlError
from guestctl.detectors.firmware import boot_sector_loader
from guestctl.detectors.linux.boot import drivers, efi, extlinux, grub2, grub_legacy, systemd_boot
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import Boot, BootEntry, BootLoader, InitramfsFile
from guestctl.detectors.system import System

T = TypeVar("T")

_MAX_PROGRAMS = 200
# Whose menus the rooms read, where loaders are called otherwise.
_LOADERS = {"extlinux": "syslinux", "uefi": "linux"}


def boot(system: System) -> Boot:
    """The view of how a guest boots."""
    places = Places(system)
    found = _loaders_and_entries(places)
    chosen = next((entry for entry in found.entries if entry.default), None)
    if chosen is not None:
        found.kernel, found.command_line = chosen.kernel, chosen.command_line
        found.drivers, found.virtio = drivers.find_drivers(places, chosen)
    return found


def initramfs(system: System, name: str | None = None) -> list[InitramfsFile]:
    """The files of the initramfs `name`, or of all that the default entry loads."""
    places = Places(system)
    names = [name] if name else []
    if not names:
        names = next((one.initramfs for one in _loaders_and_entries(places).entries if one.default), [])
    if not names:
        raise DetectionError("no entry of a loader's menu names an initramfs")
    return [InitramfsFile(**file._asdict()) for one in names for file in drivers.read_files(places, one)]


def _loaders_and_entries(places: Places) -> Boot:
    """Entries in the order of their loaders: what the firmware would start first comes first."""
    loaders = _collect(places, "EFI programs", lambda: islice(efi.find_loaders(places), _MAX_PROGRAMS))
    loaders += _collect(places, "boot sectors", lambda: _boot_sectors(places))
    rooms: dict[str, Callable[[], Iterable[BootEntry]]] = {
        "grub2": lambda: grub2.read_entries(places),
        "systemd-boot": lambda: systemd_boot.read_entries(places, loaders),
        "uefi": lambda: efi.read_entries(places, loaders),
        "extlinux": lambda: extlinux.read_entries(places),
        "grub-legacy": lambda: grub_legacy.read_entries(places),
    }
    names = [loader.name for loader in loaders]

    def rank(room: str) -> int:
        name = _LOADERS.get(room, room)
        return names.index(name) if name in names else len(names)

    entries = [entry for room in sorted(rooms, key=rank) for entry in _collect(places, room, rooms[room])]
    return Boot(loaders=loaders, entries=entries)


def _boot_sectors(places: Places) -> Iterator[BootLoader]:
    for disk in places.machine.disks:
        name = boot_sector_loader(places.machine, disk)
        if name is not None:
            yield BootLoader(name=name, firmware="bios", path=disk.name)


def _collect(places: Places, what: str, find: Callable[[], Iterable[T]]) -> list[T]:
    """What `find` yields; an error ends it, and is a warning."""
    found: list[T] = []
    try:
        found.extend(find())
    except (GuestctlError, OSError) as error:
        places.warn(what, error)
    return found
