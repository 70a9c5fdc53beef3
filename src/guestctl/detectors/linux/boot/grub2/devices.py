"""Devices by the names that GRUB 2 gives them (GRUB manual, "How to specify devices"), and by ``search``."""

from __future__ import annotations

import re

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.boot.places import Places
from guestctl.machine import Machine


def find(machine: Machine, name: str) -> str | None:
    """The device that GRUB calls `name`, with or without parentheses; None where it is not known."""
    name = name.strip("()")
    if name in machine.devices:
        return name
    if name.startswith("lvm/"):
        return machine.find_device(f"/dev/mapper/{name.removeprefix('lvm/')}")
    if match := re.fullmatch(r"md/(?:md)?(\w{1,64})", name):
        return next((one for one in (f"/dev/md{match[1]}", f"/dev/md/{match[1]}") if one in machine.devices), None)
    # hd0,gpt2; hd0,msdos1; hd0,2; hd0,msdos1,bsd1 has no device of the machine's
    match = re.fullmatch(r"(?:a?hd|ata)(\d{1,3})(?:,[a-z]*(\d{1,3}))?", name)
    if match is None or int(match[1]) >= len(machine.disks):
        return None
    device = machine.disks[int(match[1])].name + (match[2] or "")
    return device if device in machine.devices else None


def search(places: Places, kind: str, value: str) -> str | None:
    """The first device whose filesystem has this "UUID" or "LABEL", or this "file"; None where there is none."""
    if not value:
        return None
    if kind != "file":
        return places.machine.find_device(f"{kind}={value}")
    for device in places.machine.devices:
        filesystem = places.filesystem(device)
        try:
            if filesystem is not None and filesystem.exists(value):
                return device
        except (GuestctlError, OSError) as error:
            places.warn(device, error)
    return None
