"""The names that BSD systems have for devices: ada(4), gpart(8) and glabel(8) of FreeBSD, fstab(5) of NetBSD and
OpenBSD. A letter is an entry of the disklabel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guestctl.machine.machine import Machine

_DISK = r"/dev/r?(?:ada|ad|da|vtbd|nda|nvd|mmcsd|xbd|wd|sd|ld)(\d{1,3})"
_DEVICE = re.compile(_DISK + r"(?:p(\d{1,3})|s(\d{1,3})([a-h])?|([a-p]))?")
_WEDGE = re.compile(r"/dev/r?dk(\d{1,3})")
_DUID = re.compile(r"[0-9a-f]{16}\.([a-p])")
# What glabel puts in a directory of /dev, in the words of fstab's tags.
_LABELS = {
    "gpt": "PARTLABEL",
    "gptid": "PARTUUID",
    "ufs": "LABEL",
    "ufsid": "UUID",
    "msdosfs": "LABEL",
    "ext2fs": "LABEL",
}


def find_bsd_device(machine: Machine, spec: str) -> str | None:
    """The device of `machine` that a BSD system calls `spec`, or None."""
    kind, _, label = spec.removeprefix("/dev/").partition("/")
    if label and kind in _LABELS:
        return machine.find_device(f"{_LABELS[kind]}={label}")
    if spec.startswith("NAME="):
        return machine.find_device("PARTLABEL=" + spec[5:]) or machine.find_device("LABEL=" + spec[5:])
    wedge = _WEDGE.fullmatch(spec)
    if wedge:
        partitions = [device for device in machine.devices if machine.partition(device)]
        number = int(wedge[1])
        return partitions[number] if number < len(partitions) else None
    duid = _DUID.fullmatch(spec)
    if duid:
        return _labelled(machine, 0, None, duid[1]) if len(machine.disks) == 1 else None
    found = _DEVICE.fullmatch(spec)
    if found is None:
        return None
    disk = _disk_number(machine, int(found[1]))
    letter = found[4] or found[5]
    if disk is None or letter:
        return _labelled(machine, disk, found[3], letter) if disk is not None else None
    number_text = found[2] or found[3] or ""
    name = f"{machine.disks[disk].name}{number_text}"
    return name if name in machine.devices else None


def _disk_number(machine: Machine, number: int) -> int | None:
    """The kernel's number; it depends on the controller, which matters where there are several disks."""
    if len(machine.disks) == 1:
        return 0
    return number if number < len(machine.disks) else None


def _labelled(machine: Machine, disk: int, slice_number: str | None, letter: str) -> str | None:
    """The entry `letter` of a disklabel: that of a slice, or the only one."""
    table = machine.disks[disk].table
    if table is None:  # the letter of a disk without a table is the whole disk
        name = machine.disks[disk].name
        return name if name in machine.devices else None
    slices = [one for one in table.partitions if one.extended and slice_number in (None, str(one.number))]
    if slice_number and not slices:
        return None
    for partition in table.partitions:
        inside = not slices or any(one.start <= partition.start < one.start + one.size for one in slices)
        if partition.name == letter and inside and not partition.extended:
            return f"{machine.disks[disk].name}{partition.number}"
    return None
