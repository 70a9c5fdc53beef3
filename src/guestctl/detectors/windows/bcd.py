"""The Boot Configuration Data: a hive on the system partition that the boot manager reads.

Specification: "Boot Configuration Data" of Microsoft's documentation of WMI (types of objects and elements) and
"Boot Configuration Data Editor FAQ". How an element holds a device is not documented by Microsoft; only
partitions, as Windows Vista to 11 write them, are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.core.errors import GuestctlError
from guestctl.detectors.registry import Hive, Key, Value
from guestctl.detectors.report.boot import BootEntry, BootLoader
from guestctl.detectors.windows.drives import find_partition
from guestctl.detectors.windows.system import WindowsSystem
from guestctl.machine import Machine

# Where a BCD is -> the boot manager that reads it, and the firmware that starts that
_PLACES = {
    "/EFI/Microsoft/Boot/BCD": ("/EFI/Microsoft/Boot/bootmgfw.efi", "uefi"),
    "/Boot/BCD": ("/bootmgr", "bios"),
}
_BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
# Types of objects that are entries: loaders of Windows, of its resuming, memory test, ntldr, setup, boot sectors
_ENTRY_TYPES = {0x10200003, 0x10200004, 0x10200005, 0x10300006, 0x10300007, 0x10400008}
_DEVICE, _PATH, _DESCRIPTION, _OPTIONS = "11000001", "12000002", "12000004", "12000030"
_DEFAULT, _DISPLAY_ORDER = "23000003", "24000001"
# Options of their own elements, as bcdedit calls them
_SWITCHES = {
    "16000010": "bootdebug",
    "16000048": "nointegritychecks",
    "16000049": "testsigning",
    "26000022": "winpe",
    "260000a0": "debug",
}
_SAFE_BOOT = "25000080"
_SAFE_MODES = {0: "minimal", 1: "network", 2: "dsrepair"}

# options, then of a partition: type, flags, bytes, 4; GUID or offset of the partition, 4, kind of table, disk
_ELEMENT_DEVICE = Struct("<16xI12x16s4xI16s")
_PARTITION_DEVICE = 6
_BOOT_DEVICE = 5
_GPT, _MBR = 0, 1


def read_configurations(system: WindowsSystem) -> tuple[list[BootLoader], list[BootEntry]]:
    """The boot managers on the machine's filesystems, and the entries of their BCD. Damage is a warning."""
    loaders: list[BootLoader] = []
    entries: list[BootEntry] = []
    for device, _, identity in system.machine.found():
        if identity is None or identity.type not in ("ntfs", "vfat"):
            continue
        try:
            tree = system.machine.filesystem(device)
            for path, (manager, firmware) in _PLACES.items():
                if tree.is_file(manager):
                    loaders.append(BootLoader(name="bootmgr", firmware=firmware, path=f"({device}){manager}"))
                if tree.is_file(path):
                    entries += _entries(system, Hive.open(tree, path), device, f"({device}){path}")
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{device}: boot configuration: {error}")
    return loaders, entries


def _entries(system: WindowsSystem, hive: Hive, device: str, source: str) -> Iterator[BootEntry]:
    system.warnings += [f"{source}: {warning}" for warning in hive.warnings]
    objects = {key.name.casefold(): key for key in system.subkeys(hive.key("Objects"))}
    manager = _elements(system, objects.get(_BOOT_MANAGER))
    default = manager[_DEFAULT].text.casefold() if _DEFAULT in manager else None
    order = [name.casefold() for name in manager[_DISPLAY_ORDER].texts] if _DISPLAY_ORDER in manager else []
    for name in dict.fromkeys((*order, *objects)):
        if _type(system, objects.get(name)) in _ENTRY_TYPES:
            elements = _elements(system, objects[name])
            yield _entry(system, elements, device, source=source, default=name == default)


def _type(system: WindowsSystem, key: Key | None) -> int | None:
    value = system.values(key.subkey("Description") if key else None).get("type")
    return value.number if value is not None else None


def _elements(system: WindowsSystem, key: Key | None) -> dict[str, Value]:
    """The elements of an object by their types in hexadecimal."""
    below = system.subkeys(key.subkey("Elements") if key else None)
    found = ((element.name.casefold(), system.values(element).get("element")) for element in below)
    return {name: value for name, value in found if value is not None}


def _entry(
    system: WindowsSystem, elements: dict[str, Value], boot_device: str, *, source: str, default: bool
) -> BootEntry:
    return BootEntry(
        title=elements[_DESCRIPTION].text if _DESCRIPTION in elements else "",
        loader="bcd",
        kernel=elements[_PATH].text.replace("\\", "/") if _PATH in elements else None,
        command_line=" ".join(_options(elements)),
        default=default,
        source=source,
        device=_device(system.machine, elements[_DEVICE].data, boot_device) if _DEVICE in elements else None,
    )


def _options(elements: dict[str, Value]) -> Iterator[str]:
    if _OPTIONS in elements:
        yield elements[_OPTIONS].text
    for kind, name in _SWITCHES.items():
        if kind in elements and elements[kind].number & 1:
            yield name
    if _SAFE_BOOT in elements:
        mode = elements[_SAFE_BOOT].number
        yield f"safeboot={_SAFE_MODES.get(mode, mode)}"


def _device(machine: Machine, data: bytes, boot_device: str) -> str | None:
    """The partition that an element names; None for one that is not there, and for files and memory disks."""
    if len(data) >= 20 and int.from_bytes(data[16:20], "little") == _BOOT_DEVICE:
        return boot_device
    if len(data) < _ELEMENT_DEVICE.size:
        return None
    kind, partition, table, disk = _ELEMENT_DEVICE.unpack_from(data)
    if kind != _PARTITION_DEVICE or table not in (_GPT, _MBR):
        return None
    # As MountedDevices has them: a GUID, or the signature of the disk and the offset.
    return find_partition(machine, b"DMIO:ID:" + partition if table == _GPT else disk[:4] + partition[:8])
