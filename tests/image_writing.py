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


def fill(writer: ImageWriter, content: memoryview, batch: int, first: int = 0) -> None:
    """Hand over `content`, which lies at `first` on the disk."""
    for start, end, is_zero in _runs(content, writer.unit):
        if is_zero:
            writer.zero(first + start, end - start)
        elif writer.packs:
            _fill_packed(writer, content[start:end], first + start, batch)
        else:
            _fill_plain(writer, content[start:end], first + start)


def _fill_plain(writer: ImageWriter, content: memoryview, start: int) -> None:
    position = start
    for placement in writer.place(start, len(content)):
        assert placement.start == position and placement.length > 0
        position += placement.length
        placement.file.write_at(placement.offset, content[placement.start - start : position - start])
    assert position == start + len(content)


def _fill_packed(writer: ImageWriter, content: memoryview, start: int, batch: int) -> None:
    packed: list[bytes] = []
    for offset in range(0, len(content), writer.unit):
        data = content[offset : offset + writer.unit]
        unit = writer.pack(start + offset, data)
        if unit is not None:
            packed.append(unit)
        if packed and (unit is None or len(packed) == batch or offset + writer.unit >= len(content)):
            first = offset // writer.unit - len(packed) + (unit is not None)
            file, place = writer.place_packed(start + first * writer.unit, [len(part) for part in packed])
            file.write_all_at(place, packed)
            packed = []
        if unit is None:
            _fill_plain(writer, data, start + offset)


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
