"""Volumes on volumes that a kernel made in a virtual machine, assembled from the images of its disks."""

from __future__ import annotations

from pathlib import Path

import pytest

import volume_images
from guestctl.disk.volumes.keys import Key, Keys
from guestctl.machine import Machine


@pytest.mark.parametrize(
    ("name", "wanted"),
    [(name, wanted) for name in ("lvm-on-md", "luks", "stack") for wanted in volume_images.reads(name)],
)
def test_stacks(tmp_path: Path, name: str, wanted: tuple[int, ...]) -> None:
    paths = []
    for number in wanted:
        paths.append(tmp_path / f"disk{number}")
        paths[-1].write_bytes(volume_images.images(name)[number])
    with Machine.open(*paths, keys=Keys([Key("all", b"guestctl")])) as machine:
        devices = machine.devices
        digests = {device: volume_images.digest(devices[device]) for device in devices}
        expected = volume_images.reads(name)[wanted]
        for device, digest in expected.items():
            if device.startswith("/dev/mapper/luks-"):  # guestctl has its UUID in the name
                assert digest in digests.values()
            else:
                assert (device, digests[device]) == (device, digest)
        if name == "luks":
            return
        root = {"lvm-on-md": "/dev/vg/root", "stack": "/dev/vg/linear"}[name]
        filesystem = machine.filesystem(root)
        assert filesystem.read_text("/lvm.conf").startswith("devices {")
        assert filesystem.stat("/directory/numbers").st_size == 100_000
        degraded = [warning for warning in machine.all_warnings() if "degraded" in warning]
        assert degraded == (["/dev/md127: degraded: members 1 are missing"] if len(wanted) == 2 else [])


def test_parents_of_a_stack(tmp_path: Path) -> None:
    paths = [tmp_path / f"disk{number}" for number in range(3)]
    for path, image in zip(paths, volume_images.images("stack"), strict=True):
        path.write_bytes(image)
    with Machine.open(*paths, keys=Keys([Key("all", b"guestctl")])) as machine:
        assert machine.parents("/dev/md127") == ("/dev/sda", "/dev/sdb")
        (encrypted,) = machine.parents("/dev/vg/linear")
        assert machine.parents(encrypted) == ("/dev/md127",)
        assert not machine.all_warnings()
