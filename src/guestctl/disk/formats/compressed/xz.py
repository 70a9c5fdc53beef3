"""xz (".xz file format", version 1.2.1): streams of blocks, each stream with an index of its blocks at its end.

All sizes come from the indexes. A block is decompressed as the only one of a stream that is made for it, so that
liblzma itself verifies its header, its size and its check.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.compressed.units import MAX_UNITS, Unit, Units

HEADER_MAGIC = b"\xfd7zXZ\0"
FOOTER_MAGIC = b"YZ"
HEADER_BYTES = 12  # of a stream's header, and of its footer
FOOTER = struct.Struct("<II2s2s")  # CRC32, Backward Size, Stream Flags, Footer Magic Bytes
_PIECE_BYTES = 1 << 20
_INPUT_BYTES = 256 << 10
_MAX_PADDING_BYTES = 16 << 20
# What liblzma may use for one block, a little more than its largest dictionary in use (xz -9 has 64 MiB).
_MEMORY_BYTES = 1 << 30


class _Stream(NamedTuple):
    offset: int
    flags: bytes
    sizes: array[int]  # Unpadded Size and Uncompressed Size of each block in turn


class XzFile:
    """The blocks of a file, from its indexes."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self.units = Units()
        self._flags: list[bytes] = []
        self._first_units: list[int] = []  # of the streams
        self._unpadded: array[int] = array("B")  # how many bytes of padding are before each block's check
        for stream in _read_streams(device):
            self._flags.append(stream.flags)
            self._first_units.append(len(self.units))
            offset = stream.offset + HEADER_BYTES
            sizes = iter(stream.sizes)
            for unpadded, size in zip(sizes, sizes, strict=True):
                length = unpadded + 3 & ~3
                self.units.append(size, offset, length)
                if size:
                    self._unpadded.append(length - unpadded)
                offset += length

    def content(self, unit: Unit) -> Iterator[bytes]:
        """The content of a block, in pieces."""
        flags = self._flags[bisect_right(self._first_units, unit.number) - 1]
        index = encode_index([(unit.length - self._unpadded[unit.number], unit.size)])
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
        for data in (build_header(flags), *self._input(unit), index, build_footer(flags, len(index))):
            yield from _decompress(decoder, data, unit)
        if not decoder.eof:
            raise InvalidFormat("it does not end", structure="xz block", offset=unit.offset)

    def _input(self, unit: Unit) -> Iterator[bytes]:
        for done in range(0, unit.length, _INPUT_BYTES):
            yield bytes(self._device.read(unit.offset + done, min(_INPUT_BYTES, unit.length - done)))


def _decompress(decoder: lzma.LZMADecompressor, data: bytes, unit: Unit) -> Iterator[bytes]:
    while True:
        if decoder.eof:
            raise InvalidFormat("it ends before its size says", structure="xz block", offset=unit.offset)
        try:
            piece = decoder.decompress(data, _PIECE_BYTES)
        except lzma.LZMAError as error:
            if "Memory usage limit" in str(error):
                feature = f"xz block that needs more than {_MEMORY_BYTES} bytes of memory"
                raise UnsupportedFeature(feature, feature=feature) from error
            raise InvalidFormat(f"{error}", structure="xz block", offset=unit.offset) from error
        if piece:
            yield piece
        if decoder.needs_input or decoder.eof:
            return
        data = b""


def _read_streams(device: BlockDevice) -> list[_Stream]:
    """The streams in order; they are found from the end of the file."""
    streams: list[_Stream] = []
    end = device.size
    records = 0
    while end:
        end = _before_padding(device, end)
        stream = _read_stream(device, end)
        records += len(stream.sizes) // 2
        if records > MAX_UNITS or len(streams) >= MAX_UNITS:
            raise UnsupportedFeature(f"xz with more than {MAX_UNITS} blocks", feature="many blocks")
        streams.append(stream)
        end = stream.offset
    return streams[::-1]


def _before_padding(device: BlockDevice, end: int) -> int:
    """Stream Padding is zeros, four at a time."""
    start = end
    while end:
        length = min(end, 4096)
        data = bytes(device.read(end - length, length))
        end -= length - len(data.rstrip(b"\0"))
        if data.strip(b"\0"):
            break
        if start - end > _MAX_PADDING_BYTES:
            raise InvalidFormat(f"more than {_MAX_PADDING_BYTES} bytes", structure="xz stream padding", offset=end)
    if (start - end) % 4 or not end:
        raise InvalidFormat(f"{start - end} bytes", structure="xz stream padding", offset=end)
    return end


def _read_stream(device: BlockDevice, end: int) -> _Stream:
    """The stream that ends at `end`."""
    footer_offset = end - HEADER_BYTES
    if footer_offset < HEADER_BYTES:
        raise _invalid("no room for a stream", "xz stream footer", max(0, footer_offset))
    footer = bytes(device.read(footer_offset, HEADER_BYTES))
    crc, backward_size, flags, magic = FOOTER.unpack(footer)
    if magic != FOOTER_MAGIC:
        raise _invalid(f"magic is {magic!r}: the file is truncated or damaged", "xz stream footer", footer_offset + 10)
    _check_crc(crc, footer[4:10], "xz stream footer", footer_offset)
    index_bytes = (backward_size + 1) * 4
    index_offset = footer_offset - index_bytes
    if index_offset < HEADER_BYTES:
        raise _invalid(f"an index of {index_bytes} bytes is not in the file", "xz stream footer", footer_offset + 4)
    sizes, blocks_bytes = _parse_index(bytes(device.read(index_offset, index_bytes)), index_offset)
    offset = index_offset - blocks_bytes - HEADER_BYTES
    if offset < 0:
        raise _invalid(f"blocks of {blocks_bytes} bytes are not in the file", "xz index", index_offset)
    header = bytes(device.read(offset, HEADER_BYTES))
    if header[:6] != HEADER_MAGIC:
        raise _invalid("magic is not there", "xz stream header", offset)
    if header[6:8] != flags:
        raise _invalid("its flags are not those of the footer", "xz stream header", offset + 6)
    _check_crc(int.from_bytes(header[8:], "little"), flags, "xz stream header", offset)
    return _Stream(offset, flags, sizes)


def _parse_index(data: bytes, offset: int) -> tuple[array[int], int]:
    """Unpadded and uncompressed sizes in turn, and the bytes of all blocks."""
    _check_crc(int.from_bytes(data[-4:], "little"), data[:-4], "xz index", offset)
    values = parse_numbers(data[1:-4], offset + 1)
    count = next(values, -1)
    if data[0] or count < 0:
        raise _invalid("no index indicator", "xz index", offset)
    if count > MAX_UNITS:
        raise UnsupportedFeature(f"xz with more than {MAX_UNITS} blocks", feature="many blocks")
    sizes = array("Q")
    blocks_bytes = 0
    for _ in range(count):
        unpadded, size = next(values, 0), next(values, -1)
        if unpadded < 5 or size < 0:
            raise _invalid(f"a block of {unpadded} bytes", "xz index", offset)
        sizes.extend((unpadded, size))
        blocks_bytes += unpadded + 3 & ~3
    return sizes, blocks_bytes


def parse_numbers(data: bytes, offset: int) -> Iterator[int]:
    """Multibyte integers: seven bits in each byte, the low ones first."""
    value = shift = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 56:
                raise _invalid("an integer of more than nine bytes", "xz index", offset + position)
        else:
            yield value
            value = shift = 0


def encode_number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_index(records: list[tuple[int, int]]) -> bytes:
    """The index of blocks with these unpadded and uncompressed sizes."""
    parts = [b"\0", encode_number(len(records))]
    parts += [encode_number(value) for record in records for value in record]
    return close_index(b"".join(parts))


def close_index(content: bytes) -> bytes:
    """The index with its padding and its checksum."""
    content += bytes(-len(content) % 4)
    return content + zlib.crc32(content).to_bytes(4, "little")


def build_header(flags: bytes) -> bytes:
    return HEADER_MAGIC + flags + zlib.crc32(flags).to_bytes(4, "little")


def build_footer(flags: bytes, index_bytes: int) -> bytes:
    covered = (index_bytes // 4 - 1).to_bytes(4, "little") + flags
    return zlib.crc32(covered).to_bytes(4, "little") + covered + FOOTER_MAGIC


def _check_crc(expected: int, data: bytes, structure: str, offset: int) -> None:
    actual = zlib.crc32(data)
    if actual != expected:
        raise ChecksumMismatch(structure=structure, offset=offset, expected=expected, actual=actual)


def _invalid(message: str, structure: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
