"""Bytes that are not what the specification says: a typed error that names the structure and its place."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader
from vmdk_images import convert, descriptor

Run = Callable[..., str]
SECTOR, GRAIN = 512, 65536


class Tables:
    """Where the tables of a sparse image lie, in bytes."""

    def __init__(self, content: bytes) -> None:
        redundant, directory = struct.unpack_from("<QQ", content, 48)
        self.redundant, self.directory = redundant * SECTOR, directory * SECTOR
        self.tables = [entry * SECTOR for entry in struct.unpack_from("<2I", content, self.directory)]
        self.redundant_tables = [entry * SECTOR for entry in struct.unpack_from("<2I", content, self.redundant)]


def patched(content: bytes | bytearray, *changes: tuple[int, str, int]) -> bytes:
    changed = bytearray(content)
    for offset, format, value in changes:
        struct.pack_into(f"<{format}", changed, offset, value)
    return bytes(changed)


def write(tmp_path: Path, content: bytes | bytearray) -> Path:
    path = tmp_path / "damaged.vmdk"
    path.write_bytes(content)
    return path


def read_all(reader: DiskReader) -> bytes:
    return b"".join(bytes(buffer) for _, buffer in reader.chunks(0, reader.size))


@pytest.fixture(scope="session")
def small_disk(run: Run, small_image: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small-disk")
    (folder / "a.vmdk").write_bytes(small_image)
    run("qemu-img", "convert", "-O", "raw", folder / "a.vmdk", folder / "a.raw")
    return (folder / "a.raw").read_bytes()


@pytest.fixture(scope="session")
def stream(run: Run, source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("stream") / "stream.vmdk"
    convert(run, source, path, "streamOptimized")
    return path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"KDM", b"KDMV" + bytes(100), bytes(4096), b"COWD", b"\xff" * 2000])
def test_no_header(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((InvalidFormat, UnsupportedFeature)):
        DiskReader.open(write(tmp_path, content), format="vmdk")


@pytest.mark.parametrize(
    ("change", "structure", "offset"),
    [
        ((12, "Q", 1 << 60), "SparseExtentHeader", 12),  # capacity
        ((12, "Q", 1 << 40), "grain directory", None),
        ((20, "Q", 0), "SparseExtentHeader", 12),  # grainSize
        ((20, "Q", 100), "SparseExtentHeader", 12),
        ((20, "Q", 1 << 40), "SparseExtentHeader", 12),
        ((28, "Q", 1 << 50), "descriptor", 1 << 59),  # descriptorOffset
        ((36, "Q", 1 << 50), "descriptor", 512),  # descriptorSize
        ((44, "I", 0), "SparseExtentHeader", 44),  # numGTEsPerGT
        ((44, "I", 513), "SparseExtentHeader", 44),
        ((73, "B", 13), "SparseExtentHeader", 73),  # singleEndLineChar
    ],
)
def test_header(
    tmp_path: Path, small_image: bytes, change: tuple[int, str, int], structure: str, offset: int | None
) -> None:
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(write(tmp_path, patched(small_image, change)))
    assert caught.value.structure == structure
    assert offset is None or caught.value.offset == offset


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ([(4, "I", 4)], "sparse extent version 4"),
        ([(4, "I", 0)], "sparse extent version 0"),
        ([(8, "I", 0x80000003)], "flags 0x80000003"),
        ([(8, "I", 0x30001), (77, "H", 2)], "compression 2"),
        ([(8, "I", 0x10001), (77, "H", 1)], "compression without markers"),
    ],
)
def test_unknown_features(
    tmp_path: Path, small_image: bytes, changes: list[tuple[int, str, int]], feature: str
) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        DiskReader.open(write(tmp_path, patched(small_image, *changes)))
    assert caught.value.feature == feature


@pytest.mark.parametrize(
    "change",
    [
        lambda t: [(56, "Q", 1 << 40)],  # gdOffset
        lambda t: [(56, "Q", 0)],
        lambda t: [(t.directory, "I", 0)],
        lambda t: [(t.directory, "I", 0xFFFFFFFF)],
        lambda t: [(t.directory, "I", 1 << 24), (t.directory + 4, "I", 1 << 24)],
        lambda t: [(t.tables[0], "I", 1 << 24)],
        lambda t: [(t.tables[1] + 2044, "I", 0xFFFFFFFF)],
    ],
)
def test_redundant_tables(
    tmp_path: Path, small_image: bytes, small_disk: bytes, change: Callable[[Tables], list[tuple[int, str, int]]]
) -> None:
    tables = Tables(small_image)
    changes = change(tables)
    with DiskReader.open(write(tmp_path, patched(small_image, *changes))) as reader:
        assert read_all(reader) == small_disk
        (warning,) = reader.warnings
        assert "redundant" in warning and str(tmp_path) in warning
        assert reader.check()["corruptions"] == 1


def test_only_what_is_damaged_is_replaced(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    """Redundant tables that nobody kept up to date must not hide good entries of the primary ones."""
    tables = Tables(small_image)
    changes = [(tables.tables[0] + 4, "I", 1 << 24), (tables.redundant_tables[0], "I", 0)]
    changes.append((tables.redundant_tables[1] + 4 * 64, "I", 0))
    with DiskReader.open(write(tmp_path, patched(small_image, *changes))) as reader:
        assert read_all(reader) == small_disk
        assert len(reader.warnings) == 1


def test_damaged_redundant_tables(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    """Who reads the primary ones need not know."""
    tables = Tables(small_image)
    changes = [(48, "Q", 1 << 40), (tables.redundant, "I", 1 << 24), (tables.redundant_tables[0], "I", 1 << 24)]
    for change in changes:
        with DiskReader.open(write(tmp_path, patched(small_image, change))) as reader:
            assert read_all(reader) == small_disk
            assert not reader.warnings


def test_grain_outside_the_file(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    """One entry is damaged in both tables: everything else can be read."""
    tables = Tables(small_image)
    changes = [(table + 4, "I", 1 << 24) for table in (tables.tables[0], tables.redundant_tables[0])]
    with DiskReader.open(write(tmp_path, patched(small_image, *changes))) as reader:
        assert bytes(reader.read(0, GRAIN)) == small_disk[:GRAIN]
        assert bytes(reader.read(2 * GRAIN, 38 << 20)) == small_disk[2 * GRAIN : (38 << 20) + 2 * GRAIN]
        with pytest.raises(InvalidFormat) as caught:
            reader.read(GRAIN + 700, 1)
        assert (caught.value.structure, caught.value.offset) == ("grain", 1 << 33)
        assert reader.check()["corruptions"] == 1


def test_table_outside_the_file(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    tables = Tables(small_image)
    changes = [(directory, "I", 1 << 24) for directory in (tables.directory, tables.redundant)]
    with DiskReader.open(write(tmp_path, patched(small_image, *changes))) as reader:
        for _ in range(2):
            with pytest.raises(InvalidFormat) as caught:
                reader.read(0, 1)
            assert (caught.value.structure, caught.value.offset) == ("grain directory", tables.directory)
        assert bytes(reader.read(32 << 20, 8 << 20)) == small_disk[32 << 20 :]
        assert reader.check()["corruptions"] == 1


def test_shared_grains(tmp_path: Path, small_image: bytes) -> None:
    tables = Tables(small_image)
    (first,) = struct.unpack_from("<I", small_image, tables.tables[0])
    path = write(tmp_path, patched(small_image, (tables.tables[0] + 4, "I", first), (tables.tables[1], "I", first)))
    with DiskReader.open(path) as reader:
        assert reader.check()["corruptions"] == 2


def test_shared_tables(tmp_path: Path, small_image: bytes) -> None:
    """A directory of millions of entries, all of one table: that is gone through once."""
    tables = Tables(small_image)
    content = bytearray(patched(small_image, (tables.directory + 4, "I", tables.tables[0] // SECTOR)))
    with DiskReader.open(write(tmp_path, content)) as reader:
        assert reader.check()["corruptions"] == 1
    struct.pack_into("<512I", content, tables.tables[0], *[0, 1] * 256)
    entries = 1 << 20
    changes = [(4, "I", 2), (8, "I", 5), (12, "Q", entries << 16), (56, "Q", len(content) // SECTOR)]
    content = bytearray(patched(content, *changes))
    path = write(tmp_path, content + struct.pack("<I", tables.tables[0] // SECTOR) * entries)
    started = time.monotonic()
    with DiskReader.open(path) as reader:
        assert reader.check()["corruptions"] == entries - 1
    assert time.monotonic() - started < 20


def test_truncated_file(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    with DiskReader.open(write(tmp_path, small_image[: -GRAIN - 512])) as reader:
        with pytest.raises(InvalidFormat):
            read_all(reader)
        last = (36 << 20) + GRAIN
        assert bytes(reader.read(0, last - 512)) == small_disk[: last - 512]


def test_unclean_shutdown(tmp_path: Path, small_image: bytes, small_disk: bytes) -> None:
    with DiskReader.open(write(tmp_path, patched(small_image, (72, "B", 1)))) as reader:
        (warning,) = reader.warnings
        assert "not closed properly" in warning
        assert read_all(reader) == small_disk


def first_grain(content: bytes) -> int:
    (directory,) = struct.unpack_from("<Q", content, 56)
    (table,) = struct.unpack_from("<I", content, directory * SECTOR)
    grains: tuple[int, ...] = struct.unpack_from("<512I", content, table * SECTOR)
    return next(grain for grain in grains if grain) * SECTOR


@pytest.mark.parametrize(
    "change",
    [(0, "Q", 12800), (8, "I", 0), (8, "I", 0xFFFFFFFF), (8, "I", 20), (12, "B", 0), (20, "I", 0), (13, "H", 0xFFFF)],
)
def test_compressed_grain(tmp_path: Path, stream: bytes, change: tuple[int, str, int]) -> None:
    grain = first_grain(stream)
    offset, format, value = change
    with DiskReader.open(write(tmp_path, patched(stream, (grain + offset, format, value)))) as reader:
        with pytest.raises(InvalidFormat) as caught:
            read_all(reader)
        assert caught.value.structure == "compressed grain"
        assert grain <= caught.value.offset <= grain + 12


def test_checksum_of_a_compressed_grain(tmp_path: Path, stream: bytes) -> None:
    grain = first_grain(stream)
    (length,) = struct.unpack_from("<I", stream, grain + 8)
    path = write(tmp_path, patched(stream, (grain + 12 + length - 1, "B", 0x5A)))
    with DiskReader.open(path) as reader, pytest.raises(InvalidFormat):
        read_all(reader)


def test_stream_without_its_end(run: Run, tmp_path: Path, source: Path) -> None:
    from image_writing import write_image

    path = tmp_path / "disk.vmdk"
    write_image(path, "vmdk", source.read_bytes(), {"subformat": "streamOptimized"})
    content = path.read_bytes()
    for length in (len(content) - 512, len(content) - 2048, 70_000, 1024, 512):
        with pytest.raises(GuestctlError) as caught:
            DiskReader.open(write(tmp_path, content[:length]))
        assert isinstance(caught.value, InvalidFormat)
    footer = len(content) - 1024
    for change in ((footer + 56, "Q", 0xFFFFFFFFFFFFFFFF), (footer + 56, "Q", 1 << 40), (footer + 12, "Q", 5)):
        with pytest.raises(InvalidFormat):
            DiskReader.open(write(tmp_path, patched(content, change)))


def test_a_directory_that_the_file_does_not_justify(tmp_path: Path, small_image: bytes) -> None:
    """A sparse file of terabytes costs its author nothing."""
    path = write(tmp_path, patched(small_image, (12, "Q", 1 << 52), (48, "Q", 1 << 20), (56, "Q", 1 << 20)))
    with path.open("r+b") as file:
        file.truncate(8 << 40)
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)


FLAT = 'RW 4 FLAT "data.raw" 0'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Disk DescriptorFile\n",
        descriptor(),
        descriptor("RW 0 ZERO"),
        descriptor("RW 99999999999999999999 ZERO"),
        descriptor("RW 9999999999999999999999999999 ZERO"),
        descriptor(*["RW 9000000000000000 ZERO"] * 3),
        descriptor("RW -1 ZERO"),
        descriptor("RW 4 FLAT"),
        descriptor('RW 4 FLAT "" 0'),
        descriptor('RW 4 FLAT "data.raw" -1'),
        descriptor('RW 4 FLAT "data.raw" 99999999999999999999'),
        descriptor('RW 5 FLAT "data.raw" 0'),
        descriptor('RW 4 FLAT "data.raw" 1'),
        descriptor('RW 4 FLAT "data.raw'),
        descriptor('RW 4 SPARSE "data.raw"'),
        descriptor('RW 4 VMFSSPARSE "data.raw"'),
        descriptor('RW 4 SESPARSE "data.raw"'),
        descriptor(FLAT, cid="xyz"),
        descriptor(FLAT, cid="123456789"),
        descriptor(FLAT, more="CID=00000001"),
        descriptor(FLAT, more='createType="vmfs"'),
        descriptor(FLAT, more="parentCID=1234"),
        descriptor(FLAT).replace("parentCID=ffffffff", "parentCID=12345678"),
        descriptor(FLAT).replace("CID=12345678\n", ""),
        descriptor(FLAT).replace("createType", "createTypo"),
        descriptor(FLAT, more="x" * 10_000),
        descriptor(FLAT, more="# \n" * 400_000),
        descriptor(*["RW 1 ZERO"] * 120_000),
    ],
)
def test_descriptors(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.raw").write_bytes(bytes(2048))
    path = tmp_path / "disk.vmdk"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(InvalidFormat):
        DiskReader.open(path, format="vmdk")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        (descriptor("RW 4 THIN"), "extent type THIN"),
        (descriptor("NOACCESS 4 ZERO"), "NOACCESS extent"),
        (descriptor(FLAT).replace("version=1", "version=9"), "descriptor version 9"),
        (descriptor(FLAT, more='encoding="zlib"\n#é'), "encoding zlib"),
        (descriptor(FLAT, more='encoding="cp9999"\n#é'), "encoding cp9999"),
    ],
)
def test_descriptors_we_do_not_know(tmp_path: Path, text: str, feature: str) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_text(text)
    with pytest.raises(UnsupportedFeature) as caught:
        DiskReader.open(path)
    assert caught.value.feature == feature


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["", "UTF-8", "windows-1252", "GBK", "Shift_JIS"])
def test_descriptors_in_other_dress(tmp_path: Path, end: str, encoding: str) -> None:
    name = "資料.raw" if encoding in ("GBK", "Shift_JIS") else "dátá.raw"
    (tmp_path / name).write_bytes(b"x" * 1500)
    text = descriptor(f'  RDONLY 1 FLAT "{name}" 1  ', "RW 10 ZERO", f'RW 2 VMFS "{name}" 1')
    text = text.replace("version=1", f'version=1\nencoding="{encoding}"' if encoding else "version=1")
    path = tmp_path / "disk.vmdk"
    path.write_bytes(text.replace("\n", end).encode(encoding or "utf-8") + b"\0\0garbage\xff")
    with DiskReader.open(path) as reader:
        expected = b"x" * 512 + bytes(5120) + (b"x" * 988).ljust(1024, b"\0")
        assert bytes(reader.read(0, reader.size)) == expected
        assert [(e.start, e.present, e.zero, e.data) for e in reader.map()][:2] == [
            (0, True, False, True),
            (512, True, True, False),
        ]


def test_many_extents_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "data.raw").write_bytes(b"".join(bytes([n]) * 512 for n in range(256)))
    path = tmp_path / "disk.vmdk"
    path.write_text(descriptor(*(f'RW 1 FLAT "data.raw" {n * 7 % 256}' for n in range(20_000))))
    with DiskReader.open(path) as reader:
        assert [reader.read(n * 512, 1)[0] for n in range(0, 20_000, 97)] == [n * 7 % 256 for n in range(0, 20_000, 97)]


def try_everything(path: Path) -> None:
    """A result or a typed error, and neither hang nor memory without bound."""
    try:
        reader = DiskReader.open(path, format="vmdk")
    except (GuestctlError, OSError):  # a file of a changed name is not there
        return
    with reader:
        for action in (
            lambda: reader.info(),
            lambda: sum(entry.length for entry in islice(reader.map(), 5000)),
            lambda: reader.check(),
            lambda: [reader.read(at, 4096) for at in (0, GRAIN - 100) if at + 4096 <= reader.size],
            lambda: sum(len(buffer) for _, buffer in islice(reader.chunks(0, min(reader.size, 64 << 20)), 100)),
        ):
            try:
                action()
            except GuestctlError:
                pass


def test_mutants(run: Run, tmp_path: Path, small_image: bytes, stream: bytes) -> None:
    tables = Tables(small_image)
    descriptor_file = descriptor('RW 81920 SPARSE "part.vmdk"', FLAT, create_type="custom").encode()
    (tmp_path / "part.vmdk").write_bytes(small_image)
    (tmp_path / "data.raw").write_bytes(bytes(2048))
    targets = {
        small_image: [(0, 80), (512, 900), (tables.directory, tables.directory + 8), (tables.tables[0], 2048)],
        stream: [(0, 80), (512, 900), (first_grain(stream), 400), (len(stream) - 2000, 2000)],
        descriptor_file: [(0, len(descriptor_file))],
    }
    generator = random.Random(99)
    path = tmp_path / "mutant.vmdk"
    started = time.monotonic()
    while time.monotonic() - started < 4:
        content = generator.choice(list(targets))
        changed = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 5))):
            start, length = generator.choice(targets[content])
            at = min(start + generator.randrange(length), len(changed) - 1)
            kind = generator.randrange(4)
            if kind == 0:
                changed[at] ^= 1 << generator.randrange(8)
            elif kind == 1:
                changed[at] = generator.choice((0, 0xFF, 0x7F, 0x80))
            elif kind == 2:
                changed[at & -4 : (at & -4) + 4] = generator.choice((bytes(4), b"\xff" * 4, generator.randbytes(4)))
            else:
                changed[at & -8 : (at & -8) + 8] = generator.choice((bytes(8), b"\xff" * 8, generator.randbytes(8)))
        if not generator.randrange(20):
            del changed[generator.randrange(len(changed)) :]
        path.write_bytes(changed)
        before = time.monotonic()
        try_everything(path)
        assert time.monotonic() - before < 5
