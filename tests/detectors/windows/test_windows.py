"""Windows guests: a made-up one beside virt-inspector's word on it, and what a real SYSTEM hive says."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import struct
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Run
from guestctl.cli import main
from guestctl.core.types import GuestType
from guestctl.detectors import GuestDetector, report
from guestctl.detectors.windows import DETECTORS, WindowsSystem
from guestctl.detectors.windows.drives import find_partition
from guestctl.detectors.windows.release import osinfo_id, pe_architecture
from guestctl.machine import Guest, Machine, windows_root
from memory_filesystem import MemoryFileSystem

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data" / "windows"
DEMO = ROOT / "tests" / "data" / "debian-12.qcow2"


@pytest.fixture(scope="module")
def image(run: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mkntfs", "ntfs-3g", "hivexregedit", "sfdisk"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    image = tmp_path_factory.mktemp("windows") / "windows.raw"
    run(ROOT / "tools" / "make-windows-image", shared / "registry" / "hivex-minimal", DATA, image)
    return image


def _guestctl(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert exit.value.code == 0, captured.err
    return captured.out


@pytest.mark.root
def test_as_virt_inspector_says(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (
        re.sub("<uuid>.*</uuid>", "<uuid/>", text)
        for text in (_guestctl(capsys, "inspect", "--xml", image), (DATA / "virt-inspector.xml").read_text())
    )
    assert ours == theirs


@pytest.mark.root
def test_json(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (guest,) = json.loads(_guestctl(capsys, "inspect", "--json", image))["guests"]
    assert (guest["type"], guest["distro"], guest["osinfo"]) == ("windows", "windows", "win2k22")
    assert guest["drive_mappings"] == {"C": "/dev/sda1"}
    assert guest["timezone"] == "Romance Standard Time"
    identity = GuestDetector().detect_from_image(image)
    assert (identity.os_type, identity.os_version, identity.architecture) == (GuestType.WINDOWS, "10.0", "x86_64")
    (everything,) = json.loads(_guestctl(capsys, "inspect", "--all", "--json", image))["guests"]
    views = everything["details"]
    assert (views["windows"]["build"], views["windows"]["dns_domain"]) == ("20348", "example.org")
    assert (views["boot"]["virtio"], views["users"], views["services"], views["network"]) == (False, [], [], [])
    assert views["journal"]["entries"] == 0
    assert "Drives        C: /dev/sda1" in _guestctl(capsys, "inspect", image)
    text = _guestctl(capsys, "registry", image, "SOFTWARE", r"Microsoft\Windows NT\CurrentVersion")
    assert '"ProductName"="Windows Server 2022 Standard"' in text


class _NoMachine(NamedTuple):
    """Of a tree that is on no disk."""

    devices: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()


def _found(files: dict[str, bytes]) -> tuple[report.Guest, list[str]]:
    tree = MemoryFileSystem({f"/Windows/system32/{name}": content for name, content in files.items()})
    guest_on_disk = Guest("/dev/sda1", GuestType.WINDOWS, {"/": "/dev/sda1"}, tree)
    system = WindowsSystem(_NoMachine(), guest_on_disk)  # type: ignore[arg-type]
    guest = report.Guest(root="/dev/sda1")
    for detect in DETECTORS.values():
        detect(system, guest)
    return guest, system.warnings


def test_real_system_hive(run: Run, shared: Path, tmp_path: Path) -> None:
    files = {}
    for name, file in (("SYSTEM_B", "system"), ("SYSTEM_B.LOG1", "system.LOG1"), ("SYSTEM_B.LOG2", "system.LOG2")):
        files[f"config/{file}"] = lzma.decompress((shared / "registry" / f"{name}.xz").read_bytes())
    guest, warnings = _found(files)
    (tmp_path / "hive").write_bytes(files["config/system"])
    current = int(run("hivexget", tmp_path / "hive", r"\Select", "Current"), 16)
    control = rf"\ControlSet{current:03}"
    hostname = run("hivexget", tmp_path / "hive", rf"{control}\Services\Tcpip\Parameters", "Hostname").strip()
    zone = run("hivexget", tmp_path / "hive", rf"{control}\Control\TimeZoneInformation", "TimeZoneKeyName").strip()
    assert hostname and zone
    assert (guest.hostname, guest.timezone, guest.windows_current_control_set) == (hostname, zone, control[1:])
    assert (guest.product_name, guest.osinfo, guest.arch) == (None, None, None)
    assert warnings == ["system: log replayed: 24 writes"]


def test_without_hives() -> None:
    guest, warnings = _found({"cmd.exe": b"MZ"})
    assert (guest.distro, guest.windows_systemroot) == ("windows", "/Windows")
    assert (guest.hostname, guest.arch, guest.major_version, warnings) == (None, None, None, [])


@pytest.mark.parametrize(
    ("version", "build", "is_server", "name"),
    [
        ((4, 0), 1381, False, "winnt4.0"),
        ((5, 0), 2195, True, "win2k"),
        ((5, 1), 2600, False, "winxp"),
        ((5, 2), 3790, True, "win2k3"),
        ((6, 0), 6002, False, "winvista"),
        ((6, 0), 6002, True, "win2k8"),
        ((6, 1), 7601, False, "win7"),
        ((6, 1), 7601, True, "win2k8r2"),
        ((6, 2), 9200, False, "win8"),
        ((6, 3), 9600, True, "win2k12r2"),
        ((10, 0), 14393, True, "win2k16"),
        ((10, 0), 17763, True, "win2k19"),
        ((10, 0), 20348, True, "win2k22"),
        ((10, 0), 26100, True, "win2k25"),
        ((10, 0), 19045, False, "win10"),
        ((10, 0), 22631, False, "win11"),
        ((11, 0), 1, False, None),
    ],
)
def test_osinfo(version: tuple[int, int], build: int, is_server: bool, name: str | None) -> None:
    assert osinfo_id(version, build, is_server) == name


@pytest.mark.parametrize(("machine", "name"), [(0x14C, "i386"), (0x8664, "x86_64"), (0xAA64, "aarch64"), (1, None)])
def test_pe_architecture(machine: int, name: str | None) -> None:
    assert pe_architecture(struct.pack("<4sH", b"PE\0\0", machine)) == name
    assert pe_architecture(struct.pack("<4sH", b"NE\0\0", machine)) is None


def test_drives_on_gpt() -> None:
    with Machine.open(DEMO) as machine:
        partition = machine.partition("/dev/sda2")
        assert partition is not None and partition.uuid is not None
        guid = uuid.UUID(partition.uuid).bytes_le
        assert find_partition(machine, b"DMIO:ID:" + guid) == "/dev/sda2"
        assert find_partition(machine, b"DMIO:ID:" + bytes(16)) is None
        assert find_partition(machine, b"DMIO:ID:") is None
        assert find_partition(machine, struct.pack("<IQ", 1, partition.start)) is None


def test_root() -> None:
    assert windows_root(MemoryFileSystem({"/WINNT/system32/config/system": ""})) == "/WINNT"
    assert windows_root(MemoryFileSystem({"/Windows/readme.txt": ""})) is None
