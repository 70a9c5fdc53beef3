"""What initial ramfs images are compressed with, told by the first bytes.

gzip (RFC 1952), xz, lzma ("LZMA alone"), bzip2, zstd (RFC 8878); lz4 in its legacy format, blocks of 8 MiB
(lz4's Frame format description); lzop, whose header and blocks lzop's own format has.
Each decoder yields pieces of some MiB at most, and leaves the file at the end of what it read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.detectors.linux.initramfs.reader import DeviceReader, ends_within

Decoder = Callable[[DeviceReader], Iterator[bytes]]

_PIECE_BYTES = 1 << 20
# xz -9 and lzma -9 need 65 MiB; what a kernel can afford at boot is not much more.
_MAX_LZMA_BYTES = 256 << 20
_MAX_ZSTD_WINDOW_BYTES = 128 << 20  # what zstd reads without being asked to
_LZ4_BLOCK_BYTES = 8 << 20
_LZ4_MAX_STORED_BYTES = _LZ4_BLOCK_BYTES + _LZ4_BLOCK_BYTES // 255 + 16
_LZO_MAX_BLOCK_BYTES = 64 << 20  # lzop's MAX_BLOCK_SIZE
_U32LE = struct.Struct("<I")
_U32BE = struct.Struct(">I")
_LZ4_LEGACY_MAGIC = 0x184C2102
_ZSTD_RLE_BLOCK = 1


def decoder(magic: bytes, offset: int) -> Decoder:
    """For a file that goes on with `magic` at `offset`."""
    for start, found in _DECODERS:
        if magic.startswith(start):
            return found
    if magic.startswith(b"\x04\x22\x4d\x18"):
        raise UnsupportedFeature("lz4 in its frame format, which no kernel reads", feature="lz4 frame")
    raise InvalidFormat(f"neither cpio nor compressed: {magic!r}", structure="initramfs", offset=offset)


def _gzip(source: DeviceReader) -> Iterator[bytes]:
    library: Any = zlib
    try:
        from isal import isal_zlib as library
    except ImportError:
        pass
    stream = library.decompressobj(wbits=31)
    start = source.position
    while not stream.eof:
        data = stream.unconsumed_tail or source.chunk()
        if not data:
            raise ends_within("gzip stream", start)
        try:
            yield stream.decompress(data, _PIECE_BYTES)
        except (library.error, zlib.error) as error:
            raise InvalidFormat(str(error), structure="gzip stream", offset=start) from error
    source.position -= len(stream.unused_data)


def _xz(source: DeviceReader) -> Iterator[bytes]:
    import lzma

    return _lzma(source, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_LZMA_BYTES), "xz stream")


def _lzma_alone(source: DeviceReader) -> Iterator[bytes]:
    import lzma

    return _lzma(source, lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_LZMA_BYTES), "lzma stream")


def _bzip2(source: DeviceReader) -> Iterator[bytes]:
    import bz2

    return _lzma(source, bz2.BZ2Decompressor(), "bzip2 stream")


def _lzma(source: DeviceReader, stream: Any, structure: str) -> Iterator[bytes]:
    """What a decompressor of the modules lzma and bz2 makes."""
    import lzma

    start = source.position
    while not stream.eof:
        data = source.chunk() if stream.needs_input else b""
        if stream.needs_input and not data:
            raise ends_within(structure, start)
        try:
            yield stream.decompress(data, _PIECE_BYTES)
        except (lzma.LZMAError, OSError, ValueError) as error:
            raise InvalidFormat(str(error), structure=structure, offset=start) from error
    source.position -= len(stream.unused_data)


def _zstd(source: DeviceReader) -> Iterator[bytes]:
    """A frame, block by block, of which none makes more than 128 KiB."""
    import zstandard

    from guestctl.disk.formats.compressed.zstd import parse_header

    start = source.position
    header = parse_header(source.peek(18))
    if header is None:
        raise ends_within("zstd frame", start)
    stream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES).decompressobj()
    try:
        stream.decompress(source.take(header.length, "zstd frame"))
        last = 0
        while not last:
            block = source.take(3, "zstd block")
            fields = int.from_bytes(block, "little")
            last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
            yield stream.decompress(block + source.take(1 if kind == _ZSTD_RLE_BLOCK else size, "zstd block"))
        if header.has_checksum:
            yield stream.decompress(source.take(4, "zstd frame"))
    except zstandard.ZstdError as error:
        raise InvalidFormat(str(error), structure="zstd frame", offset=start) from error


def _lz4(source: DeviceReader) -> Iterator[bytes]:
    """Each block begins with its size; the end of the file, 0, or what is no size ends them."""
    import lz4.block

    source.take(_U32LE.size, "lz4 magic")
    while len(field := source.peek(_U32LE.size)) == _U32LE.size:
        (size,) = _U32LE.unpack(field)
        if size == _LZ4_LEGACY_MAGIC or not size:
            return
        offset = source.position
        if size > _LZ4_MAX_STORED_BYTES:
            raise InvalidFormat(f"a block of {size} bytes", structure="lz4 block", offset=offset)
        source.skip(_U32LE.size, "lz4 block")
        stored = source.take(size, "lz4 block")
        try:
            yield lz4.block.decompress(stored, uncompressed_size=_LZ4_BLOCK_BYTES)
        except lz4.block.LZ4BlockError as error:
            raise InvalidFormat(str(error), structure="lz4 block", offset=offset) from error


# Flags of an lzop header.
_ADLER32_D, _ADLER32_C, _EXTRA_FIELD, _CRC32_D, _CRC32_C, _FILTER = 0x1, 0x2, 0x40, 0x100, 0x200, 0x800
_LZOP_LEVEL_VERSION = 0x0940  # since when there are a needed version, a level, and a time of 64 bits


def _lzop(source: DeviceReader) -> Iterator[bytes]:
    from lzallright import LZOCompressor, LZOError

    flags = _lzop_header(source)
    while True:
        offset = source.position
        (size,) = _U32BE.unpack(source.take(4, "lzop block"))
        if not size:
            return
        (stored,) = _U32BE.unpack(source.take(4, "lzop block"))
        if not 0 < stored <= size <= _LZO_MAX_BLOCK_BYTES:
            raise InvalidFormat(f"{stored} bytes that hold {size}", structure="lzop block", offset=offset)
        checksums = _ADLER32_D | _CRC32_D | (_ADLER32_C | _CRC32_C if stored < size else 0)
        source.skip(4 * (flags & checksums).bit_count(), "lzop block")
        data = source.take(stored, "lzop block")
        try:
            content = data if stored == size else LZOCompressor.decompress(data, size)
        except LZOError as error:
            raise InvalidFormat(f"LZO: {error}", structure="lzop block", offset=offset) from error
        if len(content) != size:
            raise InvalidFormat(f"{len(content)} bytes instead of {size}", structure="lzop block", offset=offset)
        yield content


def _lzop_header(source: DeviceReader) -> int:
    """The flags; the position of `source` goes to the first block."""
    source.skip(9, "lzop header")  # magic
    version, _library = struct.unpack(">HH", source.take(4, "lzop header"))
    has_level = version >= _LZOP_LEVEL_VERSION
    source.skip(4 if has_level else 1, "lzop header")  # version needed, method, level
    flags: int = _U32BE.unpack(source.take(4, "lzop header"))[0]
    # filter, mode, times
    source.skip((4 if flags & _FILTER else 0) + (12 if has_level else 8), "lzop header")
    source.skip(source.take(1, "lzop header")[0] + 4, "lzop header")  # name, checksum
    if flags & _EXTRA_FIELD:
        source.skip(_U32BE.unpack(source.take(4, "lzop extra field"))[0] + 4, "lzop extra field")
    return flags


_DECODERS: tuple[tuple[bytes, Decoder], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"\x5d\0\0", _lzma_alone),
    (b"BZh", _bzip2),
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x89LZO\0\r\n\x1a\n", _lzop),
)
