"""One good volume, a byte changed, and what comes of it."""

from __future__ import annotations

import calendar
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import EndOfDevice, GuestctlError, InvalidFormat
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.filesystems.fat.directory import fold, iter_entries
from guestctl.disk.filesystems.fat.entry import EntryStat, checksum, short_name
from guestctl.disk.filesystems.fat.filesystem import FatFileSystem

Opened = Callable[[bytes | bytearray], FatFileSystem]
BITS = ("12", "16", "32")


class Good:
    """A volume with clusters of 512 bytes: /FILE of 5 clusters, /DIR with /DIR/INNER in it, and its tables."""

    def __init__(self, volume: Any, bits: str) -> None:
        self.volume = volume
        self.data = bytearray(volume.path.read_bytes())
        self.bits = int(bits)
        self.table: int
        self.table_bytes: int
        _, self.table, self.table_bytes = volume.geometry
        self.file = self.data.index(b"FILE       ")
        self.directory = self.data.index(b"DIR        ")

    def first(self, entry: int) -> int:
        """First cluster in the directory entry at `entry`."""
        return int.from_bytes(self.data[entry + 26 : entry + 28], "little")

    def place(self, cluster: int) -> int:
        """Offset of the entry of `cluster` in the first table."""
        return self.table + cluster * self.bits // 8

    def link(self, cluster: int, value: int) -> None:
        """Put `value` into the entry of `cluster`."""
        place = self.place(cluster)
        if self.bits == 12:
            shift = cluster % 2 * 4
            (word,) = struct.unpack_from("<H", self.data, place)
            struct.pack_into("<H", self.data, place, word & ~(0xFFF << shift) & 0xFFFF | (value & 0xFFF) << shift)
        else:
            struct.pack_into("<H" if self.bits == 16 else "<I", self.data, place, value & ((1 << self.bits) - 1))


@pytest.fixture(params=BITS)
def good(request: pytest.FixtureRequest, make_volume: Any, tmp_path: Path) -> Good:
    return made(request.param, make_volume, tmp_path)


def made(bits: str, make_volume: Any, tmp_path: Path) -> Good:
    volume = make_volume("-F", bits, "-s", "1", kilobytes={"12": 200, "16": 4096, "32": 40960}[bits])
    (tmp_path / "FILE").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "INNER").write_bytes(b"inner")
    volume.put(tmp_path / "FILE")
    volume.mtool("mmd", "::/DIR")
    volume.put(tmp_path / "INNER", into="/DIR/")
    (tmp_path / "a longer name.txt").write_bytes(b"long")
    volume.put(tmp_path / "a longer name.txt")
    return Good(volume, bits)


def read_all(filesystem: FileSystem[Any]) -> int:
    total = 0
    for _, node, status in filesystem.find("/"):
        if status.is_file():
            device = filesystem.node_data(node)
            total += len(device.read(0, min(device.size, 1 << 20)))
        assert status.st_mtime_ns + status.st_atime_ns + (status.st_birthtime_ns or 0) >= 0
    filesystem.usage()
    return total


def test_good_volume(good: Good, opened: Opened) -> None:
    filesystem = opened(good.data)
    assert read_all(filesystem) == 256 * 9 + 5 + 4
    assert filesystem.warnings == []
    assert filesystem.listdir("/dir") == ["INNER"]


@pytest.mark.parametrize("value", [0, 1, "past the end", 0xFFFFFF7])
def test_chain_that_leads_out_of_the_volume(good: Good, opened: Opened, value: int | str) -> None:
    second = good.first(good.file) + 1
    last = opened(good.data).usage().size // 512 + 1
    number = last + 1 if isinstance(value, str) else value
    good.link(second, number)
    number &= (1 << min(good.bits, 28)) - 1
    with pytest.raises(InvalidFormat) as raised:
        opened(good.data).read_bytes("/FILE")
    assert (raised.value.structure, raised.value.offset) == ("file allocation table", good.place(second))
    assert raised.value.message == f"cluster {number} is not one of 2 to {last}"
    assert opened(good.data).read_bytes("/DIR/INNER") == b"inner"


def test_chain_of_the_last_cluster(good: Good, opened: Opened) -> None:
    """The highest cluster there is can be used."""
    last = opened(good.data).usage().size // 512 + 1
    good.link(good.first(good.file) + 3, last)
    good.link(last, 0xFFFFFFF)
    data = opened(good.data).read_bytes("/FILE")
    assert data[:2048] == bytes(range(256)) * 8
    assert data[2048:] == bytes(256)


def test_chain_that_ends_early(good: Good, opened: Opened) -> None:
    second = good.first(good.file) + 1
    good.link(second, 0xFFFFFF8)
    with pytest.raises(InvalidFormat) as raised:
        opened(good.data).read_bytes("/FILE")
    assert raised.value.offset == good.place(second)
    assert raised.value.message.endswith("ends 3 clusters early")


@pytest.mark.parametrize("back", [0, 1, 2])
def test_chain_that_loops(good: Good, opened: Opened, back: int) -> None:
    first = good.first(good.file)
    good.link(first + 2, first + back)
    with pytest.raises(InvalidFormat) as raised:
        opened(good.data).read_bytes("/FILE")
    assert raised.value.message == f"the chain from cluster {first} loops"


def test_clusters_in_advance(good: Good, opened: Opened) -> None:
    """A chain may be longer than its file, and may be broken where the file does not reach."""
    struct.pack_into("<I", good.data, good.file + 28, 700)
    assert opened(good.data).read_bytes("/FILE") == (bytes(range(256)) * 3)[:700]
    good.link(good.first(good.file) + 3, 0)
    assert opened(good.data).read_bytes("/FILE") == (bytes(range(256)) * 3)[:700]


def test_file_larger_than_the_volume(good: Good, opened: Opened) -> None:
    struct.pack_into("<I", good.data, good.file + 28, 0xFFFFFFFF)
    with pytest.raises(InvalidFormat, match="are more than the volume has"):
        opened(good.data).read_bytes("/FILE")


@pytest.mark.parametrize("cluster", [0, 1, 0xFFF0])
@pytest.mark.parametrize("path", ["/FILE", "/DIR"])
def test_first_cluster_out_of_the_volume(good: Good, opened: Opened, path: str, cluster: int) -> None:
    if good.bits == 32 and cluster == 0xFFF0:
        cluster = 0xFFFFFFF
    entry = good.file if path == "/FILE" else good.directory
    struct.pack_into("<H", good.data, entry + 20, cluster >> 16)
    struct.pack_into("<H", good.data, entry + 26, cluster & 0xFFFF)
    filesystem = opened(good.data)
    with pytest.raises(InvalidFormat) as raised:
        (filesystem.read_bytes if path == "/FILE" else filesystem.listdir)(path)
    assert (raised.value.structure, raised.value.offset, raised.value.actual) == ("directory entry", entry, cluster)
    assert "DIR" in filesystem.listdir("/")


def test_high_half_of_the_first_cluster(good: Good, opened: Opened) -> None:
    """Only FAT32 has one."""
    good.data[good.file + 20] = 0x77
    if good.bits == 32:
        with pytest.raises(InvalidFormat):
            opened(good.data).read_bytes("/FILE")
    else:
        assert len(opened(good.data).read_bytes("/FILE")) == 256 * 9


def test_reserved_bits_of_fat32(make_volume: Any, tmp_path: Path, opened: Opened) -> None:
    """The highest four bits of an entry are not part of it."""
    good = made("32", make_volume, tmp_path)
    expected = opened(good.data).usage()
    for cluster in range(2, 300):
        good.data[good.place(cluster) + 3] |= 0xA0
    good.data[512 + 488 : 512 + 492] = b"\xff\xff\xff\xff"
    filesystem = opened(good.data)
    assert read_all(filesystem) == 256 * 9 + 5 + 4
    assert filesystem.usage() == expected


def test_directory_that_loops(good: Good, opened: Opened) -> None:
    cluster = good.first(good.directory)
    good.link(cluster, cluster)
    with pytest.raises(InvalidFormat, match=f"the chain from cluster {cluster} loops, or has more than"):
        opened(good.data).listdir("/DIR")


def test_directory_in_itself(good: Good, opened: Opened) -> None:
    inner = good.data.index(b"INNER      ")
    good.data[inner + 11] = 0x10
    struct.pack_into("<H", good.data, inner + 26, good.first(good.directory))
    filesystem = opened(good.data)
    errors: list[str] = []
    paths = [path for path, _, _ in filesystem.find("/", onerror=lambda error: errors.append(error.path))]
    assert errors == ["/DIR/INNER/INNER"]
    assert len(paths) == 6


def test_root_of_fat32_in_itself(make_volume: Any, tmp_path: Path, opened: Opened) -> None:
    good = made("32", make_volume, tmp_path)
    struct.pack_into("<H", good.data, good.directory + 26, 2)
    errors: list[str] = []
    list(opened(good.data).find("/", onerror=lambda error: errors.append(error.path)))
    assert errors == ["/DIR/DIR"]


@pytest.mark.parametrize("cluster", [0, 1, 0xFFFFFFF])
def test_root_cluster_out_of_the_volume(make_volume: Any, tmp_path: Path, opened: Opened, cluster: int) -> None:
    good = made("32", make_volume, tmp_path)
    struct.pack_into("<I", good.data, 44, cluster)
    filesystem = opened(good.data)
    assert filesystem.label is None
    with pytest.raises(InvalidFormat):
        filesystem.listdir("/")


def test_table_in_use(make_volume: Any, tmp_path: Path, opened: Opened) -> None:
    """BPB_ExtFlags names the second table: the first is not looked at, as mtools shows."""
    good = made("32", make_volume, tmp_path)
    for cluster in range(2, 200):
        good.link(cluster, 0)
    with pytest.raises(InvalidFormat):
        opened(good.data).read_bytes("/FILE")
    good.data[40] = 0x81
    assert read_all(opened(good.data)) == 256 * 9 + 5 + 4
    good.volume.path.write_bytes(good.data)
    good.volume.mtool("mcopy", "::/FILE", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == opened(good.data).read_bytes("/FILE")


@pytest.mark.parametrize(
    ("bits", "offset", "value", "warning"),
    [
        ("12", 37, 1, "not unmounted cleanly"),
        ("16", 37, 1, "not unmounted cleanly"),
        ("32", 65, 1, "not unmounted cleanly"),
        ("16", "table", 0x7F, "not unmounted cleanly"),
        ("32", "table", 0xF7, "not unmounted cleanly"),
        ("16", "table", 0xBF, "disk errors"),
        ("32", "table", 0xFB, "disk errors"),
    ],
)
def test_volume_that_was_in_use(
    make_volume: Any, tmp_path: Path, opened: Opened, bits: str, offset: int | str, value: int, warning: str
) -> None:
    good = made(bits, make_volume, tmp_path)
    if isinstance(offset, str):
        offset = good.place(2) - 1  # the highest byte of entry 1
    good.data[offset] = value
    (told,) = opened(good.data).warnings
    assert warning in told


def test_device_cut_short(good: Good, opened: Opened) -> None:
    size = len(good.data)
    filesystem = opened(good.data[: size // 2])
    assert filesystem.warnings == [f"the volume has {size} bytes, its device {size // 2}"]
    assert filesystem.read_bytes("/DIR/INNER") == b"inner"
    last = filesystem.usage().size // 512 + 1
    good.link(good.first(good.file) + 3, last)
    good.link(last, 0xFFFFFFF)
    with pytest.raises(EndOfDevice):
        opened(good.data[: size // 2]).read_bytes("/FILE")
    for cut in (512, 1024, good.table + 5, good.table + good.table_bytes):
        try:
            read_all(opened(good.data[:cut]))
        except InvalidFormat:
            continue
        pytest.fail(f"read from {cut} bytes")


# Long names


def listing(data: bytes) -> list[str]:
    return [name for name, _, _ in iter_entries([(0, data)], "cp437")]


def long_entry(order: int, text: str, total: int) -> bytes:
    units = text.encode("utf-16-le", "surrogatepass").ljust(26, b"\xff")
    return struct.pack("<B10sBBB12sH4s", order, units[:10], 0x0F, 0, total, units[10:22], 0, units[22:])


RAW = b"SHORT~1 TXT"
SHORT = RAW + b"\x20" + bytes(20)
SUM = checksum(RAW)
FIRST, SECOND = long_entry(1, "thirteen char", SUM), long_entry(0x42, "acters\0", SUM)


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        pytest.param(SECOND + FIRST, "thirteen characters", id="good"),
        pytest.param(long_entry(0x41, "thirteen char", SUM), "thirteen char", id="full entry"),
        pytest.param(long_entry(0x41, "a\0" + "b" * 11, SUM), "a", id="NUL ends the name"),
        pytest.param(FIRST, "SHORT~1.TXT", id="no last entry"),
        pytest.param(SECOND, "SHORT~1.TXT", id="no first entry"),
        pytest.param(FIRST + SECOND, "SHORT~1.TXT", id="wrong order"),
        pytest.param(SECOND + FIRST + FIRST, "SHORT~1.TXT", id="one too many"),
        pytest.param(SECOND + long_entry(1, "x", SUM ^ 1), "SHORT~1.TXT", id="checksums differ"),
        pytest.param(long_entry(0x41, "x\0", SUM ^ 1), "SHORT~1.TXT", id="checksum of another name"),
        pytest.param(SECOND + b"\xe5" + FIRST[1:], "SHORT~1.TXT", id="deleted between"),
        pytest.param(SECOND + FIRST + b"LABEL      \x08" + bytes(20), "SHORT~1.TXT", id="label between"),
        pytest.param(long_entry(0x40, "x\0", SUM), "SHORT~1.TXT", id="no entries"),
        pytest.param(long_entry(0x7F, "x\0", SUM), "SHORT~1.TXT", id="63 entries"),
        pytest.param(long_entry(0x41, "\0", SUM), "SHORT~1.TXT", id="empty"),
        pytest.param(long_entry(0x41, "..\0", SUM), "SHORT~1.TXT", id="dots"),
        pytest.param(long_entry(0x41, "a/../b\0", SUM), "SHORT~1.TXT", id="slash"),
        pytest.param(long_entry(0x41, "a\\b:*?\0", SUM), "a\\b:*?", id="characters that Windows refuses"),
        pytest.param(long_entry(0x41, "😀\0", SUM), "😀", id="surrogate pair"),
        pytest.param(long_entry(0x41, "\ud83d\0", SUM), "\udced\udca0\udcbd", id="half a pair"),
    ],
)
def test_long_names(entries: bytes, name: str) -> None:
    assert listing(entries + SHORT + bytes(32) + SHORT) == [name]
    # and across two pieces of a directory
    pieces = [(0, entries), (4096, SHORT)]
    (entry,) = iter_entries(pieces, "cp437")
    assert entry[:2] == (name, 4096)


def test_longest_name() -> None:
    text = "".join(chr(0x100 + index) for index in range(260))
    entries = b"".join(
        long_entry(number | (0x40 if number == 20 else 0), text[13 * number - 13 : 13 * number], SUM)
        for number in range(20, 0, -1)
    )
    assert listing(entries + SHORT) == [text]


@pytest.mark.parametrize(
    ("raw", "case", "name"),
    [
        (b"FILE    TXT", 0x00, "FILE.TXT"),
        (b"FILE    TXT", 0x08, "file.TXT"),
        (b"FILE    TXT", 0x10, "FILE.txt"),
        (b"FILE    TXT", 0x18, "file.txt"),
        (b"FILE       ", 0x18, "file"),
        (b"A B C   D E", 0x00, "A B C.D E"),
        (b"\x05BC        ", 0x00, "\N{GREEK SMALL LETTER SIGMA}BC"),
        (b"\x80\x99\x9a     \x8e  ", 0x18, "çöü.ä"),
        (b"AB\0CDEFG\0XX", 0x00, "AB"),
    ],
)
def test_short_names(raw: bytes, case: int, name: str) -> None:
    assert short_name(raw, case, "cp437") == name
    assert listing(raw + b"\x20" + bytes([case]) + bytes(19)) == [name]


@pytest.mark.parametrize("raw", [b"A/B     TXT", b"        /  ", b"           ", b"..      /  ", b"..\0        "])
def test_names_that_no_path_can_hold(raw: bytes) -> None:
    with pytest.raises(InvalidFormat) as raised:
        listing(SHORT + raw + b"\x20" + bytes(20))
    assert (raised.value.structure, raised.value.offset) == ("directory entry", 32)


def test_fold() -> None:
    assert fold("straße σς.TXT") == fold("STRAßE ΣΣ.txt") != fold("STRASSE ΣΣ.txt")


# Times


@pytest.mark.parametrize(
    ("day", "clock", "tenth", "expected"),
    [
        (0x0021, 0, 0, "1980-01-01 00:00:00"),
        (0x5A21, 0x6000, 0, "2025-01-01 12:00:00"),
        (0x285D, 0xBF7D, 199, "2000-02-29 23:59:59.99"),
        (0xFF9F, 0xBF7D, 0, "2107-12-31 23:59:58"),
        (0x3C21, 0, 150, "2010-01-01 00:00:01.5"),
    ],
)
def test_times(day: int, clock: int, tenth: int, expected: str) -> None:
    raw = struct.pack("<11sBBBHHHHHHHI", RAW, 0x20, 0, tenth, clock, day, day, 0, clock, day, 0, 0)
    status = EntryStat(raw, 32, 0x20, 1, 0, 0)
    whole, _, fraction = expected.partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%d %H:%M:%S"))
    assert status.st_birthtime_ns == seconds * 10**9 + int(fraction.ljust(9, "0") or 0)
    assert status.st_mtime_ns == status.st_ctime_ns == (seconds - (1 if tenth >= 100 else 0)) * 10**9
    assert status.st_atime_ns == seconds // 86400 * 86400 * 10**9


def test_times_that_are_none() -> None:
    status = EntryStat(RAW + bytes(21), 32, 0x20, 1, 0, 0)
    assert (status.st_birthtime_ns, status.st_mtime_ns) == (None, 315532800 * 10**9)
    status = EntryStat(RAW + b"\xff" * 21, 32, 0x20, 1, 0, 0)
    assert status.st_mtime_ns > 0


# Anything


@pytest.mark.parametrize("bits", BITS)
def test_any_byte_may_be_wrong(make_volume: Any, tmp_path: Path, bits: str) -> None:
    """Bytes of the boot sector, the tables, the directories and FSInfo changed: files or a typed error, soon."""
    good = made(bits, make_volume, tmp_path)
    data = good.data
    root = good.table + data[16] * good.table_bytes
    areas = [range(11, 92), range(good.table, good.table + 64), range(root, root + 320)]
    areas.append(range(good.data.index(b".          "), good.data.index(b".          ") + 160))
    areas.append(range(512 + 480, 512 + 500))
    chance = random.Random(bits)
    outcomes: set[object] = set()
    for _ in range(600):
        changed = [chance.choice(chance.choice(areas)) for _ in range(chance.choice((1, 1, 2, 6)))]
        saved = [(offset, data[offset]) for offset in changed]
        for offset in changed:
            data[offset] = chance.choice((0, 1, 2, 5, 0x0F, 0x10, 0x41, 0xE5, 0xFF, chance.randrange(256)))
        start = time.process_time()
        try:
            device = MemoryDevice(data)
            FileSystem.identify(device)
            outcomes.add(read_all(FileSystem.detect(device)) > 0)
        except GuestctlError as error:
            outcomes.add(type(error).__name__)
        finally:
            for offset, byte in reversed(saved):
                data[offset] = byte
        assert time.process_time() - start < 2
    assert {True, "InvalidFormat", "DetectionError"} <= outcomes
