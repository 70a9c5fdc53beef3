"""Filling a new image through its `ImageWriter`, as simply as can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from guestctl.block import Output
from guestctl.disk.writer import ImageWriter, create_writer


def write_image(
    path: Path, format: str, content: bytes | memoryview, options: Mapping[str, str] | None = None, *, batch: int = 7
) -> ImageWriter:
    """Make an image at `path` that holds `content`; whole units of zeros are handed over as such.

    Packed units go in batches of `batch`, other data in runs.
    """
    output = Output(path)
    try:
        writer = create_writer(format, output, len(content), options)
        fill(writer, memoryview(content), batch)
        writer.finish()
        output.publish()
    except BaseException:
        output.discard()
        raise
    return writer


def fill(writer: ImageWriter, content: memoryview, batch: int) -> None:
    for start, end, is_zero in _runs(content, writer.unit):
        if is_zero:
            writer.zero(start, end - start)
        elif writer.packs:
            _fill_packed(writer, content, start, end, batch)
        else:
            _fill_plain(writer, content, start, end)


def _fill_plain(writer: ImageWriter, content: memoryview, start: int, end: int) -> None:
    position = start
    for placement in writer.place(start, end - start):
        assert placement.start == position and placement.length > 0
        position += placement.length
        placement.file.write_at(placement.offset, content[placement.start : position])
    assert position == end


def _fill_packed(writer: ImageWriter, content: memoryview, start: int, end: int, batch: int) -> None:
    packed: list[bytes] = []
    first = start
    for offset in range(start, end, writer.unit):
        unit = writer.pack(offset, content[offset : min(end, offset + writer.unit)])
        if unit is not None:
            packed.append(unit)
        if packed and (unit is None or len(packed) == batch or offset + writer.unit >= end):
            file, place = writer.place_packed(first, [len(part) for part in packed])
            file.write_all_at(place, packed)
            first += len(packed) * writer.unit
            packed = []
        if unit is None:
            _fill_plain(writer, content, offset, min(end, offset + writer.unit))
            first = offset + writer.unit


def _runs(content: memoryview, unit: int) -> Iterator[tuple[int, int, bool]]:
    """Start, end and nature of the ranges of whole units that are zeros or not."""
    start = 0
    state = None
    for offset in range(0, len(content), unit):
        is_zero = not any(content[offset : offset + unit])
        if is_zero is not state:
            if state is not None:
                yield start, offset, state
            start, state = offset, is_zero
    if state is not None:
        yield start, len(content), state
