"""Guests in subvolumes of a Btrfs, on one device and on two, as the kernel shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from btrfs_images import make, mounted
from conftest import Mount, Run
from guestctl.cli import main
from guestctl.core.errors import DetectionError
from guestctl.detectors import inspect
from guestctl.machine import Machine

UUID = "11111111-2222-3333-4444-555555555555"


def _system(top: Path, name: str) -> None:
    for directory in ("etc", "usr/bin", "home", "var"):
        (top / directory).mkdir(parents=True)
    (top / "etc/os-release").write_text(f'ID=fedora\nNAME="{name}"\nVERSION_ID=40\n')
    (top / "etc/hostname").write_text(f"{name}\n")
    (top / "etc/fstab").write_text(
        f"UUID={UUID} / btrfs subvol=root 0 0\n"
        f"UUID={UUID} /home btrfs compress=zstd,subvol=/home 0 0\n"
        f"UUID={UUID} /var btrfs subvolid=258 0 0\n"
    )


@pytest.fixture(scope="module")
def images(run: Run, mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Btrfs on two devices: subvolumes root, home and var, a snapshot of root, and another system."""
    folder = tmp_path_factory.mktemp("btrfs")
    images = [folder / "first.img", folder / "second.img"]
    make(run, images, f"-L system -U {UUID} -d raid0 -m raid1")
    with mounted(run, mount, images, "rw") as top:
        for name in ("root", "home", "var", "other"):
            run("btrfs", "subvolume", "create", top / name)
        _system(top / "root", "first")
        _system(top / "other", "second")
        (top / "home/file").write_bytes(b"in home" * 100_000)
        (top / "var/file").write_text("in var")
        run("btrfs", "subvolume", "snapshot", top / "root", top / "before-update")
    return images


@pytest.mark.root
@pytest.mark.parametrize("reverse", [False, True])
def test_guests(images: list[Path], reverse: bool) -> None:
    with Machine.open(*(images[::-1] if reverse else images)) as machine:
        guests = machine.guests()
        assert [guest.root for guest in guests] == ["btrfsvol:/dev/sda/root", "btrfsvol:/dev/sda/other"]
        assert guests[0].mountpoints == {
            "/": "btrfsvol:/dev/sda/root",
            "/home": "btrfsvol:/dev/sda/home",
            "/var": "btrfsvol:/dev/sda/var",
        }
        assert guests[0].tree.read_bytes("/home/file") == b"in home" * 100_000
        assert guests[0].tree.read_text("/var/file") == "in var"
        assert [guest.hostname for guest in inspect(machine).guests] == ["first", "second"]
        assert list(machine.subvolumes("/dev/sdb")) == [
            f"btrfsvol:/dev/sdb/{name}" for name in ("root", "home", "var", "other", "before-update")
        ]
        assert machine.filesystem("btrfsvol:/dev/sdb/before-update").read_text("/etc/hostname") == "first\n"


@pytest.mark.root
def test_default_subvolume(run: Run, mount: Mount, images: list[Path], tmp_path: Path) -> None:
    """What is mounted without a name is the device itself; what it was taken from is no second guest."""
    copies = [tmp_path / image.name for image in images]
    for image, copy in zip(images, copies, strict=True):
        run("cp", "--reflink=auto", image, copy)
    with mounted(run, mount, copies, "rw") as top:
        run("btrfs", "subvolume", "set-default", top / "before-update")
    with Machine.open(*copies) as machine:
        assert [guest.root for guest in machine.guests()] == ["/dev/sda", "btrfsvol:/dev/sda/other"]


@pytest.mark.root
def test_one_device_missing(images: list[Path]) -> None:
    """RAID0 bears no loss: what lies on the other device fails by its name, the rest is there."""
    with Machine.open(images[0]) as machine:
        assert [guest.root for guest in machine.guests()] == ["btrfsvol:/dev/sda/root", "btrfsvol:/dev/sda/other"]
        assert any("missing" in warning for warning in machine.all_warnings())


@pytest.mark.root
def test_command_line(images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    def guestctl(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as exit:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert exit.value.code == 0, captured.err
        return captured.out

    where: list[str | Path] = [images[0], "-a", images[1], "-m", "btrfsvol:/dev/sda/home"]
    assert guestctl("cat", *where, "/file") == "in home" * 100_000
    found = json.loads(guestctl("filesystems", "--json", images[0], "-a", images[1]))
    assert [(one["device"], one["parents"]) for one in found][:2] == [
        ("/dev/sda", []),
        ("/dev/sdb", []),
    ]
    assert ("btrfsvol:/dev/sda/home", ["/dev/sda"]) in [(one["device"], one["parents"]) for one in found]
    lines = guestctl("filesystems", images[0], "-a", images[1]).splitlines()
    assert any(line.startswith("└─btrfsvol:/dev/sda/before-update") for line in lines)
    report = json.loads(guestctl("inspect", "--json", *images))
    assert {one["device"]: one["parents"] for one in report["filesystems"]}["btrfsvol:/dev/sda/root"] == ["/dev/sda"]


@pytest.mark.parametrize("name", ["btrfsvol:/dev/sda/nothing", "btrfsvol:/dev/sdz/root", "btrfsvol:"])
@pytest.mark.root
def test_no_such_subvolume(images: list[Path], name: str) -> None:

    with Machine.open(*images) as machine, pytest.raises(DetectionError):
        machine.filesystem(name)
