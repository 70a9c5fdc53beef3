"""Raw disks in compressed files. Each unit is compressed for itself, so that they can be read at random.

gzip members, xz blocks of one stream, zstd frames. What is not handed over is zeros: these are compressed
once, in large units, and written as often as it takes.
"""

from __future__ import annotations

import lzma
import struct
import threading
import zlib
from abc import abstractmethod
from array import array
from collections.abc import Callable, Sequence

from guestctl.block.device import Buffer
from guestctl.block.output import Output, OutputFile
from guestctl.core.errors import ConversionError
from guestctl.disk.formats.compressed import xz, zstd
from guestctl.disk.writer import ImageWriter, Options, Placement

_SECTOR_BYTES = 512
_UNIT_BYTES = 1 << 20
_XZ_UNIT_BYTES = 4 << 20
_ZERO_UNIT_BYTES = 32 << 20
_WRITE_BYTES = 1 << 20


def create(output: Output, size: int, options: Options) -> CompressedWriter:
    """``level``: as in the tools; gzip has 0 to 3, which are those of igzip (3 makes more of whole guests than 2)."""
    size = -(-size // _SECTOR_BYTES) * _SECTOR_BYTES
    kind, levels, default = _KINDS[options.format]
    level = options.choice("level", {str(level): level for level in levels}, str(default))
    return kind(output, size, level)


class CompressedWriter(ImageWriter):
    """Puts packed units one after the other."""

    def __init__(self, output: Output, size: int, level: int) -> None:
        self.size = size
        self._file = output.main
        self._level = level
        self._next = 0  # byte of the disk up to which units are placed
        self._end = 0  # of the file
        self._packed_zeros: dict[int, bytes] = {}  # by length

    @property
    def packs(self) -> bool:
        return True

    @abstractmethod
    def pack(self, start: int, data: Buffer) -> bytes: ...

    def place(self, start: int, length: int) -> Sequence[Placement]:
        raise ConversionError(f"{self.format}: nothing is stored as it is")

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        self._write_zeros(start)
        place = self._end
        for size in sizes:
            length = min(self.unit, self.size - self._next)
            self._note(length, size, 1)
            self._next += length
        self._end += sum(sizes)
        return self._file, place

    def finish(self) -> None:
        self._write_zeros(self.size)
        if not self.size:
            self._write_units(0, 1)  # the magic must be there
        self._file.write_at(self._end, end := self._trailer())
        self._file.truncate(self._end + len(end))

    def _write_zeros(self, end: int) -> None:
        """Zeros from where the last unit ended."""
        while self._next < end:
            missing = end - self._next
            length = next(size for size in (_ZERO_UNIT_BYTES, self.unit, missing) if size <= missing)
            count = missing // length
            self._write_units(length, count)

    def _write_units(self, length: int, count: int) -> None:
        """Write `count` units of zeros."""
        packed = self._packed_zeros.get(length) or self.pack(self._next, bytes(length))
        self._packed_zeros[length] = packed
        at_once = min(count, max(1, _WRITE_BYTES // len(packed)))
        buffer = memoryview(packed * at_once)
        for done in range(0, count, at_once):
            part = min(at_once, count - done) * len(packed)
            self._file.write_at(self._end, buffer[:part])
            self._end += part
        self._note(length, len(packed), count)
        self._next += count * length

    def _note(self, length: int, packed: int, count: int) -> None:
        """`count` units of `length` bytes each have `packed` bytes in the file."""

    def _trailer(self) -> bytes:
        """What follows the last unit."""
        return b""


class GzipWriter(CompressedWriter):
    """A file of many members, which gzip and all others take for one."""

    format = "gz"
    unit = _UNIT_BYTES

    def __init__(self, output: Output, size: int, level: int) -> None:
        super().__init__(output, size, level)
        self._compress = _gzip_compressor(level)

    def pack(self, start: int, data: Buffer) -> bytes:
        return self._compress(data)


class XzWriter(CompressedWriter):
    """One stream. A block's header has its sizes, from which `finish` makes the index."""

    format = "xz"
    unit = _XZ_UNIT_BYTES
    _FLAGS = b"\0\x01"  # the check is a CRC32
    _LZMA2 = 0x21

    def __init__(self, output: Output, size: int, level: int) -> None:
        super().__init__(output, size, level)
        self._units: list[tuple[int, int, int]] = []  # runs: length, packed length, count
        self._end = xz.HEADER_BYTES
        dict_size = _XZ_UNIT_BYTES  # a power of two: two mantissa bits of zero
        self._filters = [{"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": dict_size}]
        self._properties = bytes(((dict_size.bit_length() - 13) * 2,))

    def pack(self, start: int, data: Buffer) -> bytes:
        content = lzma.compress(data, lzma.FORMAT_RAW, filters=self._filters)
        check = zlib.crc32(data).to_bytes(4, "little")
        return self._header(len(content), len(data)) + content + bytes(-len(content) % 4) + check

    def _header(self, packed: int, length: int) -> bytes:
        fields = b"\xc0" + xz.encode_number(packed) + xz.encode_number(length)
        fields += bytes((self._LZMA2, 1)) + self._properties
        fields += bytes(-(len(fields) + 1) % 4)
        header = bytes(((len(fields) + 1) // 4,)) + fields
        return header + zlib.crc32(header).to_bytes(4, "little")

    def _note(self, length: int, packed: int, count: int) -> None:
        if self._units and self._units[-1][:2] == (length, packed):
            count += self._units.pop()[2]
        self._units.append((length, packed, count))

    def _trailer(self) -> bytes:
        self._file.write_at(0, xz.build_header(self._FLAGS))
        records = bytearray()
        offset = xz.HEADER_BYTES
        count = 0
        for length, packed, repeated in self._units:
            for _ in range(repeated):
                records += self._record(offset, length)
                offset += packed
            count += repeated
        index = xz.close_index(b"\0" + xz.encode_number(count) + bytes(records))
        return index + xz.build_footer(self._FLAGS, len(index))

    def _record(self, offset: int, length: int) -> bytes:
        """The sizes of the block at `offset`, by its header."""
        header = self._file.read_at(offset, 32)
        packed = next(xz.parse_numbers(header[2:], offset + 2))
        return xz.encode_number((header[0] + 1) * 4 + packed + 4) + xz.encode_number(length)


class ZstdWriter(CompressedWriter):
    """Frames and a seek table."""

    format = "zst"
    unit = _UNIT_BYTES

    def __init__(self, output: Output, size: int, level: int) -> None:
        super().__init__(output, size, level)
        self._entries = array("I")  # compressed and decompressed sizes in turn
        self._local = threading.local()  # one compressor must not serve two threads at once

    def pack(self, start: int, data: Buffer) -> bytes:
        import zstandard

        engine = getattr(self._local, "engine", None)
        if engine is None:
            engine = zstandard.ZstdCompressor(level=self._level, write_checksum=True, write_content_size=True)
            self._local.engine = engine
        packed: bytes = engine.compress(data)
        return packed

    def _note(self, length: int, packed: int, count: int) -> None:
        self._entries.extend(array("I", (packed, length)) * count)

    def _trailer(self) -> bytes:
        table = struct.pack(f"<{len(self._entries)}I", *self._entries)
        footer = zstd.SEEK_TABLE_FOOTER.pack(len(self._entries) // 2, 0, zstd.SEEKABLE_MAGIC)
        return zstd.SKIPPABLE_HEADER.pack(zstd.SEEK_TABLE_MAGIC, len(table) + len(footer)) + table + footer


def _gzip_compressor(level: int) -> Callable[[Buffer], bytes]:
    try:
        from isal import igzip_lib
    except ImportError:
        return lambda data: _zlib_gzip(data, (1, 2, 4, 6)[level])
    return lambda data: igzip_lib.compress(data, level, igzip_lib.COMP_GZIP)


def _zlib_gzip(data: Buffer, level: int) -> bytes:
    engine = zlib.compressobj(level, zlib.DEFLATED, 31)
    return engine.compress(data) + engine.flush()


# By format: the writer, its levels, the one without an option.
_KINDS: dict[str, tuple[type[CompressedWriter], Sequence[int], int]] = {
    "gz": (GzipWriter, range(4), 1),
    "xz": (XzWriter, range(10), 6),
    "zst": (ZstdWriter, range(1, 20), 3),
}
