"""Zstandard (RFC 8878): frames, and the seek table of the "Zstandard Seekable Format", version 0.1.0.

Without a seek table the headers of the frames and of their blocks tell where frames begin and what they hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.core.progress import Progress
from guestctl.disk.formats.compressed.units import MAX_UNITS, Unit, Units

FRAME_MAGIC = 0xFD2FB528
SKIPPABLE_MAGIC = 0x184D2A50  # to ...5F
SEEK_TABLE_MAGIC = 0x184D2A5E
SEEKABLE_MAGIC = 0x8F92EAB1
SKIPPABLE_HEADER = struct.Struct("<II")  # Magic_Number, Frame_Size
SEEK_TABLE_FOOTER = struct.Struct("<IBI")  # Number_Of_Frames, Seek_Table_Descriptor, Seekable_Magic_Number

_PIECE_BYTES = 1 << 20
_INPUT_BYTES = 256 << 10
_MAX_HEADER_BYTES = 18
_RLE_BLOCK = 1
# What the zstd tool reads without being asked to.
_MAX_WINDOW_BYTES = 128 << 20
# Blocks whose headers are looked at when a file is opened. One has up to 128 KiB of content, so this is 256 GiB.
_MAX_BLOCKS = 1 << 21


class FrameHeader(NamedTuple):
    length: int
    content_size: int | None
    window_size: int
    has_checksum: bool


class ZstdFile:
    """The frames of a file. ``units`` is None where not all of them say what they hold."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self.units = _read_seek_table(device)
        if self.units is None:
            self.units = _find_frames(device)

    def content(self, unit: Unit) -> Iterator[bytes]:
        """The content of a frame, in pieces."""
        return self._frames(unit.offset, unit.offset + unit.length)

    def whole(self, progress: Progress) -> Iterator[bytes]:
        """The content of all frames, in pieces."""
        return self._frames(0, self._device.size, progress)

    def _frames(self, offset: int, end: int, progress: Progress | None = None) -> Iterator[bytes]:
        while offset < end:
            header = _read_header(self._device, offset, end)
            if isinstance(header, int):
                offset += header
                continue
            stop, _ = _end_of_frame(self._device, offset, end, header)
            yield from self._frame(offset, stop, header, progress)
            offset = stop

    def _frame(self, offset: int, end: int, header: FrameHeader, progress: Progress | None) -> Iterator[bytes]:
        import zstandard

        if header.window_size > _MAX_WINDOW_BYTES:
            feature = f"zstd window of {header.window_size} bytes"
            raise UnsupportedFeature(f"{feature} (at most {_MAX_WINDOW_BYTES} are read)", feature=feature)
        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        source: Any = _Source(self._device, offset, end, progress)
        reader = decoder.stream_reader(source, read_size=_INPUT_BYTES)
        done = 0
        try:
            while piece := reader.read(_PIECE_BYTES):
                done += len(piece)
                yield piece
        except zstandard.ZstdError as error:
            raise _invalid(str(error), "zstd frame", offset) from error
        if header.content_size not in (None, done):
            raise _invalid(f"it holds {done} bytes, its header says {header.content_size}", "zstd frame", offset)


class _Source:
    """A range of the file as zstandard reads it."""

    def __init__(self, device: BlockDevice, position: int, end: int, progress: Progress | None) -> None:
        self._device = device
        self._position = position
        self._end = end
        self._progress = progress

    def read(self, size: int) -> bytes:
        length = min(size, self._end - self._position)
        data = bytes(self._device.read(self._position, length))
        self._position += length
        if self._progress is not None:
            self._progress.update(self._position, self._device.size)
        return data


def _read_seek_table(device: BlockDevice) -> Units | None:
    """The frames that the table at the end of the file lists."""
    footer_offset = device.size - SEEK_TABLE_FOOTER.size
    if footer_offset < SKIPPABLE_HEADER.size:
        return None
    count, descriptor, magic = SEEK_TABLE_FOOTER.unpack(device.read(footer_offset, SEEK_TABLE_FOOTER.size))
    if magic != SEEKABLE_MAGIC:
        return None
    entry_bytes = 12 if descriptor & 0x80 else 8  # Checksum_Flag
    table_offset = footer_offset - count * entry_bytes
    offset = table_offset - SKIPPABLE_HEADER.size
    expected = (SEEK_TABLE_MAGIC, count * entry_bytes + SEEK_TABLE_FOOTER.size)
    if offset < 0 or SKIPPABLE_HEADER.unpack(device.read(offset, SKIPPABLE_HEADER.size)) != expected:
        raise _invalid(f"no frame that holds {count} entries", "zstd seek table", max(0, offset))
    if count > MAX_UNITS:
        raise UnsupportedFeature(f"zstd with more than {MAX_UNITS} frames", feature="many frames")
    # Compressed_Size, Decompressed_Size, Checksum: the frames have their own, too.
    table = struct.Struct("<II4x" if entry_bytes == 12 else "<II").iter_unpack(
        bytes(device.read(table_offset, count * entry_bytes))
    )
    units = Units()
    start = 0
    for compressed_size, decompressed_size in table:
        units.append(decompressed_size, start, compressed_size)
        start += compressed_size
    if start != offset:
        raise _invalid(f"frames of {start} bytes lie before {offset}", "zstd seek table", table_offset)
    return units


def _find_frames(device: BlockDevice) -> Units | None:
    """The frames, found by the headers of their blocks; None where one does not say what it holds."""
    units = Units()
    offset = blocks = 0
    while offset < device.size:
        header = _read_header(device, offset, device.size)
        if isinstance(header, int):
            offset += header
            blocks += 1
            continue
        if header.content_size is None:
            return None
        end, count = _end_of_frame(device, offset, device.size, header, _MAX_BLOCKS - blocks)
        blocks += count
        if blocks > _MAX_BLOCKS:
            return None
        units.append(header.content_size, offset, end - offset)
        offset = end
    return units


def _read_header(device: BlockDevice, offset: int, end: int) -> FrameHeader | int:
    """The header of the frame at `offset`, or how long a skippable frame there is."""
    data = bytes(device.read(offset, min(_MAX_HEADER_BYTES, end - offset)))
    magic = int.from_bytes(data[:4], "little")
    if magic & ~0xF == SKIPPABLE_MAGIC and len(data) >= SKIPPABLE_HEADER.size:
        length: int = SKIPPABLE_HEADER.size + SKIPPABLE_HEADER.unpack_from(data)[1]
        if offset + length > end:
            raise _invalid("it does not end in the file", "zstd skippable frame", offset)
        return length
    if magic != FRAME_MAGIC:
        raise _invalid(f"magic is {magic:#x}", "zstd frame", offset)
    header = parse_header(data)
    if header is None:
        raise _invalid("the file ends in its header", "zstd frame", offset)
    return header


def parse_header(data: bytes) -> FrameHeader | None:
    """The header at the start of `data`, or None where that is too short."""
    if len(data) < 6:
        return None
    descriptor, position = data[4], 5
    if descriptor & 0x08:
        raise UnsupportedFeature("zstd frame with the reserved bit", feature="zstd reserved bit")
    single_segment = bool(descriptor & 0x20)
    window_size = 0
    if not single_segment:
        base = 1 << 10 + (data[position] >> 3)
        window_size = base + (base >> 3) * (data[position] & 7)
        position += 1
    id_bytes = (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    if len(data) < position + id_bytes + size_bytes:
        return None
    if any(data[position : position + id_bytes]):
        raise UnsupportedFeature("zstd with a dictionary", feature="zstd dictionary")
    position += id_bytes
    content_size = None
    if size_bytes:
        content_size = int.from_bytes(data[position : position + size_bytes], "little")
        content_size += 256 if size_bytes == 2 else 0
    if single_segment:
        assert content_size is not None
        window_size = content_size
    return FrameHeader(position + size_bytes, content_size, window_size, bool(descriptor & 4))


def _end_of_frame(
    device: BlockDevice, offset: int, end: int, header: FrameHeader, max_blocks: int | None = None
) -> tuple[int, int]:
    """Where the frame at `offset` ends, and how many blocks it has; it is given up after `max_blocks`."""
    position = offset + header.length
    blocks = 0
    while position + 3 <= end:
        block = int.from_bytes(device.read(position, 3), "little")
        kind = block >> 1 & 3
        position += 3 + (1 if kind == _RLE_BLOCK else block >> 3)
        blocks += 1
        if block & 1:
            position += 4 if header.has_checksum else 0
            if position <= end:
                return position, blocks
            break
        if max_blocks is not None and blocks > max_blocks:
            return position, blocks
    raise _invalid("it does not end in the file", "zstd frame", offset)


def _invalid(message: str, structure: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
