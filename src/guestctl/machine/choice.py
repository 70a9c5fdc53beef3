"""Which tree of files is meant where a machine may have several."""

from __future__ import annotations

from typing import Any

from guestctl.core.errors import DetectionError, KeyRequired
from guestctl.disk.filesystem import FileSystem
from guestctl.machine.machine import Machine


def choose_tree(machine: Machine, device: str | None = None, *, how: str = "device=") -> FileSystem[Any]:
    """The filesystem on `device`, or the only guest's tree, or else the only filesystem that is there.

    Raises `DetectionError` where there are several or none; `how` is how the user can choose a device.
    """
    if device is not None:
        return machine.filesystem(machine.find_device(device) or device)
    guests = machine.guests()
    if len(guests) == 1:
        return guests[0].tree
    if guests:
        roots = ", ".join(guest.root for guest in guests)
        raise DetectionError(f"more than one operating system; choose a filesystem with {how} ({roots})")
    readable = [found.device for found in machine.found() if found.identity and found.identity.usage == "filesystem"]
    if len(readable) == 1:
        return machine.filesystem(readable[0])
    if readable:
        raise DetectionError(f"no operating system; choose a filesystem with {how} ({', '.join(readable)})")
    for failure in machine.failures.values():
        if isinstance(failure, KeyRequired):
            raise failure
    raise DetectionError("no filesystem that guestctl knows")
