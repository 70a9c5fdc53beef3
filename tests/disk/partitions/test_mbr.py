from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from struct import pack, unpack
from typing import Any, Protocol

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.partition import PartitionTable
from guestctl.disk.partitions import mbr

Run = Callable[..., str]
Rows = Callable[..., list[tuple[object, ...]]]


class Disk(Protocol):
    path: Any
    table: PartitionTable

    def detect(self) -> PartitionTable | None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def resize(self, size: int) -> None: ...


# Slot 4 stays empty; the logical partitions are not in the order of the disk.
SCRIPT = """label: dos
label-id: 0x1a2b3c4d
start=2048, size=4096, type=83, bootable
start=6144, size=60000, type=5
start=70000, size=1000, type=7
start=6200, size=1000, type=83
start=20000, size=2000, type=82
start=9000, size=500, type=c, bootable
"""


@pytest.fixture
def partitioned(disk: Disk, run: Run) -> Disk:
    run("sfdisk", "-q", disk.path, input=SCRIPT)
    return disk


def entry(kind: int, start: int, size: int, boot: int = 0) -> bytes:
    return pack("<B3xB3xII", boot, kind, start, size)


def record(*entries: bytes, signature: int = 0) -> bytes:
    return (pack("<440xI2x", signature) + b"".join(entries)).ljust(510, b"\0") + b"\x55\xaa"


def parse(*sectors: tuple[int, bytes], size: int = 4096, sector_size: int = 512) -> PartitionTable:
    """The table of a disk of `size` sectors that holds `sectors` at their LBAs."""
    table = mbr.parse(MemoryDevice(image(*sectors, size=size, sector_size=sector_size)), sector_size)
    assert table is not None
    return table


def image(*sectors: tuple[int, bytes], size: int = 4096, sector_size: int = 512) -> bytearray:
    data = bytearray(size * sector_size)
    for lba, sector in sectors:
        data[lba * sector_size : lba * sector_size + len(sector)] = sector
    return data


def test_primary_and_logical_partitions(partitioned: Disk, partx: Rows, rows: Rows) -> None:
    table = partitioned.table
    assert (table.type, table.sector_size, table.uuid, table.warnings) == ("msdos", 512, "1a2b3c4d", ())
    assert rows(table) == partx(partitioned)
    assert [partition.extended for partition in table.partitions] == [False, True, False, False, False, False]
    assert [partition.number for partition in table.partitions] == [1, 2, 3, 5, 6, 7]
    assert table.partitions[3].type_name == "Linux"


@pytest.mark.parametrize("kind", ["5", "f", "85"])
def test_types_of_containers(disk: Disk, run: Run, partx: Rows, rows: Rows, kind: str) -> None:
    run("sfdisk", "-q", disk.path, input=f"2048,2048,83\n4096,60000,{kind}\n70000,1000,83\n6144,1000,83\n")
    assert rows(disk.table) == partx(disk)
    assert [partition.number for partition in disk.table.partitions] == [1, 2, 3, 5]
    assert disk.table.partitions[1].extended


def test_many_logical_partitions(disk: Disk, run: Run, partx: Rows, rows: Rows) -> None:
    script = "label: dos\n2048,,5\n" + ",512,83\n" * 25
    run("sfdisk", "-q", disk.path, input=script)
    assert rows(disk.table) == partx(disk)
    assert disk.table.partitions[-1].number == 29


def test_sectors_of_4096_bytes(disk: Disk, run: Run, partx: Rows, rows: Rows) -> None:
    run("fdisk", "-b", "4096", disk.path, input="o\nn\np\n1\n\n+8M\nn\ne\n2\n\n\nn\n\n+4M\nn\n\n+8M\nw\n")
    table = disk.table
    assert (table.sector_size, [partition.number for partition in table.partitions]) == (4096, [1, 2, 5, 6])
    assert rows(table) == partx(disk, 4096)
    assert table.partitions[0].start == 256 * 4096


def test_sectors_of_4096_bytes_are_told_by_what_a_partition_holds(disk: Disk, run: Run) -> None:
    run("fdisk", "-b", "4096", disk.path, input="o\nn\np\n1\n\n+8M\nw\n")
    assert disk.table.sector_size == 512  # nothing says otherwise
    run("mke2fs", "-q", "-E", "offset=1048576", disk.path, "8M")
    assert disk.table.sector_size == 4096
    disk.write(256 * 512 + 510, b"\x55\xaa")
    assert disk.table.sector_size == 512


def test_device_with_sectors_of_4096_bytes_is_believed() -> None:
    data = image((0, record(entry(0x83, 16, 16))), size=64, sector_size=4096)
    table = PartitionTable.parse(MemoryDevice(data, sector_size=4096))
    assert (table.sector_size, table.partitions[0].start) == (4096, 65536)


def test_unused_space_of_4096_byte_sectors_is_no_evidence(disk: Disk, run: Run) -> None:
    run("sfdisk", "-q", disk.path, input="2048,2048,83\n16384,2048,83\n")
    run("mke2fs", "-q", "-E", f"offset={16384 * 512}", disk.path, "1M")
    assert disk.table.sector_size == 512


# What is a table and what is not: (bytes to write, whether blkid and we see one)
SIGNED = (510, b"\x55\xaa")
ONE = (446, entry(0x83, 2048, 4096))


@pytest.mark.parametrize(
    ("patches", "is_table"),
    [
        pytest.param([], False, id="nothing"),
        pytest.param([ONE], False, id="no magic"),
        pytest.param([SIGNED], True, id="empty, all zeros"),
        pytest.param([SIGNED, (440, b"\1\2\3\4")], True, id="empty, disk signature"),
        pytest.param([SIGNED, (440, b"\1\2\3\4"), (0, b"\x33\xc0")], True, id="empty, boot code, disk signature"),
        pytest.param([SIGNED, ONE, (0, b"\x33\xc0")], True, id="boot code"),
        pytest.param([SIGNED, ONE, (462, b"\x80")], True, id="active unused entry"),
        pytest.param([SIGNED, ONE, (462, b"\x01")], False, id="boot indicator 0x01"),
        pytest.param([SIGNED, ONE, (494, b"\x7f")], False, id="boot indicator 0x7f in the last entry"),
        pytest.param([SIGNED, ONE, (0, b"\xc9\xc2\xd4\xc1")], False, id="AIX"),
        pytest.param([SIGNED, (446, entry(0, 2048, 4096))], True, id="type 0x00 with a size"),
    ],
)
def test_what_is_a_table(
    disk: Disk, blkid: Callable[[Disk], dict[str, str]], patches: list[tuple[int, bytes]], is_table: bool
) -> None:
    for offset, data in patches:
        disk.write(offset, data)
    assert (blkid(disk).get("PTTYPE") == "dos") == is_table
    assert (disk.detect() is not None) == is_table


def test_numbers_of_a_table_with_odd_entries(disk: Disk, partx: Rows, rows: Rows) -> None:
    entries = (entry(0x83, 0, 0), entry(0, 2048, 64), entry(0x83, 4096, 64), entry(0x83, 2048, 8192))
    disk.write(0, record(*entries))
    assert rows(disk.table) == partx(disk)
    assert [partition.number for partition in disk.table.partitions] == [2, 3, 4]
    assert disk.table.partitions[0].uuid is None


@pytest.mark.parametrize(("bits", "cluster_sectors"), [("12", "64"), ("16", "4"), ("32", "1")])
def test_fat_is_no_table(
    disk: Disk, run: Run, blkid: Callable[[Disk], dict[str, str]], bits: str, cluster_sectors: str
) -> None:
    run("mkfs.vfat", "-F", bits, "-s", cluster_sectors, disk.path)
    assert "PTTYPE" not in blkid(disk)
    assert disk.detect() is None
    disk.write(440, bytes(70))  # and not for its boot code alone
    assert "PTTYPE" not in blkid(disk)
    assert disk.detect() is None


def test_fat_that_pretends_to_be_partitioned(disk: Disk, run: Run, blkid: Callable[[Disk], dict[str, str]]) -> None:
    run("mkfs.vfat", "--mbr=y", disk.path)
    assert any(disk.read(446, 64))
    assert "PTTYPE" not in blkid(disk)
    assert disk.detect() is None


@pytest.mark.parametrize("name", ["ntfs", "exfat", "bitlocker-win7", "hpfs", "befs"])
def test_boot_sectors_of_filesystems_are_no_tables(shared: Any, run: Run, disk: Disk, name: str) -> None:
    packed = shared / "blkid" / "images-fs" / f"{name}.img.xz"
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", packed, disk.path)
    assert disk.read(510, 2) == b"\x55\xaa"
    assert disk.detect() is None


def test_empty_table_before_a_filesystem_or_volume_is_none(disk: Disk, run: Run, shared: Any) -> None:
    run("mke2fs", "-q", disk.path)
    disk.write(*SIGNED)
    assert disk.detect() is None
    disk.write(*ONE)
    assert len(disk.table.partitions) == 1
    disk.write(446, bytes(64))
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", shared / "blkid" / "images-fs" / "lvm2.img.xz", disk.path)
    disk.write(*SIGNED)
    assert disk.detect() is None


@pytest.mark.parametrize("name", ["atari-xgm", "bsd", "dasd-ldl"])
def test_other_schemes_are_none(shared: Any, name: str) -> None:
    packed = shared / "blkid" / "images-pt" / f"{name}.img.xz"
    device = MemoryDevice(lzma.decompress(packed.read_bytes()))
    assert mbr.parse(device, 512) is None and mbr.parse(device, 4096) is None


@pytest.mark.parametrize("label", ["amiga", "bsd", "dvh", "mac", "sun", "loop", "atari"])
def test_other_schemes_made_by_parted_are_none(
    disk: Disk, run: Run, blkid: Callable[[Disk], dict[str, str]], label: str
) -> None:
    run("parted", "-s", disk.path, "mklabel", label)
    assert blkid(disk).get("PTTYPE") not in ("dos", "gpt")
    with FileDevice.open(disk.path) as device:
        assert mbr.parse(device, 512) is None and mbr.parse(device, 4096) is None


def test_protective_table_without_its_gpt_is_none(disk: Disk, run: Run, blkid: Callable[[Disk], Any]) -> None:
    run("sfdisk", "-q", disk.path, input="label: dos\n2048,2048,ee\n")
    assert blkid(disk)["PTTYPE"] == "PMBR"
    assert disk.detect() is None


def test_partition_past_the_end_is_kept_and_clipped(partitioned: Disk) -> None:
    size = 70500 * 512
    partitioned.resize(size)
    table = partitioned.table
    assert table.warnings == ("partition 3 ends in LBA 70999, the disk in LBA 70499",)
    assert table.partitions[2].size == 1000 * 512
    assert table.partitions[2].device(MemoryDevice(bytes(size))).size == 500 * 512


def test_third_and_fourth_logical_entries_count_inside_their_record(disk: Disk, partx: Rows, rows: Rows) -> None:
    disk.write(0, record(entry(0x05, 2048, 8192)))
    entries = (entry(0x83, 64, 100), entry(0x05, 4096, 2048), entry(0x83, 200, 100), entry(0x83, 8000, 200))
    disk.write(2048 * 512, record(*entries))
    # The second record is 2048 sectors long.
    disk.write(6144 * 512, record(entry(0x83, 64, 100), entry(0, 0, 0), entry(0x83, 1000, 1048), entry(7, 2000, 49)))
    assert rows(disk.table) == partx(disk)
    assert [partition.start_lba for partition in disk.table.partitions] == [2048, 2112, 2248, 6208, 7144]


def test_two_containers(disk: Disk, partx: Rows, rows: Rows) -> None:
    disk.write(0, record(entry(0x05, 2048, 2048), entry(0x83, 30000, 10), entry(0x0F, 8192, 4096)))
    disk.write(2048 * 512, record(entry(0x83, 64, 100)))
    disk.write(8192 * 512, record(entry(0x82, 64, 100)))
    assert rows(disk.table) == partx(disk)
    assert [partition.number for partition in disk.table.partitions] == [1, 2, 3, 5, 6]


def test_container_without_records() -> None:
    table = parse((0, record(entry(0x05, 1, 100))))
    assert [partition.number for partition in table.partitions] == [1]
    assert table.warnings == ()


def test_chain_that_loops() -> None:
    sectors = [
        (0, record(entry(0x05, 100, 3000))),
        (100, record(entry(0x83, 1, 10), entry(0x05, 200, 50))),
        (300, record(entry(0x83, 1, 10), entry(0x05, 0, 50))),
    ]
    # A link to LBA 0 of the container leads back to its first record.
    table = parse(*sectors)
    assert [partition.start_lba for partition in table.partitions] == [100, 101, 301]
    assert table.warnings == ("the chain of extended boot records loops to LBA 100",)


def test_chain_that_breaks_off() -> None:
    table = parse((0, record(entry(0x05, 100, 3000))), (100, record(entry(0x83, 1, 10), entry(0x05, 200, 50))))
    assert [partition.number for partition in table.partitions] == [1, 5]
    assert table.warnings == ("no extended boot record in LBA 300, where one is expected",)


def test_chain_that_leaves_the_disk() -> None:
    table = parse((0, record(entry(0x05, 100, 3000))), (100, record(entry(0x83, 1, 10), entry(0x05, 1 << 31, 50))))
    assert [partition.number for partition in table.partitions] == [1, 5]
    assert table.warnings == (f"an extended boot record in LBA {(1 << 31) + 100} lies past the end of the disk",)


@pytest.mark.parametrize("first_kind", [0x83, 0])
def test_chain_without_end(first_kind: int) -> None:
    data = entry(first_kind, 1, 1 if first_kind else 0)
    chain = [(lba, record(data, entry(0x05, lba, 1))) for lba in range(1, 3000)]
    table = parse((0, record(entry(0x05, 1, 4000))), *chain)
    assert len(table.partitions) == (1 + 251 if first_kind else 1)
    assert len(table.warnings) == 1


def test_small_devices() -> None:
    for size in (0, 1, 511):
        assert PartitionTable.detect(MemoryDevice(bytes(size))) is None
    assert parse((0, record(entry(0x83, 1, 1))), size=1).warnings != ()


@pytest.mark.parametrize("seed", range(4))
def test_any_byte_may_be_wrong(partitioned: Disk, seed: int) -> None:
    """One or a few bytes of the table and its records changed: a table, none, or a typed error."""
    good = bytearray(partitioned.read(0, 40000 * 512))
    offsets = [lba * 512 + 446 + index for lba in (0, 6144, 19999, 8999) for index in range(66)]
    for lba in (0, 6144):
        assert unpack("<H", good[lba * 512 + 510 : lba * 512 + 512]) == (0xAA55,)
    chance = random.Random(seed)
    for _ in range(1000):
        changed = chance.sample(offsets, chance.choice((1, 2, 8)))
        saved = [(offset, good[offset]) for offset in changed]
        for offset in changed:
            good[offset] = chance.choice((0, 1, 5, 0x80, 0xFF, chance.randrange(256)))
        try:
            table = PartitionTable.detect(MemoryDevice(good))
        except GuestctlError:
            continue
        finally:
            for offset, byte in saved:
                good[offset] = byte
        assert table is None or len(table.partitions) < 256
