"""A whole Debian 12 guest in every wrapping, beside the kernel's mount of it.

The guest is made by tools/make-debian-guest, or is the raw image that GUESTCTL_TEST_GUEST names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from guestctl.disk import DiskReader
from guestctl.disk.compare import compare
from guestctl.machine import Machine

pytestmark = [pytest.mark.long, pytest.mark.root]
TOOLS = Path(__file__).resolve().parents[2] / "tools"
Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
WRAPPINGS = ("raw", "qcow2", "zlib", "zstd", "chain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("guest")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def guest(run: Run, folder: Path) -> Path:
    known = os.environ.get("GUESTCTL_TEST_GUEST")
    if known:
        return Path(known)
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mmdebstrap", "sgdisk", "mkfs.vfat", "mcopy", "mke2fs"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    run(TOOLS / "make-debian-guest", folder / "debian.raw")
    return folder / "debian.raw"


@pytest.fixture(scope="module")
def images(run: Run, guest: Path, folder: Path) -> dict[str, Path]:
    """The guest in each wrapping; the chain is two overlays on a base, each with a part of the changes."""
    made = {name: folder / f"{name}.qcow2" for name in WRAPPINGS[1:]} | {"raw": guest}
    run("qemu-img", "convert", "-O", "qcow2", guest, made["qcow2"])
    run("qemu-img", "convert", "-c", "-O", "qcow2", guest, made["zlib"])
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", guest, made["zstd"])
    # The base has garbage where the overlays put the guest's bytes back.
    base, middle = folder / "base.raw", folder / "middle.qcow2"
    run("cp", "--sparse=always", guest, base)
    places = (1 << 20, 70 << 20, 200 << 20, 400 << 20)
    with base.open("r+b") as stream:
        for place in places:
            stream.seek(place)
            stream.write(b"\xa5" * 70_000)
    run("qemu-img", "create", "-f", "qcow2", "-b", base.name, "-F", "raw", middle)
    run("qemu-img", "create", "-f", "qcow2", "-b", middle.name, "-F", "qcow2", made["chain"])
    part = folder / "part"
    for number, place in enumerate(places):
        with guest.open("rb") as stream:
            stream.seek(place)
            part.write_bytes(stream.read(70_144))
        target = (middle, made["chain"])[number % 2]
        run("qemu-io", "-f", "qcow2", "-c", f"write -s {part} {place} 70144", target)
    return made


@pytest.fixture(scope="module")
def mounted(mount: Mount, guest: Path) -> Iterator[Path]:
    (table,) = json.loads(guestctl("partitions", "--json", guest))
    start = table["partitions"][1]["start"]
    with mount(guest, f"ro,loop,offset={start}") as path:
        yield path


def guestctl(*argv: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", "guestctl", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_inspect(images: dict[str, Path], mounted: Path, run: Run, wrapping: str) -> None:
    report = json.loads(guestctl("inspect", "--json", images[wrapping]))
    assert report["warnings"] == []
    (guest,) = report["guests"]
    release = dict(line.split("=", 1) for line in (mounted / "etc/os-release").read_text().splitlines())
    major, minor = (mounted / "etc/debian_version").read_text().strip().split(".")
    kernels = sorted(path.name for path in (mounted / "lib/modules").iterdir())
    expected = {
        "root": "/dev/sda2",
        "type": "linux",
        "distro": "debian",
        "product_name": release["PRETTY_NAME"].strip('"'),
        "product_variant": None,
        "major_version": int(major),
        "minor_version": int(minor),
        "arch": "x86_64",
        "hostname": "guest.example.org",
        "osinfo": "debian12",
        "package_format": "deb",
        "package_management": "apt",
        "init_system": "systemd",
        "firmware": "uefi",
        "mountpoints": {"/": "/dev/sda2", "/boot/efi": "/dev/sda1"},
        "filesystems": ["/dev/sda1", "/dev/sda2"],
        "drive_mappings": {},
        "timezone": "Europe/Paris",
        "locale": "C.UTF-8",
    }
    assert {key: guest[key] for key in expected} == expected
    assert [(item["version"], item["path"], item["initramfs"], item["modules"]) for item in guest["kernels"]] == [
        (kernel, f"/boot/vmlinuz-{kernel}", f"/boot/initrd.img-{kernel}", True) for kernel in kernels
    ]
    listing = run(
        "dpkg-query", "--admindir", mounted / "var/lib/dpkg", "-W", "-f", "${Package} ${Version} ${Architecture}\n"
    )
    found = [
        f"{item['name']} {str(item['epoch']) + ':' if item['epoch'] else ''}{item['version']}"
        f"{'-' + item['release'] if item['release'] else ''} {item['arch']}"
        for item in guest["applications"]
    ]
    assert sorted(found) == sorted(listing.splitlines())
    by_device = {item["device"]: item for item in report["filesystems"]}
    usage = os.statvfs(mounted)
    assert by_device["/dev/sda2"]["used"] == (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    assert report["images"][0]["format"] == ("raw" if wrapping == "raw" else "qcow2")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_hash(images: dict[str, Path], contents: dict[str, str], wrapping: str) -> None:
    lines = guestctl("hash", "-m", "/dev/sda2", images[wrapping], "/").splitlines()
    assert {line[66:]: line[:64] for line in lines} == contents


@pytest.fixture(scope="module")
def contents(mounted: Path) -> dict[str, str]:
    """SHA-256 of every regular file of the mount."""
    found = {}
    for folder, _, names in os.walk(mounted):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as stream:
                    found[path[len(str(mounted)) :]] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


@pytest.mark.parametrize("wrapping", ["raw", "chain"])
def test_tar(images: dict[str, Path], mounted: Path, run: Run, tmp_path: Path, wrapping: str) -> None:
    run("tar", "-C", mounted, "--xattrs", "--numeric-owner", "-cf", tmp_path / "theirs.tar", ".")
    guestctl("tar-out", "-m", "/dev/sda2", images[wrapping], "/", tmp_path / "ours.tar")
    theirs, ours = _members(tmp_path / "theirs.tar"), _members(tmp_path / "ours.tar")
    assert len(ours) > 10_000
    assert any("SCHILY.xattr.security.capability" in member[-1] for member in ours.values())
    assert any("SCHILY.xattr.system.posix_acl_access" in member[-1] for member in ours.values())
    assert ours == theirs


def _members(path: Path) -> dict[str, tuple[Any, ...]]:
    members: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(stream.read()).hexdigest() if stream else None
            pax = {key: value for key, value in member.pax_headers.items() if key not in ("hdrcharset", "path")}
            members[member.name] = (
                member.type,
                member.mode,
                member.uid,
                member.gid,
                member.size,
                member.mtime,
                member.linkname,
                member.devmajor,
                member.devminor,
                digest,
                pax,
            )
    return members


def test_a_disk_of_two_tebibytes_costs_the_same(guest: Path, run: Run, folder: Path) -> None:
    """Counted in what is read, since time on a shared machine proves nothing."""
    big_raw, big = folder / "big.raw", folder / "big.qcow2"
    run(TOOLS / "grow-guest", guest, big_raw, "2T")
    run("qemu-img", "convert", "-O", "qcow2", big_raw, big)
    big_raw.unlink()
    small = folder / "small.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", guest, small)
    reports = [json.loads(guestctl("inspect", "--json", image)) for image in (small, big)]
    assert reports[0]["guests"][0] == reports[1]["guests"][0]
    assert reports[1]["images"][0]["virtual_size"] == 2 << 40
    read = [_bytes_read(image) for image in (small, big)]
    assert read[1] < 1.2 * read[0]


def _bytes_read(image: Path) -> int:
    from guestctl.block import FileDevice
    from guestctl.detectors import inspect
    from guestctl.machine import Machine

    total = 0
    read = FileDevice.read

    def counting(device: FileDevice, offset: int, length: int) -> bytes | memoryview:
        nonlocal total
        total += length
        return read(device, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileDevice, "read", counting)
        with Machine.open(image) as machine:
            assert inspect(machine).guests
    return total


FORMATS = (
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=fixed"),
    ("vdi", "static=off"),
    ("vdi", "static=on"),
)


@pytest.mark.parametrize(("format", "options"), FORMATS, ids=map(" ".join, FORMATS))
def test_other_formats(run: Run, guest: Path, tmp_path: Path, format: str, options: str) -> None:
    """What qemu-img made of the guest has its bytes, and is found without its name saying what it is."""
    image = tmp_path / "image"
    run("qemu-img", "convert", "-O", format, "-o", options, guest, image)
    with DiskReader.open(image) as reader, DiskReader.open(guest) as expected:
        assert (reader.format, reader.size) == (format, expected.size)
        assert compare(expected, reader).identical
    with Machine.open(image) as machine:
        assert machine.guests()[0].tree.read_text("/etc/hostname") == "guest.example.org\n"
    shutil.rmtree(tmp_path)


def test_stream_optimized(run: Run, guest: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    guestctl("convert", "-c", "-O", "vmdk", "-o", "subformat=streamOptimized", guest, image)
    run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", guest, image)
    run("qemu-img", "check", image)
    shutil.rmtree(tmp_path)
