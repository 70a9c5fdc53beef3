"""Volumes that were not unmounted, hibernated, or damaged, beside what ntfs-3g says of them; and single wrong bytes."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from awkward_tree import from_guestctl, from_mount
from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError

pytestmark = pytest.mark.root
Run = Callable[..., str]
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]


def _ntfs_3g_refuses(image: Path, folder: Path) -> str:
    """What ntfs-3g says where it mounts a volume read-only although it was asked to write."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["ntfs-3g", "-o", "rw", image, folder], capture_output=True, text=True)
    if done.returncode == 0:
        assert subprocess.run(["umount", folder], check=False).returncode == 0
        time.sleep(0.05)
    return done.stderr


def _warnings(image: Path) -> list[str]:
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        return filesystem.warnings


def test_dirty_flag(run: Run, make: Make) -> None:
    image = make("-c", "4096")
    run("ntfsfix", image)  # which asks Windows for a check
    assert "DIRTY" in run("ntfsinfo", "-m", "-f", image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert len(filesystem.warnings) == 1 and "dirty" in filesystem.warnings[0]
        with pytest.raises(UnsupportedFeature):
            list(filesystem.free_ranges())
    run("ntfsfix", "-d", image)
    assert "DIRTY" not in run("ntfsinfo", "-m", image)
    assert _warnings(image) == []


def restart_page(*, clean: bool, lsn: int = 1 << 20) -> bytes:
    """A restart page of $LogFile with its one client, "NTFS", by chapter 2.3 of the NTFS documentation."""
    page = bytearray(4096)
    page[:30] = struct.pack("<4sHHQIIHHH", b"RSTR", 30, 9, 0, 4096, 4096, 0x30, 1, 1)[:30]
    in_use, flags = (0xFFFF, 2) if clean else (0, 0)
    area = struct.pack(
        "<QHHHHIHHQIHHII", lsn, 1, 0 if clean else 0xFFFF, in_use, flags, 45, 48 + 160, 48, 2 << 20, 0, 48, 64, 1, 0
    )
    page[0x30 : 0x30 + len(area)] = area
    client = struct.pack("<QQHHH6xI8s", lsn, lsn, 0xFFFF, 0xFFFF, 0, 8, "NTFS".encode("utf-16-le"))
    page[0x60 : 0x60 + len(client)] = client
    page[30:32] = b"\1\0"
    for sector in range(8):
        end = 512 * (sector + 1) - 2
        page[32 + 2 * sector : 34 + 2 * sector] = page[end : end + 2]
        page[end : end + 2] = b"\1\0"
    return bytes(page)


@pytest.mark.parametrize("clean", [False, True])
def test_log(run: Run, make: Make, tmp_path: Path, clean: bool) -> None:
    """A log with changes that the volume lacks, which no tool here leaves."""
    image = make("-c", "4096")
    lcn = _log_cluster(run, image)
    with image.open("r+b") as stream:
        for number in range(2):
            stream.seek(lcn * 4096 + 4096 * number)
            stream.write(restart_page(clean=clean))
    warnings = _warnings(image)
    assert ("unclean" in _ntfs_3g_refuses(image, tmp_path / "mount")) == (not clean)
    assert any("its log holds changes" in warning for warning in warnings) == (not clean)
    assert len(warnings) == (not clean)


def _log_cluster(run: Run, image: Path) -> int:
    for line in run("ntfsinfo", "-v", "-i", "2", image).splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "0x0":
            return int(words[1], 16)
    raise AssertionError("no runlist of $LogFile")


def test_hibernated(make: Make, mount_ntfs: MountNtfs, tmp_path: Path) -> None:
    image = make("-c", "4096")
    for content, hibernated in ((b"hibr" + bytes(8192), True), (b"wake" + bytes(8192), False)):
        with mount_ntfs(image, "rw,remove_hiberfile") as target:
            (target / "hiberfil.sys").write_bytes(content)
        assert ("hibernated" in _ntfs_3g_refuses(image, tmp_path / "mount")) == hibernated
        assert any("hibernated" in warning for warning in _warnings(image)) == hibernated


def _place(image: Path, offset: int) -> int:
    return int.from_bytes(image.read_bytes()[offset : offset + 8], "little") * 4096


@pytest.mark.parametrize("records", [(0,), (3,), (0, 1, 2, 3)])
def test_mirror(make: Make, mount_ntfs: MountNtfs, records: tuple[int, ...]) -> None:
    """The first records torn: everything is read as before, with their copies."""
    image = make("-c", "4096", "-L", "label")
    with mount_ntfs(image, "rw") as target:
        for number in range(300):
            (target / f"file-{number}").write_bytes(b"%d" % number * number)
    with mount_ntfs(image) as target:
        expected = from_mount(target)
    table, mirror = _place(image, 48), _place(image, 56)
    data = bytearray(image.read_bytes())
    for record in records:
        data[table + 1024 * record + 510] ^= 0xFF
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert from_guestctl(filesystem) == expected
        assert filesystem.label == "label"
        assert len(filesystem.warnings) == 1 and "$MFTMirr" in filesystem.warnings[0]
    identity = FileSystem.identify(MemoryDevice(data))
    assert identity is not None and identity.label == "label"
    data[mirror + 510] ^= 0xFF
    if 0 in records:
        with pytest.raises(InvalidFormat, match="neither \\$MFT nor its mirror") as failure:
            FileSystem.detect(MemoryDevice(data))
        assert (failure.value.structure, failure.value.offset) == ("file record", table)
    data[table : table + 8] = bytes(8)
    data[48:56] = b"\xff" * 8  # the table is nowhere
    with pytest.raises(InvalidFormat):
        FileSystem.detect(MemoryDevice(data))


def test_torn_record_fails_alone(make: Make, mount_ntfs: MountNtfs) -> None:
    image = make("-c", "4096")
    with mount_ntfs(image, "rw") as target:
        for number in range(100):
            (target / f"file-{number:03}").write_bytes(b"content")
    data = bytearray(image.read_bytes())
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        number = filesystem.lstat("/file-050").st_ino
    offset = _place(image, 48) + 1024 * number
    data[offset + 510] ^= 0xFF
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        errors: list[WalkError] = []
        assert len(list(filesystem.find("/", onerror=errors.append))) == 100
        (error,) = errors
        assert error.path == "/file-050" and isinstance(error.error, InvalidFormat)
        assert (error.error.structure, error.error.offset) == ("file record", offset)
        assert "torn write" in str(error.error)
        with pytest.raises(GuestctlError):
            filesystem.read_bytes("/file-050")


def test_lookup_is_that_of_upcase(make: Make, mount_ntfs: MountNtfs) -> None:
    """Beside ntfs-3g, told to ignore case: it lowers names by the same table."""
    image = make("-c", "4096")
    names = ("Plain", "Ünïcödé", "ΣΊΣΥΦΟΣ", "Привет", "ǆ", "straße", "ﬁ", "İi", "ÿ", "ⅷ", "日本")
    with mount_ntfs(image, "rw") as target:
        for name in names:
            (target / name).touch()
    asked = {form for name in names for form in (name, name.upper(), name.lower(), name.swapcase(), name.title())}
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        ours = {name for name in asked if filesystem.exists(f"/{name}")}
    with mount_ntfs(image, "ro,ignore_case", "lowntfs-3g") as target:
        expected = {name for name in asked if (target / name).exists()}
    assert ours == expected
    assert len(names) < len(ours) < len(asked)
