"""What ISO 9660 images are, as blkid says, and how they boot, as xorriso says."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem, PartitionTable
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.iso9660.filesystem import IsoFileSystem
from iso_images import make

Run = Callable[..., str]
_TAGS = ("TYPE", "USAGE", "VERSION", "LABEL", "UUID", "BLOCK_SIZE")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "boot.img").write_bytes(b"boot" * 512)
    (source / "efi.img").write_bytes(b"efi" * 5000)
    return source


def _compare(run: Run, image: Path) -> Identity:
    """Ours, which is blkid's."""
    said = [run("blkid", "-p", "-o", "value", "-s", tag, image).rstrip("\n") or None for tag in _TAGS]
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity is not None
        ours = (identity.type, identity.usage, identity.version, identity.label, identity.uuid)
        assert [*ours, "2048"] == said
        with FileSystem.detect(device) as filesystem:
            assert (filesystem.type, filesystem.version) == (identity.type, identity.version)
            assert (filesystem.label, filesystem.uuid) == (identity.label, identity.uuid)
            assert filesystem.block_size == 2048
    return identity


@pytest.mark.parametrize("options", ["", "-R", "-J", "-R -J"])
@pytest.mark.parametrize("label", ["PLAIN", "With spaces", "A_label_of_more_than_sixteen", "x" * 32, "Größe", ""])
def test_genisoimage(run: Run, source: Path, tmp_path: Path, options: str, label: str) -> None:
    command = f"genisoimage -quiet -input-charset utf-8 {options}"
    image = tmp_path / "image"
    script = f'exec {command} -V "{label}" -o "{image}" "{source}"'
    run("genisoimage", "--version")
    run("sh", "-c", script)
    assert _compare(run, image).version == ("Joliet Extension" if "-J" in options else None)


@pytest.mark.parametrize("options", ["--norock", "-J", "-R", "--modification-date=2021030405060708"])
def test_xorriso(run: Run, source: Path, tmp_path: Path, options: str) -> None:
    image = make(run, tmp_path / "image", f"xorriso -as mkisofs -quiet -V Label_of_xorriso {options}", source)
    identity = _compare(run, image)
    assert "modification" not in options or identity.uuid == "2021-03-04-05-06-07-08"


def test_images_of_util_linux(shared: Path) -> None:
    folder = shared / "blkid" / "images-fs"
    compared = 0
    for image in sorted(folder.glob("iso*.img.xz")):
        path = folder / image.name.replace(".img.xz", ".expected")
        if not path.exists():
            continue
        expected = dict(line.split("=", 1) for line in path.read_text().splitlines())
        device = MemoryDevice(lzma.decompress(image.read_bytes()))
        identity = FileSystem.identify(device)
        assert identity is not None
        label = identity.label.replace(" ", "_") if identity.label else None
        version = identity.version.replace(" ", "\\x20") if identity.version else None
        assert (identity.type, identity.usage, version, label, identity.uuid) == (
            expected["ID_FS_TYPE"],
            expected["ID_FS_USAGE"],
            expected.get("ID_FS_VERSION"),
            expected.get("ID_FS_LABEL"),
            expected.get("ID_FS_UUID"),
        )
        with FileSystem.detect(device) as filesystem:
            assert filesystem.size == int(expected["ID_FS_FSSIZE"])
        compared += 1
    assert compared == 4


def test_boot_catalog(run: Run, source: Path, tmp_path: Path) -> None:
    options = "-b boot.img -c boot.cat -no-emul-boot -boot-load-size 4 -eltorito-alt-boot -e efi.img -no-emul-boot"
    image = make(run, tmp_path / "image", f"xorriso -as mkisofs -R {options}", source)
    report = run("xorriso", "-indev", image, "-report_el_torito", "plain")
    lines = [line.split() for line in report.splitlines() if line.startswith("El Torito boot img :")]
    expected = [(words[6], words[7] == "y", int(words[-1]), int(words[11]) * 512) for words in lines]
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert isinstance(filesystem, IsoFileSystem)
        names = {"x86": "BIOS", "UEFI": "UEFI"}
        ours = filesystem.boot_entries
        assert [(names[one.platform], one.bootable, one.lba, one.size) for one in ours] == expected
        assert [one.platform for one in ours] == ["x86", "UEFI"]
        assert [one.emulation for one in ours] == [0, 0]
        for entry, name in zip(ours, ("boot.img", "efi.img"), strict=True):
            content = filesystem.read_bytes(f"/{name}")
            assert bytes(device.read(entry.lba * 2048, 512)) == content[:512]


def test_damaged_boot_catalog(run: Run, source: Path, tmp_path: Path) -> None:
    image = make(run, tmp_path / "image", "genisoimage -quiet -b boot.img -c boot.cat -no-emul-boot", source)
    data = bytearray(image.read_bytes())
    at = data.index(b"EL TORITO SPECIFICATION") - 7
    (block,) = struct.unpack_from("<I", data, at + 0x47)
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert isinstance(filesystem, IsoFileSystem)
        assert len(filesystem.boot_entries) == 1
    for offset, value in ((block * 2048, 2), (block * 2048 + 30, 0), (block * 2048 + 4, 7)):
        kept, data[offset] = data[offset], value
        with FileSystem.detect(MemoryDevice(data)) as filesystem:
            assert isinstance(filesystem, IsoFileSystem)
            with pytest.raises(InvalidFormat, match="validation entry"):
                _ = filesystem.boot_entries
        data[offset] = kept
    for wrong in (0, 1 << 31):
        struct.pack_into("<I", data, at + 0x47, wrong)
        with FileSystem.detect(MemoryDevice(data)) as filesystem:
            assert isinstance(filesystem, IsoFileSystem)
            with pytest.raises(InvalidFormat, match="outside the device"):
                _ = filesystem.boot_entries


def test_hybrid(run: Run, source: Path, tmp_path: Path) -> None:
    """An image with an MBR in front: a partition table, and the filesystem on the whole device."""
    options = "-R -b boot.img -c boot.cat -no-emul-boot -part_like_isohybrid"
    options += " -append_partition 2 0xef " + str(source / "efi.img")
    image = make(run, tmp_path / "image", f"xorriso -as mkisofs -quiet {options}", source)
    _compare(run, image)
    with FileDevice.open(image) as device:
        assert bytes(device.read(510, 2)) == b"\x55\xaa"
        table = PartitionTable.parse(device)
        assert 2 in [partition.number for partition in table.partitions]
        with FileSystem.detect(device) as filesystem:
            assert filesystem.read_bytes("/efi.img") == (source / "efi.img").read_bytes()


def test_multi_session(run: Run, source: Path, tmp_path: Path) -> None:
    """An image that grew: xorriso writes the descriptors of the last session over the first."""
    image = make(run, tmp_path / "image", "xorriso -as mkisofs -quiet -R", source)
    (tmp_path / "added").write_bytes(b"added later")
    run("xorriso", "-dev", image, "-map", tmp_path / "added", "/added", "-commit")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert sorted(filesystem.listdir("/")) == ["added", "boot.img", "efi.img"]
        assert filesystem.read_bytes("/added") == b"added later"


def test_high_sierra_is_refused(run: Run, tmp_path: Path) -> None:
    data = bytearray(64 << 11)
    data[0x8008] = 1
    data[0x8009:0x800E] = b"CDROM"
    data[0x8030:0x8050] = b"OLD_DISC".ljust(32)
    image = tmp_path / "image"
    image.write_bytes(data)
    said = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())
    identity = FileSystem.identify(MemoryDevice(data))
    assert identity is not None
    assert (identity.type, identity.label) == (said["ID_FS_TYPE"], said["ID_FS_LABEL"])
    assert identity.version == said["ID_FS_VERSION"].replace("\\x20", " ")
    with pytest.raises(UnsupportedFeature, match="High Sierra"):
        FileSystem.detect(MemoryDevice(data))


@pytest.mark.parametrize("size", [0, 0x8000, 0x8006, 0x8800 - 1, 0x8800, 0x9000])
def test_cut_off(run: Run, source: Path, tmp_path: Path, size: int) -> None:
    data = make(run, tmp_path / "image", "genisoimage -quiet -R", source).read_bytes()
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(data[:size]))


def test_cut_off_at_the_end(run: Run, source: Path, tmp_path: Path) -> None:
    data = make(run, tmp_path / "image", "genisoimage -quiet -R -no-pad", source).read_bytes()
    with FileSystem.detect(MemoryDevice(data[:-4096])) as filesystem:
        assert filesystem.warnings == [f"the volume has {len(data)} bytes, its device {len(data) - 4096}"]
        with pytest.raises(InvalidFormat, match="of a device of"):
            filesystem.read_bytes("/efi.img")
        assert filesystem.read_bytes("/boot.img") == b"boot" * 512
