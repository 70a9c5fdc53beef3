"""Volume groups made by the lvm tools on loop devices, without a device mapper."""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance import check_device
from conftest import Run
from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.volumes.lvm2 import assemble
from guestctl.disk.volumes.lvm2.snapshot import SnapshotDevice
from guestctl.disk.volumes.lvm2.text import parse_metadata
from guestctl.machine import Machine

MIB = 1 << 20
CONFIG = """
devices { use_devicesfile=0 filter=["a|%s|","r|.*|"] }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { use_lvmpolld=0 }
backup { backup=0 archive=0 }
"""
Lvm = Callable[..., str]


@contextmanager
def loops(run: Run, *files: Path) -> Iterator[tuple[Lvm, list[str]]]:
    """The files as loop devices, and the lvm command for these alone."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")
    devices = [run("losetup", "--show", "-f", file).strip() for file in files]

    def lvm(command: str, *words: str) -> str:
        config = CONFIG % "|".join(f"{device}$" for device in devices)
        return run("lvm", command, "--config", config, "--driverloaded", "n", *words)

    try:
        yield lvm, devices
    finally:
        for device in devices:
            run("losetup", "-d", device)


@contextmanager
def assembled(*files: Path) -> Iterator[Assembly]:
    devices = [FileDevice.open(file) for file in files]
    try:
        yield assemble([Member(f"/dev/sd{'abc'[i]}", device) for i, device in enumerate(devices)], Keys())
    finally:
        for device in devices:
            device.close()


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Three disks of old data."""
    files = [tmp_path / f"pv{number}" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(random.Random(number).randbytes(64 * MIB))
    return files


def content(lvm: Lvm, disks: list[Path], devices: list[str], group: str, volume: str, stripe: int = 65536) -> bytes:
    """The bytes of a volume, by where the lvm tools say that its segments lie (extents of 1 MiB)."""
    start = int(lvm("pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", devices[0]))
    raw = [disk.read_bytes() for disk in disks]
    made = b""
    text = lvm("lvs", "-a", "--noheadings", "-o", "seg_pe_ranges", f"{group}/{volume}")
    for line in text.splitlines():
        legs = []
        for name, first, last in re.findall(r"(\S+?):(\d+)-(\d+)", line):
            if name in devices:
                data = raw[devices.index(name)][start + int(first) * MIB : start + (int(last) + 1) * MIB]
            else:
                data = content(lvm, disks, devices, group, name.strip("[]"))[int(first) * MIB : (int(last) + 1) * MIB]
            legs.append(data)
        rows = range(0, len(legs[0]), stripe)
        made += legs[0] if len(legs) == 1 else b"".join(leg[row : row + stripe] for row in rows for leg in legs)
    return made


@pytest.mark.root
def test_linear_striped_and_raid0(run: Run, disks: list[Path]) -> None:
    with loops(run, *disks) as (lvm, devices):
        lvm("pvcreate", *devices)
        lvm("vgcreate", "-s", "1M", "vg-x", *devices)
        create = ("lvcreate", "-an", "-Zn", "-Wn")
        lvm(*create, "-i", "3", "-I", "64k", "-L", "12M", "-n", "striped", "vg-x")
        lvm(*create, "-l", "70", "-n", "lin-ear", "vg-x")
        lvm(*create, "--type", "raid0", "-i2", "-I", "64k", "-L", "4M", "-n", "zero", "vg-x")
        lvm("lvextend", "-l", "+5", "vg-x/lin-ear", devices[2])
        expected = {
            f"/dev/vg-x/{name}": content(lvm, disks, devices, "vg-x", name) for name in ("striped", "lin-ear", "zero")
        }
    with assembled(*reversed(disks)) as found:
        assert not found.warnings
        assert {volume.name: volume.device.size for volume in found.volumes} == {k: len(v) for k, v in expected.items()}
        for volume in found.volumes:
            check_device(volume.device, expected[volume.name], rounds=60)
    with assembled(*disks[:2]) as found:
        assert not found.volumes
        assert len(found.warnings) == 3
        assert all("missing" in warning for warning in found.warnings)


@pytest.mark.root
def test_mirrors_and_what_is_refused(run: Run, disks: list[Path], tmp_path: Path) -> None:
    """The lvm tools write what these need only with a device mapper; `vgcfgrestore` writes it from a text."""
    with loops(run, *disks) as (lvm, devices):
        lvm("pvcreate", *devices)
        lvm("vgcreate", "-s", "1M", "vg", *devices)
        for number in range(4):
            leg = devices[number % 2]
            lvm("lvcreate", "-an", "-Zn", "-Wn", "-l", "4", "-n", f"leg{number}", "vg", leg)
        text = tmp_path / "vg.text"
        lvm("vgcfgbackup", "-f", str(text), "vg")
        legs = [content(lvm, disks, devices, "vg", f"leg{number}") for number in range(4)]
        backup = text.read_text()
    for number in range(4):
        hidden = r'\g<1>status = ["READ", "WRITE"]'
        backup = re.sub(rf'(leg{number} \{{.*?)status = \["READ", "WRITE", "VISIBLE"\]', hidden, backup, flags=re.S)
    volume = """
        {name} {{ id = "{id}" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
          segment1 {{ start_extent = 0 extent_count = 4 type = "{type}" {fields} }} }}"""
    more = "".join(
        volume.format(name=name, id=f"{number:06d}-aaaa-bbbb-cccc-dddd-eeee-ffffff", type=type_, fields=fields)
        for number, (name, type_, fields) in enumerate(
            (
                ("mirror", "mirror", 'mirror_count = 2 mirrors = ["leg0", 0, "leg1", 0]'),
                ("raid1", "raid1", 'device_count = 2 raids = ["leg0", "leg3", "leg2", "leg1"]'),
                ("zeros", "zero", ""),
                ("vdo", "vdo", 'vdo_pool = "pool"'),
                ("error", "error", ""),
                ("loop", "striped", 'stripe_count = 1 stripes = ["loop", 0]'),
            )
        )
    )
    backup = backup.replace("logical_volumes {", "logical_volumes {" + more, 1)
    metadata = parse_metadata(backup.encode(), 0)
    from guestctl.disk.volumes.lvm2.builder import assemble_group
    from guestctl.disk.volumes.lvm2.group import VolumeGroup
    from guestctl.disk.volumes.lvm2.physical import read_physical_volume

    opened = [FileDevice.open(disk) for disk in disks]
    try:
        physical = {found.uuid: found for found in (read_physical_volume(str(d.path), d) for d in opened)}
        warnings: list[str] = []
        volumes = {volume.name: volume.device for volume in assemble_group(VolumeGroup(metadata), physical, warnings)}
        assert sorted(volumes) == ["/dev/vg/mirror", "/dev/vg/raid1", "/dev/vg/zeros"]
        assert volumes["/dev/vg/mirror"].read(0, 4 * MIB) == legs[0]
        assert volumes["/dev/vg/raid1"].read(0, 4 * MIB) == legs[3]
        assert not any(volumes["/dev/vg/zeros"].read(0, 4 * MIB))
        assert sorted(warnings) == [
            "/dev/vg/error: error lies on nothing any more",
            "/dev/vg/loop: LVM2 metadata at offset 0x0: loop lies on itself",
            "/dev/vg/vdo: vdo segments",
        ]
        del physical[next(uuid for uuid, found in physical.items() if found.device is opened[0])]
        volumes = {volume.name: volume.device for volume in assemble_group(VolumeGroup(metadata), physical, [])}
        assert volumes["/dev/vg/mirror"].read(0, 4 * MIB) == legs[1]
    finally:
        for device in opened:
            device.close()


@pytest.mark.root
def test_metadata_that_wraps_around(run: Run, disks: list[Path]) -> None:
    """After many changes the text has gone around its buffer, and no copy but the newest counts."""
    with loops(run, disks[0]) as (lvm, devices):
        lvm("pvcreate", "--metadatasize", "64k", *devices)
        lvm("vgcreate", "-s", "1M", "vg", *devices)
        lvm("lvcreate", "-an", "-Zn", "-Wn", "-l", "3", "-n", "lv", "vg")
        for number in range(45):
            lvm("vgchange", "--addtag", f"tag{number}", "vg")
            if number % 9 == 0:
                with assembled(disks[0]) as found:
                    assert [volume.name for volume in found.volumes] == ["/dev/vg/lv"]
                    assert not found.warnings


@pytest.mark.root
def test_a_guest_on_lvm(run: Run, disks: list[Path], tmp_path: Path) -> None:
    filesystem = tmp_path / "root.ext4"
    tree = tmp_path / "tree"
    for name in ("etc", "usr/bin", "boot"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/hostname").write_text("on-lvm\n")
    (tree / "etc/fstab").write_text("/dev/mapper/vg--x-ro--ot / ext4 defaults 0 1\n")
    (tree / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, filesystem, "80M")
    with loops(run, *disks) as (lvm, devices):
        lvm("pvcreate", *devices)
        lvm("vgcreate", "-s", "1M", "vg-x", *devices)
        lvm("lvcreate", "-an", "-Zn", "-Wn", "-l", "80", "-n", "ro-ot", "vg-x")
        ranges = lvm("lvs", "--noheadings", "-o", "seg_pe_ranges", "vg-x")
        start = int(lvm("pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", devices[0]))
        data = filesystem.read_bytes()
        for name, first, last in re.findall(r"(\S+?):(\d+)-(\d+)", ranges):
            length = (int(last) + 1 - int(first)) * MIB
            with open(disks[devices.index(name)], "r+b") as file:
                file.seek(start + int(first) * MIB)
                file.write(data[:length])
            data = data[length:]
    with Machine.open(*disks) as machine:
        assert machine.parents("/dev/vg-x/ro-ot") == ("/dev/sda", "/dev/sdb")
        assert machine.find_device("/dev/mapper/vg--x-ro--ot") == "/dev/vg-x/ro-ot"
        guests = machine.guests()
        assert [guest.root for guest in guests] == ["/dev/vg-x/ro-ot"]
        assert guests[0].tree.read_text("/etc/hostname") == "on-lvm\n"
        assert not machine.all_warnings()


@pytest.mark.root
def test_damage(run: Run, disks: list[Path]) -> None:
    with loops(run, disks[0]) as (lvm, devices):
        lvm("pvcreate", *devices)
        lvm("vgcreate", "-s", "1M", "vg", *devices)
        lvm("lvcreate", "-an", "-Zn", "-Wn", "-l", "3", "-n", "lv", "vg")
    head = bytearray(disks[0].read_bytes()[:MIB])
    source = random.Random(0)
    used = [at for at in range(len(head)) if 512 <= at < 1024 or 4096 <= at < 4096 + 8192]
    for _ in range(3000):
        mutant = bytearray(head)
        for _ in range(source.choice((1, 1, 4))):
            mutant[source.choice(used)] = source.randrange(256)
        if source.random() < 0.5:  # so that what follows is looked at
            mutant = bytearray(with_checksums(mutant))
        device = MemoryDevice(bytes(mutant) + bytes(8 * MIB))
        try:
            for volume in assemble([Member("/dev/sda", device)], Keys()).volumes:
                volume.device.read(0, min(volume.device.size, 4096))
        except GuestctlError:
            pass


def with_checksums(head: bytearray) -> bytearray:
    import zlib

    def crc(data: bytes) -> int:
        return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    offset, size = struct.unpack_from("<QQ", head, 4096 + 40)
    if 512 <= offset < offset + size < len(head) - 4096:
        struct.pack_into("<I", head, 4096 + 56, crc(bytes(head[4096 + offset : 4096 + offset + size])))
    struct.pack_into("<I", head, 4096, crc(bytes(head[4100 : 4096 + 512])))
    struct.pack_into("<I", head, 512 + 16, crc(bytes(head[512 + 20 : 1024])))
    return head


def test_snapshot() -> None:
    """An exception store as the kernel writes it, built from its description."""
    chunk = 4096
    origin = random.Random(1).randbytes(40 * chunk)
    store = bytearray(600 * chunk)
    struct.pack_into("<IIII", store, 0, 0x70416E53, 1, 1, chunk // 512)
    expected = bytearray(origin)
    per_area = chunk // 16
    for number, old in enumerate((3, 7, 8, 39)):
        new = 2 + number
        struct.pack_into("<QQ", store, chunk + number * 16, old, new)
        store[new * chunk : (new + 1) * chunk] = bytes([number + 1]) * chunk
        expected[old * chunk : (old + 1) * chunk] = bytes([number + 1]) * chunk
    check_device(SnapshotDevice(MemoryDevice(origin), MemoryDevice(bytes(store)), chunk), bytes(expected))
    for number in range(per_area):  # a full area: the next one follows its data
        struct.pack_into("<QQ", store, chunk + number * 16, number % 20, 2 + number % 200)
    struct.pack_into("<QQ", store, (1 + per_area + 1) * chunk, 30, 5)
    snapshot = SnapshotDevice(MemoryDevice(origin), MemoryDevice(bytes(store)), chunk)
    assert snapshot.read(30 * chunk, chunk) == bytes(store[5 * chunk : 6 * chunk])
    struct.pack_into("<I", store, 4, 0)
    with pytest.raises(GuestctlError, match="invalid snapshot"):
        SnapshotDevice(MemoryDevice(origin), MemoryDevice(bytes(store)), chunk)


@pytest.mark.parametrize(
    "text", [b" " * 100_000 + b"!", b"# " * 50_000 + b"\n!", b'a = "' + b"x\\" * 50_000, b"{" * 100_000]
)
def test_text_that_is_no_metadata_is_refused_quickly(text: bytes) -> None:
    with pytest.raises(GuestctlError):
        parse_metadata(text, 0)


def test_identity(run: Run, shared: Path, tmp_path: Path) -> None:
    image, folder = tmp_path / "image", shared / "blkid" / "images-fs"
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", folder / "lvm2.img.xz", image)
    told = dict(line.split("=", 1) for line in (folder / "lvm2.expected").read_text().splitlines())
    with FileDevice.open(image) as device:
        version = told["ID_FS_VERSION"].replace("\\x20", " ")
        assert FileSystem.identify(device) == Identity("LVM2_member", "raid", version, None, told["ID_FS_UUID"])
