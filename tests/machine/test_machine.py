"""Disks become devices, fstab becomes a tree, and the library contract of the design holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.core.errors import DetectionError
from guestctl.core.types import Firmware, GuestType
from guestctl.detectors import GuestDetector, inspect
from guestctl.disk import DiskReader, FileSystem, PartitionTable
from guestctl.machine import Machine, MountTree
from guestctl.machine.devices import letters
from guestctl.machine.fstab import parse_fstab
from memory_filesystem import MemoryFileSystem

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tests" / "data" / "debian-12.qcow2"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def data_disk(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filesystem straight on a disk."""
    path = tmp_path_factory.mktemp("data") / "data.raw"
    with path.open("wb") as stream:
        stream.truncate(16 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-L", "my data", "-U", "11111111-2222-3333-4444-555555555555", path)
    return path


def test_devices(data_disk: Path) -> None:
    with Machine.open(DEMO, data_disk) as machine:
        assert list(machine.devices) == ["/dev/sda1", "/dev/sda2", "/dev/sdb"]
        assert [(found.device, found.identity and found.identity.type) for found in machine.found()] == [
            ("/dev/sda1", "vfat"),
            ("/dev/sda2", "ext4"),
            ("/dev/sdb", "ext4"),
        ]
        with pytest.raises(DetectionError, match="no device /dev/sdc"):
            machine.filesystem("/dev/sdc")
    assert [letters(index) for index in (0, 25, 26, 51, 52, 701, 702)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


@pytest.mark.parametrize(
    ("spec", "device"),
    [
        ("UUID=11111111-2222-3333-4444-555555555555", "/dev/sdb"),
        ("UUID=1234-abcd", "/dev/sda1"),
        ('LABEL="my data"', "/dev/sdb"),
        ("PARTLABEL=root", "/dev/sda2"),
        ("/dev/disk/by-label/my\\x20data", "/dev/sdb"),
        ("/dev/disk/by-partlabel/ESP", "/dev/sda1"),
        ("/dev/sda2", "/dev/sda2"),
        ("/dev/vda2", "/dev/sda2"),
        ("/dev/xvdb", "/dev/sdb"),
        ("/dev/nvme0n1p1", "/dev/sda1"),
        ("/dev/mmcblk0p2", "/dev/sda2"),
        ("/dev/vdc1", None),
        ("UUID=none", None),
        ("/dev/disk/by-id/ata-X-part1", None),  # of two disks, which?
    ],
)
def test_names_of_devices(data_disk: Path, spec: str, device: str | None) -> None:
    with Machine.open(DEMO, data_disk) as machine:
        assert machine.find_device(spec) == device


def test_by_id_on_the_only_disk() -> None:
    with Machine.open(DEMO) as machine:
        assert machine.find_device("/dev/disk/by-id/ata-X-part2") == "/dev/sda2"


def test_partuuid() -> None:
    with Machine.open(DEMO) as machine:
        partition = machine.partition("/dev/sda2")
        assert partition is not None
        assert partition.uuid is not None
        assert machine.find_device(f"PARTUUID={partition.uuid.upper()}") == "/dev/sda2"


def test_fstab() -> None:
    text = (
        "# comment\n"
        "UUID=1 / ext4 defaults 0 1\n"
        "LABEL=a\\040b /mnt/with\\040space ext4 defaults\n"
        "/dev/sda5 none swap sw 0 0\n"
        "proc /proc proc defaults 0 0\n"
        "/home /srv/home none bind 0 0\n"
        "nfs:/x /net nfs defaults 0 0\n"
        "/dev/sdb1 /data// auto\n"
        "short\n"
    )
    assert [(entry.spec, entry.mountpoint) for entry in parse_fstab(text)] == [
        ("UUID=1", "/"),
        ("LABEL=a b", "/mnt/with space"),
        ("/dev/sdb1", "/data"),
    ]


def test_mount_tree() -> None:
    tree = MountTree(MemoryFileSystem({"/boot": None, "/etc/hosts": "a", "/data": "a file"}))
    boot = MemoryFileSystem({"/vmlinuz": "kernel", "/efi": None})
    tree.mount("/boot", boot)
    tree.mount("/boot/efi", MemoryFileSystem({"/EFI/BOOT": None}))
    assert tree.read_text("/boot/vmlinuz") == "kernel"
    assert tree.is_dir("/boot/efi/EFI")
    assert tree.read_text("/boot/../etc/hosts") == "a"
    paths = [path for path, _, _ in tree.find("/")]
    assert "/boot/efi/EFI/BOOT" in paths
    assert len(paths) == len(set(paths))
    assert sorted(tree.glob("/boot/*")) == ["/boot/efi", "/boot/vmlinuz"]
    for path, error in (("/data", NotADirectoryError), ("/nothing", FileNotFoundError), ("/", OSError)):
        with pytest.raises(error):
            tree.mount(path, boot)


def test_a_machine_without_a_guest(data_disk: Path) -> None:
    with Machine.open(data_disk) as machine:
        assert machine.guests() == []
        assert inspect(machine).guests == []
    with pytest.raises(DetectionError, match="no operating system"):
        GuestDetector().detect_from_image(data_disk)


def test_guest_detector() -> None:
    guest = GuestDetector().detect_from_image(DEMO)
    assert (guest.os_type, guest.distro, guest.architecture) == (GuestType.LINUX, "debian", "x86_64")
    assert (guest.os_name, guest.firmware, guest.init_system) == (
        "Debian GNU/Linux 12 (bookworm)",
        Firmware.UEFI,
        "systemd",
    )
    assert guest.os_version is not None
    assert guest.os_version.startswith("12.")


def test_library_contract() -> None:
    with DiskReader.open(DEMO) as reader:
        assert (reader.format, reader.size) == ("qcow2", 32 << 20)
        assert reader.read_exact_at(0, 512)[510:] == b"\x55\xaa"
        partitions = PartitionTable.parse(reader).partitions
        assert [(item.number, item.start_lba) for item in partitions] == [(1, 2048), (2, 10240)]
        filesystem = FileSystem.detect(reader, partitions[1])
        assert (filesystem.type, filesystem.label) == ("ext4", "root")
        assert filesystem.uuid == "6f1c2c0a-5d6e-4b6e-9d9c-3a0b8c1d2e3f"


def test_guestctl_py_has_the_same_names() -> None:
    import guestctl_py

    assert guestctl_py.DiskReader is DiskReader
    assert guestctl_py.GuestDetector is GuestDetector
    assert all(hasattr(guestctl_py, name) for name in guestctl_py.__all__)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/how-to/python.md"])
def test_python_of_the_documentation_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, os.fspath(ROOT / page), "exec"), {})


def test_public_names() -> None:
    import guestctl

    assert guestctl.__all__ == ["DiskReader", "FileSystem", "GuestctlError", "PartitionTable", "Path", "__version__"]
    assert guestctl.DiskReader is DiskReader
    with pytest.raises(AttributeError):
        _ = guestctl.nothing
