"""Files that gzip, xz, zstd, pzstd and bzip2 made, of raw and qcow2 disks, and damaged ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from conformance import check_device
from guestctl.block import BlockDevice, FileDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.compressed import spool, units
from guestctl.disk.formats.compressed.spool import Segment, SpoolDevice
from guestctl.disk.formats.compressed.xz import XzFile
from guestctl.disk.formats.compressed.zstd import ZstdFile
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
MIB = 1 << 20

TOOLS = {
    "gz": ("gzip", "-c"),
    "gz-1": ("gzip", "-1", "-c"),
    "bz2": ("bzip2", "-c"),
    "xz": ("xz", "-c"),
    "xz-blocks": ("xz", "-0", "-c", "--block-size=300000"),
    "xz-threads": ("xz", "-0", "-T2", "--block-size=1MiB", "-c"),
    "xz-sha256": ("xz", "-0", "-c", "--check=sha256", "--block-size=700KiB"),
    "xz-crc32": ("xz", "-0", "-c", "--check=crc32"),
    "xz-none": ("xz", "-0", "-c", "--check=none"),
    "xz-x86": ("xz", "-c", "--x86", "--lzma2=preset=0", "--block-size=1MiB"),
    "zst": ("zstd", "-q", "-c"),
    "zst-19-unchecked": ("zstd", "-q", "-12", "--no-check", "-c"),
    "zst-long": ("zstd", "-q", "--long=27", "-c"),
    "pzst": ("pzstd", "-q", "-p", "2", "-c"),
}


@pytest.fixture(scope="module")
def content() -> bytes:
    """A disk of 5 MiB and a sector with noise, text and zeros."""
    generator = random.Random(3)
    parts: list[bytes] = []
    while sum(map(len, parts)) < 5 * MIB:
        length = 512 * generator.choice((1, 7, 130, 900))
        parts.append(
            generator.choice(
                (bytes(length), generator.randbytes(length), (b"some text %d\n" % length * length)[:length])
            )
        )
    return b"".join(parts)[: 5 * MIB + 512].ljust(5 * MIB + 512, b"\0")


@pytest.fixture(scope="module")
def disk(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(content)
    return path


def compress(run: Run, kind: str, source: Path, target: Path) -> Path:
    run(TOOLS[kind][0], "--version")  # skips where the tool is missing
    with target.open("wb") as file:
        subprocess.run([*TOOLS[kind], source], stdout=file, check=True)
    return target


@pytest.mark.parametrize("kind", TOOLS)
def test_raw(run: Run, disk: Path, content: bytes, tmp_path: Path, kind: str) -> None:
    path = compress(run, kind, disk, tmp_path / "disk")
    with DiskReader.open(path) as reader:
        assert reader.format == "raw"
        check_device(reader, content, rounds=60)
        info = reader.info()
        assert (info["filename"], info["virtual-size"]) == (str(path), len(content))
        assert {entry.offset for entry in reader.map()} == {None}
        assert sum(entry.length for entry in reader.map()) == len(content)
    with DiskReader.open(path, format="raw") as reader:
        assert reader.read_exact_at(0, path.stat().st_size) == path.read_bytes()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz-blocks", "zst"])
def test_qcow2(run: Run, disk: Path, content: bytes, tmp_path: Path, kind: str) -> None:
    run("qemu-img", "convert", "-c", "-O", "qcow2", disk, tmp_path / "disk.qcow2")
    path = compress(run, kind, tmp_path / "disk.qcow2", tmp_path / "disk")
    with DiskReader.open(path) as reader, DiskReader.open(tmp_path / "disk.qcow2") as plain:
        assert reader.format == "qcow2"
        assert reader.read_exact_at(0, reader.size) == content
        assert reader.check() == plain.check() | {"filename": str(path)}
        expected = [entry._replace(offset=None, filename=None) for entry in plain.map()]
        assert [entry._replace(offset=None, filename=None) for entry in reader.map()] == expected
        assert all(entry.offset is None for entry in reader.map())


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_concatenated(run: Run, disk: Path, content: bytes, tmp_path: Path, kind: str) -> None:
    """Members, streams and frames one after the other; the tool reads the same."""
    pieces = (content[:700_000], content[700_000 : 2 * MIB], b"", content[2 * MIB :])
    packed = []
    for number, piece in enumerate(pieces):
        (tmp_path / f"{number}").write_bytes(piece)
        packed.append(compress(run, kind, tmp_path / f"{number}", tmp_path / "packed").read_bytes())
    padding = {"xz": bytes(8), "gz": bytes(300)}.get(kind, b"")
    (tmp_path / "all").write_bytes(b"".join(packed) + padding)
    with DiskReader.open(tmp_path / "all") as reader:
        check_device(reader, content, rounds=60)


def test_zstd_without_sizes(run: Run, disk: Path, content: bytes, tmp_path: Path) -> None:
    run("zstd", "--version")
    with disk.open("rb") as source, (tmp_path / "disk.zst").open("wb") as target:
        subprocess.run(["zstd", "-q", "-c"], stdin=source, stdout=target, check=True)
    with DiskReader.open(tmp_path / "disk.zst") as reader:
        check_device(reader, content, rounds=30)


def test_multiple_of_512(tmp_path: Path) -> None:
    """As for raw files, sizes are rounded up to sectors."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 700))
    with DiskReader.open(tmp_path / "a.gz") as reader:
        assert reader.read_exact_at(0, reader.size) == b"x" * 700 + bytes(324)


def test_gzip_headers(content: bytes, tmp_path: Path) -> None:
    deflated = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflated.compress(content) + deflated.flush() + struct.pack("<II", zlib.crc32(content), len(content))
    header = b"\x1f\x8b\x08\x1f" + bytes(6) + struct.pack("<H", 5) + b"extra" + b"name\0" + b"c" * 300_000 + b"\0"
    path = tmp_path / "disk.gz"
    for crc in (zlib.crc32(header) & 0xFFFF, None):
        path.write_bytes(header + struct.pack("<H", crc if crc is not None else 1) + body)
        if crc is None:
            with pytest.raises(InvalidFormat):
                DiskReader.open(path)
        else:
            with DiskReader.open(path) as reader:
                assert reader.read_exact_at(0, reader.size) == content


def test_without_isal(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(content[:MIB]) + gzip.compress(content[MIB:]))
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == content


def open_device(path: Path) -> BlockDevice:
    """The content without looking for the format of what is inside."""
    device = FileDevice.open(path)
    file = XzFile(device) if path.suffix == ".xz" else ZstdFile(device)
    assert file.units is not None
    return units.open_units(device, file.units, file.content)


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_large_units_go_to_a_file(
    run: Run, disk: Path, content: bytes, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_UNIT_BYTES", MIB)
    packed = compress(run, kind, disk, tmp_path / "disk").read_bytes()
    path = tmp_path / f"two.{kind}"
    path.write_bytes(packed + packed)
    with open_device(path) as device:
        assert isinstance(device, SpoolDevice)
        # Nothing but what is asked for is decompressed.
        assert device.read(len(content) + 100, 5) == content[100:105]
        first, second = device._segments
        assert first.position == 0 and 0 < second.position - len(content) <= 2 * MIB
    with DiskReader.open(path) as reader:
        check_device(reader, content + content, rounds=60)


def test_threads(run: Run, disk: Path, content: bytes, tmp_path: Path) -> None:
    for kind in ("xz-blocks", "zst", "gz"):
        path = compress(run, kind, disk, tmp_path / kind)
        failures: list[int] = []
        with DiskReader.open(path) as reader:

            def read(seed: int, reader: DiskReader = reader, failures: list[int] = failures) -> None:
                source = random.Random(seed)
                for _ in range(100):
                    offset = source.randrange(len(content) - 5000)
                    if bytes(reader.read(offset, 5000)) != content[offset : offset + 5000]:
                        failures.append(offset)

            threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures


def test_nesting(tmp_path: Path, content: bytes) -> None:
    packed = content
    for depth in range(1, 5):
        packed = (gzip.compress, lzma.compress, bz2.compress, gzip.compress)[depth - 1](packed)
        path = tmp_path / f"{depth}"
        path.write_bytes(packed)
        if depth <= 3:
            with DiskReader.open(path) as reader:
                assert reader.read_exact_at(0, reader.size) == content
        else:
            with pytest.raises(UnsupportedFeature, match="around each other"):
                DiskReader.open(path)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def read_all(path: Path) -> bytes:
    with DiskReader.open(path) as reader:
        return reader.read_exact_at(0, reader.size)


@pytest.mark.parametrize("kind", PACKERS)
def test_truncated(tmp_path: Path, content: bytes, kind: str) -> None:
    packed = PACKERS[kind](content[: 256 << 10])
    path = tmp_path / "disk"
    for length in (14, 100, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        path.write_bytes(packed[:length])
        with pytest.raises(InvalidFormat) as caught:
            read_all(path)
        assert caught.value.offset <= length


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged(tmp_path: Path, content: bytes, kind: str) -> None:
    """One byte changed anywhere: the checksums tell, or the byte did not matter (a name, a time)."""
    whole = content[: 64 << 10]
    packed = PACKERS[kind](whole)
    generator = random.Random(kind)
    path = tmp_path / "disk"
    places = [*range(12), *range(len(packed) - 40, len(packed)), *(generator.randrange(len(packed)) for _ in range(60))]
    refused = 0
    for place in places:
        damaged = bytearray(packed)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            result = read_all(path)
        except GuestctlError:
            refused += 1
        else:
            # Where the magic is gone, the file is a raw disk.
            assert result in (whole, bytes(damaged).ljust(-(-len(damaged) // 512) * 512, b"\0"))
    assert refused > 60


def test_damage_is_told_again(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decompressed before the wrong checksum was found is not given out afterwards."""
    monkeypatch.setattr(units, "MAX_UNIT_BYTES", 1000)
    packed = bytearray(lzma.compress(content, check=lzma.CHECK_CRC32))
    index_bytes = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    packed[-12 - index_bytes - 1] ^= 1  # of the block's check
    path = tmp_path / "disk.xz"
    path.write_bytes(packed)
    with open_device(path) as device:
        assert device.read(100, 1000) == content[100:1100]
        for _ in range(2):
            with pytest.raises(InvalidFormat, match="xz block"):
                device.read(0, device.size)
        with pytest.raises(InvalidFormat, match="xz block"):
            device.read(100, 1000)


def seekable(frames: list[bytes], sizes: list[int], *, checksums: bool = False, **changes: int) -> bytes:
    """The "Zstandard Seekable Format", by its description."""
    entries = b"".join(
        struct.pack("<II", len(frame), size) + bytes(4 if checksums else 0)
        for frame, size in zip(frames, sizes, strict=True)
    )
    footer = struct.pack("<IBI", changes.get("count", len(frames)), 0x80 if checksums else 0, 0x8F92EAB1)
    table = entries + footer
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, changes.get("length", len(table))) + table


def test_seek_table(tmp_path: Path, content: bytes) -> None:
    pieces = [content[start : start + 400_000] for start in range(0, len(content), 400_000)]
    packer = zstandard.ZstdCompressor(write_content_size=False)
    frames = [packer.compress(piece) for piece in pieces]
    sizes = [len(piece) for piece in pieces]
    path = tmp_path / "disk.zst"
    for checksums in (False, True):
        path.write_bytes(seekable(frames, sizes, checksums=checksums))
        with DiskReader.open(path) as reader:
            check_device(reader, content, rounds=60)
    for wrong in (
        seekable(frames, sizes, count=len(frames) + 1),
        seekable(frames, sizes, length=5),
        seekable(frames, [*sizes[:-1], 7]),
        seekable(frames, [sizes[0] + 1, *sizes[1:]]),
        seekable(frames, [0xFFFFFFFF, *sizes[1:]]),
        b"x" + seekable(frames, sizes),
        seekable(frames, sizes)[1:],
        seekable([], [], count=0xFFFFFFFF),
    ):
        path.write_bytes(wrong)
        with pytest.raises(InvalidFormat), DiskReader.open(path, format="zst") as reader:
            reader.read(0, min(reader.size, 8 * MIB))


def test_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    for header in (
        b"\x28\xb5\x2f\xfd\x00\xb8",  # a window of 8 GiB
        b"\x28\xb5\x2f\xfd\x01\x00\x07",  # a dictionary
        b"\x28\xb5\x2f\xfd\x08\x00",
        b"\x1f\x8b\x08\x80" + bytes(20),
    ):
        path.write_bytes(header + b"\x01\x00\x00" + bytes(600))
        with pytest.raises(UnsupportedFeature):
            read_all(path)


def test_lies_about_sizes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    block = b"\x03\x00\x10" + b"\0"  # RLE, last: 128 KiB of zeros
    for size in (1 << 62, (1 << 64) - 1, 1 << 41):
        path.write_bytes(b"\x28\xb5\x2f\xfd\xc0\x48" + struct.pack("<Q", size) + block)
        with pytest.raises(GuestctlError):
            read_all(path)
    path.write_bytes(b"\x28\xb5\x2f\xfd\xc0\x48" + struct.pack("<Q", 100_000) + block)
    with pytest.raises(InvalidFormat):
        read_all(path)


def test_bomb(tmp_path: Path, content: bytes) -> None:
    """Zeros take no space, and the content has a limit."""
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(bytes(64 * MIB)) * 4)
    with DiskReader.open(path) as reader:
        assert reader.size == 256 * MIB
        assert all(run.source is None for run in reader.runs(0, reader.size))
        device: Any = reader
        assert device._device._output.occupied() < MIB
    with FileDevice.open(path) as device, pytest.raises(UnsupportedFeature):
        SpoolDevice.of_unknown_size(device, lambda: iter([content] * 3), limit=2 * len(content))
    with FileDevice.open(path) as device, pytest.raises(UnsupportedFeature):
        SpoolDevice(device, [Segment(0, 100, lambda: iter([bytes(100)]))], 100, limit=99)


def test_no_space(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_BYTES_BETWEEN_LOOKS", MIB)
    monkeypatch.setattr(spool, "_MIN_FREE_BYTES", 1 << 60)
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UnsupportedFeature, match="TMPDIR"):
        DiskReader.open(path)


def test_progress(tmp_path: Path, content: bytes) -> None:
    calls: list[tuple[int, int | None]] = []

    class Listener:
        def update(self, done: int, total: int | None) -> None:
            calls.append((done, total))

    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(content))
    DiskReader.open(path, progress=Listener()).close()
    size = path.stat().st_size
    assert calls[-1] == (size, size) and calls == sorted(calls)


def test_xz_padding(tmp_path: Path) -> None:
    packed = lzma.compress(b"x" * 512)
    path = tmp_path / "disk.xz"
    for padding in (bytes(1), bytes(6), b"\0\0\0\1"):
        path.write_bytes(packed + padding)
        with pytest.raises(InvalidFormat):
            read_all(path)
    path.write_bytes(packed + bytes(10_000) + packed + bytes(4))
    assert read_all(path) == b"x" * 1024
