r"""Drive letters: the values ``\DosDevices\X:`` of the key MountedDevices, for disks with MBR and with GPT."""

from __future__ import annotations

import re
import struct
import uuid

from guestctl.detectors.report import Guest
from guestctl.detectors.windows.system import WindowsSystem
from guestctl.machine import Machine

_MBR = struct.Struct("<IQ")  # disk signature, offset of the partition in bytes
_GPT_PREFIX = b"DMIO:ID:"  # and the partition's GUID


def detect_drives(system: WindowsSystem, guest: Guest) -> None:
    """The letters of partitions that are there."""
    key = system.system("MountedDevices")
    for value in key.values() if key else ():
        match = re.fullmatch(r"\\DosDevices\\([A-Z]):", value.name, re.IGNORECASE)
        device = find_partition(system.machine, value.data) if match else None
        if match and device:
            guest.drive_mappings[match[1].upper()] = device


def find_partition(machine: Machine, data: bytes) -> str | None:
    """The device that the data of a value of MountedDevices name, or None."""
    if data.startswith(_GPT_PREFIX) and len(data) == len(_GPT_PREFIX) + 16:
        wanted = str(uuid.UUID(bytes_le=data[len(_GPT_PREFIX) :]))
        for name in machine.devices:
            partition = machine.partition(name)
            if partition is not None and (partition.uuid or "").lower() == wanted:
                return name
    elif len(data) == _MBR.size:
        signature, start = _MBR.unpack(data)
        disks = {disk.name for disk in machine.disks if disk.table and disk.table.uuid == f"{signature:08x}"}
        for name in machine.devices:
            partition = machine.partition(name)
            if partition is not None and partition.start == start and disks.intersection(machine.parents(name)):
                return name
    return None
