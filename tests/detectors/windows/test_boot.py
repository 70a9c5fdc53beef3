"""Boot configuration of a real BCD hive; drivers of a real SYSTEM hive; whether virtio is ready, case by case.

The keys of virtio's drivers are those that virtio-win's INF files leave, under Windows 7 and under Windows 10.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from detectors.windows.conftest import ExportHive, Load, MakeHive, NoMachine, number_of, system_of, text_of
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.views import view
from guestctl.detectors.windows.boot import boot, image_path
from guestctl.disk.filesystem import Identity
from guestctl.machine.machine import FoundFilesystem
from memory_filesystem import MemoryFileSystem

_ESP, _ROOT = "36be3955-63bf-4068-a6ab-00195cca3a22", "8e0f2c38-e4ea-47ba-b7fc-9d8c74dccf0b"
_BCD = "/EFI/Microsoft/Boot/BCD"


class _Partition(NamedTuple):
    uuid: str
    start: int = 0


class _Machine(NoMachine):
    """An EFI system partition with a BCD, and the partition that its entries name."""

    def __new__(cls, bcd: bytes) -> _Machine:
        machine = super().__new__(cls, ("/dev/sda1", "/dev/sda3"))
        machine.bcd = bcd
        return machine

    bcd: bytes

    def found(self) -> Iterator[FoundFilesystem]:  # type: ignore[override]
        yield FoundFilesystem("/dev/sda1", 1, Identity("vfat"))
        yield FoundFilesystem("/dev/sda2", 1, None)
        yield FoundFilesystem("/dev/sda3", 1, Identity("ntfs"))

    def filesystem(self, device: str) -> MemoryFileSystem:
        if device == "/dev/sda3":
            raise InvalidFormat("is broken", structure="boot sector", offset=0)
        return MemoryFileSystem({_BCD: self.bcd, "/EFI/Microsoft/Boot/bootmgfw.efi": "MZ"})

    def partition(self, device: str) -> _Partition:
        return _Partition({"/dev/sda1": _ESP, "/dev/sda3": _ROOT}[device])


def test_real_bcd(load: Load, export_hive: ExportHive) -> None:
    hive = load("BCD")
    exported = export_hive(hive, r"\Objects")
    titles = {
        text_of(values["element"])
        for path, values in exported.items()
        if path.endswith(r"\12000004")
        and number_of(exported[path.replace(r"Elements\12000004", "Description")]["type"]) >> 16 == 0x1020
    }
    system = system_of({}, _Machine(hive))
    found = boot(system)
    assert {entry.title for entry in found.entries} == titles
    first = found.entries[0]
    assert (first.title, first.kernel, first.default) == ("Windows 10", "/Windows/system32/winload.efi", True)
    assert (first.device, first.loader, first.source) == ("/dev/sda3", "bcd", f"(/dev/sda1){_BCD}")
    assert [entry.default for entry in found.entries].count(True) == 1
    by_title = {entry.title: entry for entry in found.entries}
    assert by_title["Windows Recovery Environment"].command_line == "winpe"
    assert by_title["Windows Recovery Environment"].device is None  # it is in a file
    assert found.kernel == "/Windows/system32/winload.efi"
    assert [(one.name, one.firmware) for one in found.loaders] == [("bootmgr", "uefi")]
    assert system.warnings == ["/dev/sda3: boot configuration: boot sector at offset 0x0: is broken"]
    assert {one.device for one in found.entries} == {"/dev/sda1", "/dev/sda3", None}
    assert all(uuid.UUID(one).bytes_le in hive for one in (_ESP, _ROOT))


def test_boot_ini() -> None:
    # As Windows XP writes it.
    text = (
        "[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n"
        "[operating systems]\r\n"
        'multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="Microsoft Windows XP Professional" /noexecute=optin\r\n'
        'C:\\CMDCONS\\BOOTSECT.DAT="Microsoft Windows Recovery Console" /cmdcons\r\n'
    )
    found = boot(system_of({"/boot.ini": text.encode(), "/ntldr": b""}))
    assert [(entry.title, entry.default) for entry in found.entries] == [
        ("Microsoft Windows XP Professional", True),
        ("Microsoft Windows Recovery Console", False),
    ]
    assert found.command_line == r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS /noexecute=optin"
    assert (found.kernel, found.virtio, [one.name for one in found.loaders]) == (None, None, ["ntldr"])


def test_drivers_of_a_real_system(load: Load, export_hive: ExportHive) -> None:
    hive = load("SYSTEM_B")
    exported = export_hive(hive, r"\ControlSet001\Services")
    overridden = {path.split("\\")[3].casefold() for path in exported if path.endswith("\\StartOverride")}
    files = {f"/Windows/System32/drivers/{name}.sys": b"MZ" for name in ("storahci", "stornvme", "iaStorAV")}
    found = boot(system_of({"/Windows/system32/config/system": hive, **files}))
    where = {one.name.casefold(): one.where for one in found.drivers}
    assert {"storahci", "stornvme", "lsi_sas", "atapi", "vmbus", "storvsc"} <= where.keys()
    assert {name for name, said in where.items() if "(StartOverride)" in said} == overridden & where.keys()
    assert where["lsi_sas"].endswith("lsi_sas.sys is missing")
    ready = [one.name for one in found.drivers if one.ready]
    assert ready == ["iaStorAV"], "the others are overridden, or have no file"
    assert found.virtio is False


_SERVICE = (
    '[ControlSet001\\Services\\{name}]\n"Type"=dword:00000001\n"Start"=dword:0000000{start}\n'
    '"ImagePath"="system32\\\\drivers\\\\{name}.sys"\n'
)
_CRITICAL = '[ControlSet001\\Control\\CriticalDeviceDatabase\\{id}]\n"Service"="{name}"\n'
_DATABASE = (
    '[DriverDatabase\\DeviceIds\\PCI\\{id}]\n"oem1.inf"=hex(3):01,ff,00,00\n'
    '[DriverDatabase\\DriverInfFiles\\oem1.inf]\n"Active"="{name}.inf_amd64_0123456789abcdef"\n'
    '[DriverDatabase\\DriverPackages\\{name}.inf_amd64_0123456789abcdef\\Configurations\\inst]\n"Service"="{name}"\n'
)
_STOR = {"name": "viostor", "id": "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"}
_SCSI = {"name": "vioscsi", "id": "VEN_1AF4&DEV_1048"}
_OLD = {"name": "viostor", "id": "pci#ven_1af4&dev_1001&subsys_00021af4&rev_00"}
_OTHER = "[DriverDatabase\\DeviceIds\\PCI\\VEN_8086&DEV_1502]\n"


@pytest.mark.parametrize(
    ("system", "drivers", "has_file", "virtio"),
    [
        (_SERVICE.format(start=0, **_OLD) + _CRITICAL.format(**_OLD), "", True, True),
        (_SERVICE.format(start=0, **_OLD) + _CRITICAL.format(**_OLD), "", False, False),
        (_SERVICE.format(start=3, **_OLD) + _CRITICAL.format(**_OLD), "", True, False),
        (
            _SERVICE.format(start=0, **_OLD) + _CRITICAL.format(name="viostor", id="pci#ven_1af4&dev_1000"),
            "",
            True,
            False,
        ),
        (_SERVICE.format(start=0, **_OLD), "", True, None),
        (_SERVICE.format(start=0, **_STOR) + _DATABASE.format(**_STOR), "", True, True),
        (_SERVICE.format(start=0, **_STOR) + _OTHER, "", True, False),
        (_SERVICE.format(start=0, **_STOR) + _OTHER, _DATABASE.format(**_STOR), True, True),
        (_SERVICE.format(start=0, **_SCSI) + _DATABASE.format(**_SCSI), "", True, True),
        (_SERVICE.format(start=0, **_SCSI) + _DATABASE.format(name="other", id=_SCSI["id"]), "", True, False),
        # A database for Windows 8 and later: what an older one would ask is not asked.
        (_SERVICE.format(start=0, **_OLD) + _CRITICAL.format(**_OLD) + _OTHER, "", True, False),
        (
            _SERVICE.format(start=0, **_STOR)
            + '[ControlSet001\\Services\\viostor\\StartOverride]\n"0"=dword:00000003\n'
            + _DATABASE.format(**_STOR),
            "",
            True,
            False,
        ),
        ('[ControlSet001\\Services\\disk]\n"Type"=dword:00000001\n', "", True, False),
    ],
)
def test_virtio(make_hive: MakeHive, system: str, drivers: str, has_file: bool, virtio: bool | None) -> None:
    files = {"system": make_hive(system)}
    if drivers:
        files["DRIVERS"] = make_hive(drivers)
    if has_file:
        files |= {f"/Windows/system32/drivers/{name}.sys": b"MZ" for name in ("viostor", "vioscsi")}
    assert view("boot", system_of(files)).virtio is virtio


@pytest.mark.parametrize(
    ("image", "path"),
    [
        (r"system32\DRIVERS\disk.sys", "/Windows/system32/DRIVERS/disk.sys"),
        (r"System32\drivers\disk.sys", "/Windows/System32/drivers/disk.sys"),
        (r"\SystemRoot\System32\drivers\disk.sys", "/Windows/System32/drivers/disk.sys"),
        (r"%SystemRoot%\disk.sys", "/Windows/disk.sys"),
        (r"\??\C:\Windows\disk.sys", None),
    ],
)
def test_image_path(image: str, path: str | None) -> None:
    assert image_path("/Windows", image) == path


def test_damaged_bcd(load: Load) -> None:
    whole = load("BCD")
    place = whole.index(b"Objects", 4096)
    system = system_of({}, _Machine(whole[: place - 76] + b"xx" + whole[place - 74 :]))
    assert boot(system).entries == []
    assert [warning for warning in system.warnings if "/dev/sda1: boot configuration: key node" in warning]


def test_a_damaged_hive_says_nothing_of_virtio(make_hive: MakeHive) -> None:
    hive = make_hive('[ControlSet001\\Services\\disk]\n"Type"=dword:00000001\n[ControlSet001\\Services\\other]\n')
    place = hive.index(b"other")
    assert boot(system_of({"system": hive})).virtio is False
    assert boot(system_of({"system": hive[: place - 76] + b"xx" + hive[place - 74 :]})).virtio is None
