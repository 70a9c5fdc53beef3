"""How Windows boots: its boot configuration, the drivers for disks and networks, and whether virtio is ready.

A boot-start driver is loaded by the boot loader; whether it takes a disk that Windows has not seen before is told
by the device ids of the drivers database: of ``CriticalDeviceDatabase`` to Windows 7, and ``DriverDatabase`` from
Windows 8 on (in the hive DRIVERS from some release of Windows 10 on, before that in SYSTEM).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import NamedTuple

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import read_config, sections
from guestctl.detectors.registry import Key
from guestctl.detectors.report.boot import Boot, BootDriver, BootEntry, BootLoader
from guestctl.detectors.windows.bcd import read_configurations
from guestctl.detectors.windows.services import STARTS
from guestctl.detectors.windows.system import WindowsSystem

_DISK_DRIVERS = (
    *("viostor", "vioscsi", "xenvbd", "xendisk", "storvsc", "storflt", "vmbus", "pvscsi", "pvscsii"),
    *("storahci", "stornvme", "msahci", "atapi", "intelide", "pciide", "amdsata", "nvme*", "iastor*"),
    *("lsi_*", "symmpi", "megasas*", "megasr*", "mpt3sas*", "percsas*", "hpcisss*"),
)
_NETWORK_DRIVERS = ("netkvm*", "vmxnet*", "e1g60*", "e1i*", "e1000*", "netvsc*", "xennet*", "rtl8139*", "pcnet*")
_BOOT_START, _DISABLED = 0, 4
# driver -> PCI devices that it drives: transitional and modern, of virtio's vendor
_VIRTIO = {"viostor": ("1001", "1042"), "vioscsi": ("1004", "1048")}
_PCI_ID = re.compile(r"(?:pci[#\\])?ven_1af4&dev_([0-9a-f]{4})(?:&.*)?", re.IGNORECASE)
# A device has a key for each of its revisions and subsystems, and one INF file for each version of its driver.
_MAX_DEVICE_KEYS, _MAX_INF_FILES = 1000, 100
_BINDING = {True: ", bound to its devices", False: ", bound to no device", None: ", no database of its devices"}


class _Driver(NamedTuple):
    name: str
    start: int | None  # as it counts
    overridden: bool
    image: str
    present: bool | None  # whether the file is there; None where its place is unknown


def boot(system: WindowsSystem) -> Boot:
    """The boot loader's entries, and the drivers that the current control set has."""
    loaders, entries = read_configurations(system)
    entries += _boot_ini(system)
    if system.tree.is_file("/ntldr"):
        loaders.append(BootLoader(name="ntldr", firmware="bios", path="/ntldr"))
    chosen = next((entry for entry in entries if entry.default), None)
    services = system.control("Services")
    warnings = len(system.warnings)
    keys = list(system.subkeys(services))
    drivers = {key.name.casefold(): _driver(system, key) for key in keys if _kind(key.name)}
    bound = {name: _is_bound(system, name) for name in _VIRTIO if name in drivers}
    whole = bool(keys) and len(system.warnings) == warnings
    virtio = _virtio(drivers, bound)
    return Boot(
        loaders=loaders,
        entries=entries,
        kernel=chosen.kernel if chosen else None,
        command_line=chosen.command_line if chosen else None,
        virtio=virtio if whole or virtio else None,  # in a damaged hive what is not found may have been there
        drivers=[
            BootDriver(
                name=driver.name,
                ready=_ready(driver),
                where=_where(driver) + (_BINDING[bound[name]] if name in bound else ""),
            )
            for name, driver in drivers.items()
        ],
    )


def _boot_ini(system: WindowsSystem) -> Iterator[BootEntry]:
    """The entries of Windows NT to 2003 ("Boot.ini file" of Microsoft's documentation)."""
    if not system.tree.is_file("/boot.ini"):
        return
    text = read_config(system.tree, "/boot.ini") or ""
    default = next((value for _, key, value in sections(text) if key.casefold() == "default"), None)
    for section, key, value in sections(text):
        if section.casefold() == "operating systems":
            title, _, options = value.lstrip('"').partition('"')
            chosen = default is not None and key.casefold() == default.casefold()
            default = None if chosen else default
            command_line = " ".join((key, options.strip())).strip()
            yield BootEntry(
                title=title,
                loader="ntldr",
                kernel=None,
                command_line=command_line,
                default=chosen,
                source="/boot.ini",
            )


def _kind(name: str) -> str | None:
    for kind, patterns in (("disk", _DISK_DRIVERS), ("network", _NETWORK_DRIVERS)):
        if any(fnmatchcase(name.casefold(), pattern) for pattern in patterns):
            return kind
    return None


def _driver(system: WindowsSystem, key: Key) -> _Driver:
    values = system.values(key)
    start = values["start"].number if "start" in values else None
    # Of hardware profile 0: what Windows 8 and later take instead, for a driver that no device needed.
    override = system.values(key.subkey("StartOverride")).get("0")
    image = values["imagepath"].text if "imagepath" in values else ""
    place = image_path(system.root, image or rf"System32\drivers\{key.name}.sys")
    present = system.tree.is_file(place) if place else None
    return _Driver(key.name, override.number if override else start, override is not None, image, present)


def image_path(root: str, image: str) -> str | None:
    """Where in the guest's tree the file of a driver is; None where its name has a drive or is a device's."""
    match = re.fullmatch(r"(?:\\?SystemRoot\\|%SystemRoot%\\|(?=system32\\))(.*)", image, re.IGNORECASE)
    return f"{root}/{match[1]}".replace("\\", "/") if match else None


def _ready(driver: _Driver) -> bool:
    if _kind(driver.name) == "network":
        return driver.start is not None and driver.start < _DISABLED and bool(driver.present)
    return driver.start == _BOOT_START and bool(driver.present)


def _where(driver: _Driver) -> str:
    start = STARTS.get(driver.start, f"start {driver.start:#x}") if driver.start is not None else "no start"
    said = f"{start}-start service" + (" (StartOverride)" if driver.overridden else "")
    place = f" {driver.image}" if driver.image else ""
    return said + {True: place, False: f", its file{place} is missing", None: f", unknown file{place}"}[driver.present]


def _virtio(drivers: dict[str, _Driver], bound: dict[str, bool | None]) -> bool | None:
    """Whether one of virtio's drivers for disks would start, and take a disk; None where that cannot be told."""
    verdicts = [_starts_and_takes(drivers[name], bound[name]) for name in _VIRTIO if name in drivers]
    return True if True in verdicts else None if None in verdicts else False


def _starts_and_takes(driver: _Driver, bound: bool | None) -> bool | None:
    facts = (driver.start == _BOOT_START, driver.present, bound)
    return False if False in facts else None if None in facts else True


def _is_bound(system: WindowsSystem, driver: str) -> bool | None:
    """Whether the drivers database leads from an id of the device to `driver`; None where there is no database."""
    databases = [key for key in (system.system("DriverDatabase"), _drivers_hive(system)) if key is not None]
    for database in databases:
        ids = database.subkey("DeviceIds")
        keys = _virtio_keys(system, ids.subkey("PCI") if ids else None, driver)
        # A value for each INF file that drives the device.
        files = dict.fromkeys(inf for key in islice(keys, _MAX_DEVICE_KEYS) for inf in system.values(key))
        if any(driver in _services_of(system, database, inf) for inf in islice(files, _MAX_INF_FILES)):
            return True
    critical = system.control(r"Control\CriticalDeviceDatabase")
    if databases or critical is None:
        return False if databases else None
    services = (system.values(key).get("service") for key in _virtio_keys(system, critical, driver))
    return any(value is not None and value.text.casefold() == driver for value in services)


def _drivers_hive(system: WindowsSystem) -> Key | None:
    try:
        hive = system.hive("DRIVERS")
        return hive.key("DriverDatabase") if hive is not None else None
    except GuestctlError as error:
        system.warnings.append(f"DRIVERS: {error}")
        return None


def _virtio_keys(system: WindowsSystem, top: Key | None, driver: str) -> Iterator[Key]:
    for key in system.subkeys(top):
        match = _PCI_ID.fullmatch(key.name)
        if match and match[1] in _VIRTIO[driver]:
            yield key


def _services_of(system: WindowsSystem, database: Key, inf: str) -> set[str]:
    """The services that the active package of an INF file configures, in lower case."""
    files, packages = database.subkey("DriverInfFiles"), database.subkey("DriverPackages")
    active = system.values(files.subkey(inf) if files else None).get("active")
    package = packages.subkey(active.text) if packages and active else None
    configurations = system.subkeys(package.subkey("Configurations") if package else None)
    return {value.text.casefold() for one in configurations if (value := system.values(one).get("service"))}
