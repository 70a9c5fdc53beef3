"""Images written by random calls, each compared with a flat copy and with what qemu-img reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import Output
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import ImageWriter, create_writer

Run = Callable[..., str]
Flat = Callable[[Path], bytes]
GRAIN = 65536


def fill_at_random(writer: ImageWriter, disk: bytearray, generator: random.Random) -> None:
    """Hand over the disk in random ranges of data, zeros and nothing, and change `disk` to what it holds then."""
    offset = 0
    while offset < len(disk):
        end = min(len(disk), offset + GRAIN * generator.choice((1, 1, 2, 3, 17, 200)))
        kind = generator.randrange(3)
        if kind == 0:
            disk[offset:end] = bytes(end - offset)
            writer.zero(offset, end - offset)
        elif kind == 1:
            disk[offset:end] = (generator.randbytes(5000) * (1 + (end - offset) // 5000))[: end - offset]
            store(writer, offset, bytes(disk[offset:end]))
        offset = end


def store(writer: ImageWriter, offset: int, data: bytes) -> None:
    if not writer.packs:
        for placement in writer.place(offset, len(data)):
            at = placement.start - offset
            placement.file.write_at(placement.offset, data[at : at + placement.length])
        return
    grains = [writer.pack(offset + at, data[at : at + GRAIN]) or b"" for at in range(0, len(data), GRAIN)]
    file, place = writer.place_packed(offset, [len(grain) for grain in grains])
    file.write_all_at(place, grains)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"])
@pytest.mark.parametrize("zeroed_grain", ["on", "off"])
@pytest.mark.parametrize("seed", [1, 2])
def test_chain(run: Run, tmp_path: Path, flat: Flat, subformat: str, zeroed_grain: str, seed: int) -> None:
    """An image and two deltas on it, over the bound of a grain table."""
    generator = random.Random(seed)
    disk = bytearray(generator.choice((40 << 20, (34 << 20) + 1024)))
    options = {"subformat": subformat, "zeroed_grain": zeroed_grain}
    for name in ("0.vmdk", "1.vmdk", "2.vmdk"):
        output = Output(tmp_path / name)
        writer = create_writer("vmdk", output, len(disk), options)
        fill_at_random(writer, disk, generator)
        writer.finish()
        output.publish()
        assert flat(tmp_path / name) == disk
        run("qemu-img", "check", tmp_path / name)
        with DiskReader.open(tmp_path / name) as reader:
            assert bytes(reader.read(0, len(disk))) == disk
            assert reader.check()["check-errors"] == 0 and "corruptions" not in reader.check()
        options["backing_file"] = name


@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_placing_again_finds_the_same_places(tmp_path: Path, subformat: str) -> None:
    """What an interrupted conversion is resumed by."""
    size = 5 << 30

    def places(path: Path) -> list[tuple[int, int, int]]:
        output = Output(path)
        writer = create_writer("vmdk", output, size, {"subformat": subformat})
        found = [
            (placement.start, placement.length, placement.offset)
            for start in range(0, size, 300 << 20)
            for placement in writer.place(start, min(size - start, 200 << 20))
        ]
        output.discard()
        return found

    assert places(tmp_path / "one.vmdk") == places(tmp_path / "two.vmdk")
