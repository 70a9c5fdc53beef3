"""Every layer of guestctl.block reads as a flat copy of it does."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance import check_device
from guestctl.block import (
    BlockDevice,
    CachedDevice,
    DeviceStream,
    Extent,
    FileDevice,
    MappedDevice,
    MemoryDevice,
    Overlay,
    SliceDevice,
)
from guestctl.block.device import Buffer
from guestctl.core.errors import EndOfDevice

DATA = random.Random(1).randbytes(300_001)


class Pieces(MappedDevice):
    """A mapping of pieces of other devices: (length, source, source_offset)."""

    def __init__(self, *pieces: tuple[int, BlockDevice | None, int]) -> None:
        self.extents: list[Extent] = []
        start = 0
        for length, source, source_offset in pieces:
            self.extents.append(Extent(start, length, source, source_offset))
            start += length
        self.size = start

    def extent(self, offset: int) -> Extent:
        return next(extent for extent in self.extents if offset < extent.start + extent.length)


class Computed(MappedDevice):
    """A device that computes every byte: its offset modulo 251."""

    size = 100_000

    def extent(self, offset: int) -> Extent:
        start = offset // 1000 * 1000
        return Extent(start, 1000, self, start)

    def compute(self, offset: int, length: int) -> bytes:
        return bytes(position % 251 for position in range(offset, offset + length))


def test_memory() -> None:
    check_device(MemoryDevice(DATA), DATA)


@pytest.mark.parametrize("mapped", [True, False])
def test_file(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DATA)
    with FileDevice.open(path, mapped=mapped) as device:
        check_device(device, DATA)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with FileDevice.open(path) as device:
        assert device.size == 0
        assert bytes(device.read(0, 0)) == b""
        with pytest.raises(EndOfDevice):
            device.read(0, 1)


def test_holes_of_a_file_are_zero_runs(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.seek(8 << 20)
        stream.write(b"x" * (1 << 20))
        stream.truncate(16 << 20)
    if path.stat().st_blocks * 512 >= 16 << 20:
        pytest.skip("needs a filesystem with sparse files")
    with FileDevice.open(path) as device:
        assert [(run.offset, run.length, run.source is None) for run in device.runs(0, device.size)] == [
            (0, 8 << 20, True),
            (8 << 20, 1 << 20, False),
            (9 << 20, 7 << 20, True),
        ]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FileDevice.open(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        FileDevice.open(tmp_path / "pipe")


def test_slice() -> None:
    check_device(SliceDevice(MemoryDevice(DATA), 1000, 200_000), DATA[1000:201_000])


def test_slice_of_a_slice_ends_where_the_outer_one_does() -> None:
    inner = SliceDevice(SliceDevice(MemoryDevice(DATA), 1000, 5000), 4000, 9000)
    check_device(inner, DATA[5000:6000])
    assert inner.parent.size == len(DATA)


def test_slice_past_the_end_is_clipped() -> None:
    assert SliceDevice(MemoryDevice(DATA), len(DATA) - 10, 100).size == 10
    assert SliceDevice(MemoryDevice(DATA), len(DATA) + 10, 100).size == 0


def test_cache() -> None:
    check_device(CachedDevice(MemoryDevice(DATA), page_count=2), DATA)


def test_cache_reads_each_page_once() -> None:
    class Counting(MemoryDevice):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            return bytes(super().read(offset, length))

    parent = Counting(DATA)
    cached = CachedDevice(parent)
    for offset in range(0, 60_000, 100):
        cached.read(offset, 100)
    assert parent.reads == 1


def test_mapping() -> None:
    low, high = MemoryDevice(DATA[:100_000]), MemoryDevice(DATA[100_000:])
    device = Pieces((1000, low, 500), (3000, None, 0), (50_000, high, 0), (1, low, 99_999), (70_000, None, 0))
    flat = DATA[500:1500] + bytes(3000) + DATA[100_000:150_000] + DATA[99_999:100_000] + bytes(70_000)
    check_device(device, flat)


def test_mapping_joins_neighbours_and_goes_to_the_bottom() -> None:
    bottom = MemoryDevice(DATA)
    middle = Pieces((1000, bottom, 0), (1000, bottom, 1000))
    top = Pieces((500, middle, 700), (500, middle, 1200), (10, None, 0), (20, None, 0))
    assert list(top.runs(0, top.size)) == [(0, 1000, bottom, 700), (1000, 30, None, 0)]


def test_computed_mapping() -> None:
    check_device(Computed(), bytes(position % 251 for position in range(100_000)))


@pytest.mark.parametrize("memory_limit", [0, 8192, 64 << 20])
def test_overlay_against_a_bytearray(memory_limit: int) -> None:
    source = random.Random(2)
    flat = bytearray(DATA)
    with Overlay(MemoryDevice(DATA), memory_limit=memory_limit) as overlay:
        for _ in range(60):
            offset = source.randrange(len(flat))
            length = min(source.choice((1, 100, 4096, 10_000, 50_000)), len(flat) - offset)
            if source.random() < 0.3:
                overlay.discard(offset, length)
                flat[offset : offset + length] = bytes(length)
            else:
                content = source.randbytes(length)
                overlay.write(offset, content)
                flat[offset : offset + length] = content
        check_device(overlay, bytes(flat))


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 20_000), st.integers(0, 9000)),
        max_size=12,
    )
)
def test_overlay_in_any_order(steps: list[tuple[bool, int, int]]) -> None:
    flat = bytearray(DATA[:20_500])
    overlay = Overlay(MemoryDevice(bytes(flat)))
    for number, (discard, offset, length) in enumerate(steps):
        length = min(length, len(flat) - offset)
        if discard:
            overlay.discard(offset, length)
            flat[offset : offset + length] = bytes(length)
        else:
            overlay.write(offset, bytes([number + 1]) * length)
            flat[offset : offset + length] = bytes([number + 1]) * length
        assert bytes(overlay.read(0, overlay.size)) == flat


def test_overlay_refuses_to_grow() -> None:
    overlay = Overlay(MemoryDevice(b"12345678"))
    with pytest.raises(EndOfDevice):
        overlay.write(4, b"56789")
    assert bytes(overlay.read(0, 8)) == b"12345678"


def test_overlay_never_writes_its_base() -> None:
    data = bytearray(DATA)
    overlay = Overlay(MemoryDevice(data))
    overlay.write(10, b"changed")
    overlay.discard(100_000, 50_000)
    assert data == DATA


def test_stream() -> None:
    stream = DeviceStream(MemoryDevice(DATA))
    assert stream.read(10) == DATA[:10]
    assert stream.seek(-5, io.SEEK_END) == len(DATA) - 5
    assert stream.read() == DATA[-5:]
    assert stream.read(1) == b""
    assert stream.seek(len(DATA) + 100) == len(DATA) + 100
    assert stream.read() == b""
    with pytest.raises(ValueError, match="negative seek"):
        stream.seek(-1)
    assert io.BufferedReader(DeviceStream(MemoryDevice(DATA))).read() == DATA


@pytest.mark.parametrize("seed", range(4))
def test_small_runs_are_read_together(seed: int) -> None:
    class Counted(MemoryDevice):
        reads = 0

        def read(self, offset: int, length: int) -> Buffer:
            Counted.reads += 1
            return super().read(offset, length)

    choose = random.Random(seed)
    parts = [Counted(choose.randbytes(12 << 20)) for _ in range(3)]
    ends = dict.fromkeys(parts, 0)
    pieces: list[tuple[int, BlockDevice | None, int]] = []
    for _ in range(300):
        length, source = choose.choice((1, 512, 4096, 65_536, 70_000)), choose.choice([*parts, None])
        if source is None:
            pieces.append((length, None, 0))
        else:
            start = ends[source] if choose.random() < 0.8 else choose.randrange(1000)
            pieces.append((length, source, start))
            ends[source] = start + length
    device = Pieces(*pieces)
    expected = b"".join(
        bytes(source.read(start, length)) if source else bytes(length) for length, source, start in pieces
    )
    Counted.reads = done = stored = 0
    for run, buffer in device.chunks(0, device.size):
        assert run.offset == done
        assert buffer == expected[done : done + run.length]
        done += run.length
        stored += run.source is not None
    assert done == device.size
    assert Counted.reads < stored


def test_what_was_cut_off_a_sparse_file_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(8 << 20)
    with FileDevice.open(path, mapped=False) as device:
        os.truncate(path, 1 << 20)
        with pytest.raises(EndOfDevice):
            list(device.runs(0, device.size))
