"""FAT volumes compared with what mtools, fsck.fat and qemu make of them."""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import FileDevice
from guestctl.disk.filesystem import FileSystem, Options
from guestctl.disk.partition import PartitionTable

Run = Callable[..., str]

VOLUMES = [
    pytest.param(("-F", "12", "-s", "4"), 4096, id="FAT12"),
    pytest.param(("-F", "12", "-s", "1", "-S", "4096"), 8192, id="FAT12, 4096-byte sectors"),
    pytest.param(("-F", "16", "-s", "4", "-f", "1"), 20480, id="FAT16, one table"),
    pytest.param(("-F", "16", "-s", "1", "-S", "1024"), 20480, id="FAT16, 1024-byte sectors"),
    pytest.param(("-F", "32", "-s", "1"), 40960, id="FAT32"),
    pytest.param(("-F", "32", "-s", "8", "-R", "64", "-f", "3"), 300_000, id="FAT32, three tables"),
    pytest.param(("-F", "32", "-s", "2", "-S", "2048"), 300_000, id="FAT32, 2048-byte sectors"),
]


def contents(top: Path) -> dict[str, tuple[int, str, int]]:
    """For each file and directory below `top`: its type, the hash of its bytes, and its time in steps of 2 s."""
    found = {}
    for path in top.rglob("*"):
        status = path.stat()
        data = path.read_bytes() if path.is_file() else b""
        steps = int(status.st_mtime) // 2 if path.is_file() else 0
        found["/" + str(path.relative_to(top))] = (stat.S_IFMT(status.st_mode), hashlib.sha256(data).hexdigest(), steps)
    return found


def contents_of(filesystem: FileSystem[Any]) -> dict[str, tuple[int, str, int]]:
    found = {}
    for path, node, status in filesystem.find("/"):
        if path != "/":
            data, steps = b"", 0
            if status.is_file():
                device = filesystem.node_data(node)
                data, steps = bytes(device.read(0, device.size)), status.st_mtime_ns // 2_000_000_000
            found[path] = (stat.S_IFMT(status.st_mode), hashlib.sha256(data).hexdigest(), steps)
    return found


@pytest.mark.parametrize(("options", "kilobytes"), VOLUMES)
def test_tree_as_mtools_copies_it_out(
    make_volume: Any, tree: Path, tmp_path: Path, options: tuple[str, ...], kilobytes: int
) -> None:
    volume = make_volume(*options, kilobytes=kilobytes)
    volume.put(*sorted(tree.iterdir()))
    out = tmp_path / "out"
    out.mkdir()
    volume.mtool("mcopy", "-s", "-m", "-n", "::/", out)
    with volume.open() as filesystem:
        assert filesystem.version == f"FAT{options[1]}"
        assert contents_of(filesystem) == contents(out) == contents(tree)
        assert {path for path, _, _ in filesystem.find("/")} - {"/"} == volume.listed()
        assert filesystem.warnings == []
        ino = [status.st_ino for _, _, status in filesystem.find("/")]
        assert len(ino) == len(set(ino))


# fsck.fat knows of no more than two tables
@pytest.mark.parametrize(("options", "kilobytes"), [volume for volume in VOLUMES if volume.id != "FAT32, three tables"])
def test_usage_as_fsck_counts_it(
    make_volume: Any, run: Run, tree: Path, options: tuple[str, ...], kilobytes: int
) -> None:
    volume = make_volume(*options, kilobytes=kilobytes)
    volume.put(tree / "many", tree / "large")
    summary = run("fsck.fat", "-n", volume.path).splitlines()[-1]
    used, total = map(int, re.search(r"(\d+)/(\d+) clusters", summary).groups())  # type: ignore[union-attr]
    with volume.open() as filesystem:
        cluster = filesystem.block_size
        expected = (total * cluster, used * cluster, (total - used) * cluster)
        assert filesystem.usage()[:3] == expected
    if options[1] == "32":  # and without the hint
        volume.write(volume.geometry[0] + 488, b"\xff\xff\xff\xff")
        with volume.open() as filesystem:
            assert filesystem.usage()[:3] == expected


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((488, struct.pack("<I", 90000)), id="more than the volume has"),
        pytest.param((0, b"RRdA"), id="FSI_LeadSig"),
        pytest.param((484, b"rraa"), id="FSI_StrucSig"),
    ],
)
def test_free_count_that_cannot_be_believed(make_volume: Any, change: tuple[int, bytes]) -> None:
    volume = make_volume("-F", "32", "-s", "1", kilobytes=40960)
    with volume.open() as filesystem:
        expected = filesystem.usage()
    volume.write(512 + 488, b"\1\0\0\0")
    with volume.open() as filesystem:
        assert filesystem.usage().available == 512
    volume.write(512 + change[0], change[1])
    with volume.open() as filesystem:
        assert filesystem.usage() == expected


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_fragmented_files(make_volume: Any, tmp_path: Path, bits: str) -> None:
    volume = make_volume("-F", bits, "-s", "1", kilobytes=40960 if bits == "32" else 2046 if bits == "12" else 8192)
    parts = [tmp_path / f"part{index}" for index in range(30)]
    for index, part in enumerate(parts):
        part.write_bytes(os.urandom(700 * (index % 5 + 1)))
    volume.put(*parts)
    volume.mtool("mdel", *(f"::/{part.name}" for part in parts[::2]))
    if bits == "32":
        volume.write(512 + 492, b"\2\0\0\0")  # FSI_Nxt_Free: where to look for free clusters
    large = tmp_path / "large"
    large.write_bytes(os.urandom(100_001))
    volume.put(large)
    told = volume.mtool("mshowfat", "::/large")
    runs = [(int(first), int(last or first)) for first, last in re.findall(r"<(\d+)(?:-(\d+))?>", told)]
    assert len(runs) > 10
    data_offset = volume.root_offset + (
        0 if bits == "32" else volume.read(17, 2)[0] * 32 + volume.read(18, 1)[0] * 8192
    )
    with volume.open() as filesystem:
        device = filesystem.node_data(filesystem.resolve("/large"))
        data = large.read_bytes()
        assert device.read(0, device.size) == data
        chance = random.Random(bits)
        starts = [chance.randrange(len(data)) for _ in range(200)]
        ranges = [(start, chance.randrange(len(data) - start + 1)) for start in starts]
        for offset, length in ((0, 1), (511, 2), (1023, 5000), (99_999, 2), (50_000, 50_001), *ranges):
            assert device.read(offset, length) == data[offset : offset + length]
        found = [
            (
                (run.source_offset - data_offset) // 512 + 2,
                (run.source_offset + run.length - 1 - data_offset) // 512 + 2,
            )
            for run in device.runs(0, device.size)
        ]
        assert found == runs
        for part in parts[1::2]:
            assert filesystem.read_bytes(f"/{part.name}") == part.read_bytes()
        assert not filesystem.exists("/part0")


def test_emoji_and_times_as_qemu_writes_them(tmp_path: Path, run: Run) -> None:
    """A directory that qemu shows as a disk: characters past U+FFFF, and all three times."""
    top = tmp_path / "top"
    (top / "😀 directory").mkdir(parents=True)
    (top / "😀 directory" / "grin 😀😁 𐍈.txt").write_text("😀")
    (top / "Longer Name Of 文件.txt").write_text("text")
    for path in sorted(top.rglob("*")):
        os.utime(path, (1_612_325_107, 946_684_799))  # 2021-02-03 04:05:07, 1999-12-31 23:59:59
    image = tmp_path / "disk.img"
    run("env", "TZ=UTC", "qemu-img", "convert", "-O", "raw", f"fat:16:{top}", image)
    with FileDevice.open(image) as disk:
        (partition,) = PartitionTable.parse(disk).partitions
        filesystem = FileSystem.detect(disk, partition)
        assert (filesystem.type, filesystem.version, filesystem.label) == ("vfat", "FAT16", "QEMU VVFAT")
        paths = {"/" + str(path.relative_to(top)): path for path in top.rglob("*")}
        assert {path for path, _, _ in filesystem.find("/")} == {"/", *paths}
        for name, source in paths.items():
            status = filesystem.stat(name)
            assert status.st_mtime_ns == status.st_ctime_ns == 946_684_798_000_000_000
            assert status.st_atime_ns == 1_612_310_400_000_000_000  # the day alone
            created = int(source.stat().st_ctime) // 2 * 2 * 1_000_000_000
            assert status.st_birthtime_ns == created
            if source.is_file():
                assert filesystem.read_bytes(name) == source.read_bytes()


def test_modes_and_links(make_volume: Any, tmp_path: Path) -> None:
    volume = make_volume("-F", "32", "-s", "1", kilobytes=40960)
    (tmp_path / "file").write_bytes(bytes(1300))
    volume.put(tmp_path / "file")
    volume.mtool("mmd", "::/dir", "::/dir/a", "::/dir/b")
    with volume.open() as filesystem:
        assert filesystem.stat("/file").st_mode == stat.S_IFREG | 0o755
    volume.mtool("mattrib", "+r", "+h", "+s", "::/file", "::/dir")
    with volume.open() as filesystem:
        file, directory, root = (filesystem.stat(path) for path in ("/file", "/dir", "/"))
        assert (file.st_mode, file.st_nlink, file.st_size, file.st_blocks) == (stat.S_IFREG | 0o555, 1, 1300, 3)
        assert (file.st_uid, file.st_gid, file.st_rdev) == (0, 0, 0)
        assert (directory.st_mode, directory.st_nlink, directory.st_size) == (stat.S_IFDIR | 0o755, 4, 512)
        assert (root.st_mode, root.st_nlink, root.st_size, root.st_ino) == (stat.S_IFDIR | 0o755, 3, 512, 1)
        assert (root.st_mtime_ns, root.st_birthtime_ns) == (0, None)


def test_lookup_in_any_case(make_volume: Any, tmp_path: Path) -> None:
    volume = make_volume("-F", "16", "-s", "1", kilobytes=8192)
    for name in ("Program Files.txt", "README", "Straße Ärger.txt", "ΣΊΣΥΦΟΣ σίσυφος"):
        (tmp_path / name).write_text(name)
        volume.put(tmp_path / name)
    with volume.open() as filesystem:
        for path, name in (
            ("/program FILES.TXT", "Program Files.txt"),
            ("/PROGRA~1.TXT", "Program Files.txt"),  # as `mdir` shows it
            ("/progra~1.txt", "Program Files.txt"),
            ("/readme", "README"),
            ("/STRAßE äRGER.TXT", "Straße Ärger.txt"),
            ("/σίσυφος ΣΊΣΥΦΟΣ", "ΣΊΣΥΦΟΣ σίσυφος"),
        ):
            assert filesystem.read_bytes(path).decode() == name
        for path in ("/STRASSE ÄRGER.TXT", "/PROGRA~2.TXT", "/READM", "/README.", "/README/x"):
            assert not filesystem.exists(path)
        with pytest.raises(NotADirectoryError):
            filesystem.stat("/README/x")
    assert "PROGRA~1 TXT" in volume.mtool("mdir")


def test_deleted_files_are_gone(make_volume: Any, tree: Path) -> None:
    volume = make_volume("-F", "12", kilobytes=1440)
    volume.put(*(tree / name for name in ("lower.txt", "x" * 255, "Mixed.Case", "UPPER.TXT")))
    volume.mtool("mdel", "::/" + "x" * 255, "::/lower.txt")
    with volume.open() as filesystem:
        assert sorted(filesystem.listdir()) == ["Mixed.Case", "UPPER.TXT"]


def test_code_pages(make_volume: Any, tmp_path: Path) -> None:
    """A short name in code page 866, which is not the default."""
    volume = make_volume("-F", "12")
    config, file = tmp_path / "mtoolsrc", tmp_path / "ПРИВЕТ.TXT"
    config.write_text("default_codepage=866\n")
    file.write_text("text")
    volume._run("env", "LC_ALL=C.UTF-8", f"MTOOLSRC={config}", "mcopy", "-i", volume.path, file, "::/")
    raw = "ПРИВЕТ  TXT".encode("cp866")
    offset = volume.entry_offset(raw)
    assert offset == volume.root_offset  # no long name before it
    names = {"cp866": "ПРИВЕТ.TXT", "cp437": raw[:6].decode("cp437") + ".TXT"}
    names["ascii"] = "\udc8f\udc90\udc88\udc82\udc85\udc92.TXT"  # the bytes as they are
    for codepage, name in names.items():
        with volume.open(Options(codepage=codepage)) as filesystem:
            assert filesystem.listdir() == [name]
            assert filesystem.read_bytes("/" + name) == b"text"
    volume.write(offset, b"\x05")  # stands for 0xE5
    with volume.open(Options(codepage="cp866")) as filesystem:
        assert filesystem.listdir() == ["хРИВЕТ.TXT"]


def test_thousands_of_entries(make_volume: Any, tmp_path: Path, run: Run) -> None:
    """10,000 files with long names in one directory; mtools would take minutes to make it, and lists it at once."""
    content = short_entry(b".          ", 0x10) + short_entry(b"..         ", 0x10)
    for index in range(10_000):
        raw = b"F%07dTXT" % index
        content += long_entries(f"file number {index} of many.txt", raw) + short_entry(raw)
    (tmp_path / "many").write_bytes(content)
    volume = make_volume("-F", "32", "-s", "1", kilobytes=40960)
    volume.put(tmp_path / "many")
    offset = volume.entry_offset(b"MANY       ")
    volume.write(offset + 11, b"\x10")  # a directory from here on
    volume.write(offset + 28, bytes(4))
    with volume.open() as filesystem:
        names = filesystem.listdir("/many")
        assert len(names) == 10_000
        assert {f"/many/{name}" for name in names} | {"/many"} == volume.listed()
        assert filesystem.stat("/many").st_size == -(-len(content) // 512) * 512
        assert filesystem.exists("/MANY/F0009999.TXT") is False
        assert filesystem.exists("/many/FILE number 9999 of many.TXT")


def short_entry(raw: bytes, attributes: int = 0x20, cluster: int = 0, size: int = 0) -> bytes:
    day = 0x5A21
    return struct.pack(
        "<11sBBBHHHHHHHI", raw, attributes, 0, 0, 0, day, day, cluster >> 16, 0x6000, day, cluster & 0xFFFF, size
    )


def long_entries(name: str, raw: bytes) -> bytes:
    """The entries of a long name, in their order on the disk."""
    total = 0
    for byte in raw:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    units = name.encode("utf-16-le", "surrogatepass")
    count = -(-len(units) // 26)
    if len(units) < count * 26:
        units = (units + b"\0\0").ljust(count * 26, b"\xff")
    entries = []
    for number in range(count, 0, -1):
        part = units[26 * number - 26 : 26 * number]
        order = number | (0x40 if number == count else 0)
        entries.append(struct.pack("<B10sBBB12sH4s", order, part[:10], 0x0F, 0, total, part[10:22], 0, part[22:]))
    return b"".join(entries)
