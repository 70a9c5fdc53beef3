from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from struct import pack, pack_into
from typing import Any, Protocol

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.partition import PartitionTable
from guestctl.disk.partitions import gpt

Run = Callable[..., str]
Rows = Callable[..., list[tuple[object, ...]]]


class Disk(Protocol):
    path: Path
    table: PartitionTable

    def detect(self) -> PartitionTable | None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def flip(self, offset: int) -> None: ...
    def resize(self, size: int) -> None: ...


DISK_BYTES = 64 << 20
BACKUP_LBA = DISK_BYTES // 512 - 1
SCRIPT = """label: gpt
label-id: DD27F98D-7519-4C9E-8041-F2BFA7B1EF61
start=2048, size=4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI"
start=8192, size=2048, type=21686148-6449-6E6F-744E-656564454649, attrs="RequiredPartition,LegacyBIOSBootable,GUID:60"
start=6144, size=2048, name="héllo wörld — Привет 😀 日本"
"""


@pytest.fixture
def partitioned(disk: Disk, run: Run) -> Disk:
    run("sfdisk", "-q", disk.path, input=SCRIPT)
    return disk


def made(
    entries: bytes,
    *,
    entry_size: int = 128,
    entry_count: int | None = None,
    sector_size: int = 512,
    sectors: int = 256,
    **fields: int,
) -> bytearray:
    """A disk with a protective MBR and a primary GPT, from the specification; `fields` go into its header."""
    disk = bytearray(sectors * sector_size)
    disk[446:462] = pack("<B3xB3xII", 0, 0xEE, 1, sectors - 1)
    disk[510:512] = b"\x55\xaa"
    disk[2 * sector_size : 2 * sector_size + len(entries)] = entries
    header = bytearray(sector_size)
    pack_into(
        "<8sIIIIQQQQ16sQIII",
        header,
        0,
        b"EFI PART",
        fields.get("revision", 0x00010000),
        fields.get("header_size", 92),
        0,
        0,
        fields.get("my_lba", 1),
        fields.get("alternate_lba", sectors - 1),
        34,
        sectors - 34,
        bytes(range(16)),
        fields.get("entries_lba", 2),
        len(entries) // entry_size if entry_count is None else entry_count,
        entry_size,
        fields.get("entries_crc", zlib.crc32(entries)),
    )
    pack_into("<I", header, 16, zlib.crc32(header[: min(fields.get("header_size", 92), sector_size)]))
    disk[sector_size : 2 * sector_size] = header
    return disk


def entry(start: int, end: int, *, number: int = 1, name: bytes = b"", size: int = 128) -> bytes:
    return pack("<16s16sQQQ72s", b"\xaa" * 16, bytes([number]) * 16, start, end, 0, name).ljust(size, b"\0")


def parse(disk: bytearray, sector_size: int = 512) -> PartitionTable:
    table = gpt.parse(MemoryDevice(disk), sector_size)
    assert table is not None
    return table


def test_as_libblkid_reads_it(
    partitioned: Disk, partx: Rows, rows: Rows, blkid: Callable[[Disk], dict[str, str]]
) -> None:
    table = partitioned.table
    assert (table.type, table.sector_size, table.warnings) == ("gpt", 512, ())
    assert rows(table) == partx(partitioned)
    assert blkid(partitioned) == {"PTTYPE": "gpt", "PTUUID": table.uuid}


def test_as_sfdisk_reads_it(partitioned: Disk, sfdisk: Callable[[Disk], dict[str, Any]]) -> None:
    table, told = partitioned.table, sfdisk(partitioned)
    assert table.uuid == told["id"].lower()
    for partition, row in zip(table.partitions, told["partitions"], strict=True):
        assert f"disk.img{partition.number}" == Path(row["node"]).name
        assert (partition.start_lba, partition.size_sectors) == (row["start"], row["size"])
        assert (partition.type, partition.uuid) == (row["type"].lower(), row["uuid"].lower())
        assert partition.name == row.get("name")
        words = row.get("attrs", "").split()
        assert partition.bootable == ("LegacyBIOSBootable" in words)
        assert bool(partition.attributes & gpt.REQUIRED_PARTITION) == ("RequiredPartition" in words)
        assert bool(partition.attributes >> 60 & 1) == ("GUID:60" in words)


def test_as_sgdisk_reads_it(disk: Disk, run: Run) -> None:
    """sgdisk's own table, with numbers that leave gaps."""
    run("sgdisk", "-n", "3:2048:+4M", "-n", "7:0:+4M", "-c", "3:three", "-A", "7:set:2", "-t", "7:8e00", disk.path)
    assert [partition.number for partition in disk.table.partitions] == [3, 7]
    for partition in disk.table.partitions:
        told = dict(
            line.split(": ", 1) for line in run("sgdisk", "-i", str(partition.number), disk.path).splitlines() if line
        )
        assert partition.type == told["Partition GUID code"].split()[0].lower()
        assert partition.uuid == told["Partition unique GUID"].lower()
        assert partition.start_lba == int(told["First sector"].split()[0])
        assert partition.size_sectors == int(told["Partition size"].split()[0])
        assert partition.attributes == int(told["Attribute flags"], 16)
        assert repr(partition.name or "") == told["Partition name"]


def test_image_of_others(shared: Path, run: Run, disk: Disk) -> None:
    folder = shared / "blkid" / "images-pt"
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", folder / "gpt.img.xz", disk.path)
    table = disk.table
    first, _, *expected = (folder / "gpt.expected").read_text().splitlines()
    assert first.endswith(f"PT: gpt, offset: 512, id={table.uuid}")
    assert expected == [
        f"#{partition.number}: {partition.start_lba:>10} {partition.size_sectors:>10}  0x0"
        f" name='{partition.name}' uuid='{partition.uuid}' type='{partition.type}'"
        for partition in table.partitions
    ]


def test_sectors_of_4096_bytes(disk: Disk, run: Run, partx: Rows, rows: Rows) -> None:
    run("fdisk", "-b", "4096", disk.path, input="g\nn\n1\n\n+8M\nn\n5\n\n+8M\nw\n")
    table = disk.table
    assert (table.sector_size, table.warnings) == (4096, ())
    assert rows(table) == partx(disk, 4096)
    assert len(table.partitions) == 2
    disk.flip(4096 + 16)
    assert rows(disk.table) == partx(disk, 4096)
    assert disk.table.warnings[0].startswith("the backup GPT in LBA 16383 is used: GPT header at offset 0x1000")


@pytest.mark.parametrize("table_length", [1, 64, 128, 1024])
def test_numbers_of_entries(disk: Disk, run: Run, partx: Rows, rows: Rows, table_length: int) -> None:
    run("sfdisk", "-q", disk.path, input=f"label: gpt\ntable-length: {table_length}\n4096,2048\n")
    assert rows(disk.table) == partx(disk)


def test_numbers_of_entries_not_a_power_of_two(disk: Disk, run: Run, partx: Rows, rows: Rows) -> None:
    run("sgdisk", "-S", "56", "-n", "56:4096:+1M", disk.path)
    assert rows(disk.table) == partx(disk)
    assert disk.table.partitions[0].number == 56


@pytest.mark.parametrize("offset", [512 + 16, 512 + 40, 1024, 1024 + 56], ids=["crc", "usable", "type", "name"])
def test_backup_is_used_where_the_primary_is_damaged(partitioned: Disk, partx: Rows, rows: Rows, offset: int) -> None:
    partitioned.flip(offset)
    table = partitioned.table
    assert rows(table) == partx(partitioned)
    assert len(table.partitions) == 3
    (warning,) = table.warnings
    assert warning.startswith(f"the backup GPT in LBA {BACKUP_LBA} is used: GPT ")
    assert "checksum" in warning


def test_backup_is_used_where_the_primary_is_gone(partitioned: Disk, partx: Rows, rows: Rows) -> None:
    partitioned.write(512, bytes(33 * 512))
    assert rows(partitioned.table) == partx(partitioned)
    assert partitioned.table.warnings == (
        f"the backup GPT in LBA {BACKUP_LBA} is used: no signature in LBA 1 at offset 0x200",
    )


def test_backup_of_a_disk_that_grew(partitioned: Disk) -> None:
    """The primary's entries are damaged; its header still tells where the backup is."""
    good = partitioned.table.partitions
    partitioned.resize(80 << 20)
    assert (partitioned.table.partitions, partitioned.table.warnings) == (good, ())
    partitioned.flip(1024)
    assert partitioned.table.partitions == good
    assert partitioned.table.warnings[0].startswith(f"the backup GPT in LBA {BACKUP_LBA} is used")


def test_both_copies_damaged(partitioned: Disk, blkid: Callable[[Disk], dict[str, str]]) -> None:
    partitioned.flip(512 + 56)
    partitioned.flip(BACKUP_LBA * 512 + 56)
    assert blkid(partitioned)["PTTYPE"] == "PMBR"
    with pytest.raises(ChecksumMismatch) as raised:
        partitioned.detect()
    assert (raised.value.structure, raised.value.offset) == ("GPT header", 512)


def test_both_copies_gone(partitioned: Disk, blkid: Callable[[Disk], dict[str, str]]) -> None:
    partitioned.write(512, b"\0")
    partitioned.write(BACKUP_LBA * 512, b"\0")
    assert blkid(partitioned)["PTTYPE"] == "PMBR"
    assert partitioned.detect() is None


def test_gpt_counts_where_the_mbr_says_so(partitioned: Disk, blkid: Callable[[Disk], dict[str, str]]) -> None:
    partitioned.write(510, b"\0\0")
    assert blkid(partitioned) == {}
    assert partitioned.detect() is None
    partitioned.write(510, b"\x55\xaa")
    partitioned.write(450, b"\x83")
    assert blkid(partitioned)["PTTYPE"] == "dos"
    assert partitioned.table.type == "msdos"


def test_hybrid_mbr(partitioned: Disk, run: Run, partx: Rows, rows: Rows) -> None:
    run("sgdisk", "--hybrid", "1:3", partitioned.path)
    assert rows(partitioned.table) == partx(partitioned)
    assert partitioned.table.type == "gpt"
    assert partitioned.table.warnings == ("hybrid MBR: its own partitions are ignored, the GPT is used",)


def test_disk_cut_short(partitioned: Disk) -> None:
    partitioned.resize(9000 * 512)
    table = partitioned.table
    assert [partition.number for partition in table.partitions] == [1, 2, 3]
    assert table.warnings == (
        f"the disk ends before its backup GPT in LBA {BACKUP_LBA}",
        "partition 2 ends in LBA 10239, the disk in LBA 8999",
    )
    assert table.partitions[1].device(MemoryDevice(bytes(9000 * 512))).size == (9000 - 8192) * 512


def test_overlaps_and_backward_partitions() -> None:
    entries = entry(40, 99) + entry(50, 60, number=2) + entry(61, 120, number=3) + entry(130, 128, number=4)
    table = parse(made(entries + entry(121, 121, number=5)))
    assert table.warnings == (
        "partitions 1 and 2 overlap",
        "partitions 1 and 3 overlap",
        "partition 4 ends before it begins",
    )
    assert [partition.size_sectors for partition in table.partitions] == [60, 11, 60, 0, 1]


def test_number_of_warnings_is_bounded() -> None:
    table = parse(made(b"".join(entry(40, 1 << 63) for _ in range(500))))
    assert len(table.partitions) == 500
    assert len(table.warnings) == 21
    assert table.warnings[-1] == "and 979 more such partitions"


@pytest.mark.parametrize("size", [128, 256, 1024])
def test_sizes_of_entries(size: int) -> None:
    table = parse(made(bytes(size) + entry(40, 49, size=size) + bytes(2 * size), entry_size=size))
    assert [(partition.number, partition.start_lba, partition.size_sectors) for partition in table.partitions] == [
        (2, 40, 10)
    ]


@pytest.mark.parametrize(
    ("units", "name"),
    [
        ("abc\0def".encode("utf-16-le"), "abc"),
        (("x" * 36).encode("utf-16-le"), "x" * 36),
        ("😀".encode("utf-16-le"), "😀"),
        (b"a\0\x3d\xd8b\0", "a\udced\udca0\udcbdb"),  # half a pair: the bytes of U+D83D
        (b"\0\xdc", "\udced\udcb0\udc80"),
        (b"", None),
    ],
)
def test_names(units: bytes, name: str | None) -> None:
    read = parse(made(entry(40, 49, name=units))).partitions[0].name
    assert read == name
    assert read is None or read.encode("utf-8", "surrogateescape") == units.decode("utf-16-le", "surrogatepass").split(
        "\0"
    )[0].encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"header_size": 91}, "a header of 91 bytes"),
        ({"header_size": 513}, "a header of 513 bytes"),
        ({"my_lba": 2}, "it says it is in LBA 2"),
        ({"entry_size": 127}, "partition entries of 127 bytes"),
        ({"entry_size": 64}, "partition entries of 64 bytes"),
        ({"entry_size": 384}, "partition entries of 384 bytes"),
        ({"entry_size": 1 << 31, "entry_count": 1}, f"1 partition entries of {1 << 31} bytes"),
        ({"entry_count": 0}, "0 partition entries of 128 bytes"),
        ({"entry_count": 0xFFFFFFFF}, f"{0xFFFFFFFF} partition entries of 128 bytes"),
        ({"entry_count": 32768}, "4194304 bytes do not fit in a device of 131072 bytes"),
        ({"entries_lba": 0xFFFFFFFFFFFFFFFF}, "128 bytes do not fit in a device of 131072 bytes"),
        ({"entries_crc": 1}, "expected 0x1"),
    ],
)
def test_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidFormat) as raised:
        parse(made(entry(40, 49), **fields))
    assert raised.value.message.endswith(message)


def test_unknown_revision() -> None:
    with pytest.raises(UnsupportedFeature) as raised:
        parse(made(entry(40, 49), revision=0x00020000))
    assert raised.value.feature == "GPT revision 2.0"
    assert len(parse(made(entry(40, 49), revision=0x00010001)).partitions) == 1


def test_reads_little(partitioned: Disk) -> None:
    """The backup and the partitions are not read where the primary is intact."""

    class Counting(MemoryDevice):
        touched = 0

        def read(self, offset: int, length: int) -> Any:
            self.touched = max(self.touched, offset + length)
            return super().read(offset, length)

    device = Counting(partitioned.path.read_bytes())
    assert gpt.parse(device, 512) is not None
    assert device.touched == 34 * 512


def test_small_devices() -> None:
    disk = made(entry(40, 49))
    for size in (0, 511, 512, 1023, 1024, 1535):
        assert gpt.parse(MemoryDevice(disk[:size]), 512) is None
    assert len(parse(disk[:1536]).warnings) == 2
    for size in (4096, 8192, 12287):
        assert gpt.parse(MemoryDevice(disk[:size]), 4096) is None


@pytest.mark.parametrize("seed", range(4))
def test_any_byte_may_be_wrong(seed: int) -> None:
    """Bytes of header and entries changed, the checksums made right again: a table or a typed error."""
    good = made(entry(40, 49) + entry(50, 59, number=2, name=b"a\0b\0") + bytes(2 * 128))
    chance = random.Random(seed)
    for _ in range(1000):
        disk = bytearray(good)
        for _ in range(chance.choice((1, 2, 8))):
            disk[
                chance.choice((chance.randrange(446, 512), chance.randrange(512, 604), chance.randrange(1024, 1536)))
            ] = chance.choice((0, 1, 0x80, 0xFF, chance.randrange(256)))
        pack_into("<I", disk, 512 + 88, zlib.crc32(disk[1024:1536]))
        pack_into("<I", disk, 512 + 16, 0)
        pack_into("<I", disk, 512 + 16, zlib.crc32(disk[512:604]))
        try:
            table = PartitionTable.detect(MemoryDevice(disk))
        except GuestctlError:
            continue
        assert table is None or len(table.partitions) <= 4
