"""The payload of DATA objects: ``FIELD=value``, as it is, or an xz stream, an lz4 block, a zstd frame."""

from __future__ import annotations

import struct

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.journal import layout

# journald takes up to 768 MiB, for core dumps of its early days; a field of text has no use for a tenth of it.
MAX_BYTES = 64 << 20
_LZ4_SIZE = struct.Struct("<Q")


def decompress(flags: int, data: memoryview, offset: int) -> bytes:
    """The payload of the object at `offset`, of which `flags` say how it is compressed."""
    try:
        kind, codec = _CODECS[flags]
    except KeyError:
        raise _invalid(f"unknown object flags {flags:#x}", offset) from None
    if len(data) > MAX_BYTES:
        raise _invalid(f"{len(data)} bytes of {kind}", offset)
    plain = codec(data, offset)
    if len(plain) > MAX_BYTES:
        raise _invalid(f"a field larger than {MAX_BYTES} bytes", offset)
    return plain


def _xz(data: memoryview, offset: int) -> bytes:
    import lzma

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_BYTES)
    try:
        plain = stream.decompress(data, MAX_BYTES + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise _invalid(f"xz: {error}", offset) from None
    if not stream.eof and len(plain) <= MAX_BYTES:
        raise _invalid("the xz stream has no end", offset)
    return plain


def _lz4(data: memoryview, offset: int) -> bytes:
    import lz4.block

    if len(data) <= _LZ4_SIZE.size:
        raise _invalid("no lz4 block", offset)
    (size,) = _LZ4_SIZE.unpack_from(data)
    # A block grows to 255 times its size at most.
    if size > min(MAX_BYTES, 255 * len(data)):
        raise _invalid(f"{size} bytes of lz4", offset)
    try:
        plain: bytes = lz4.block.decompress(data[_LZ4_SIZE.size :], uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise _invalid(f"lz4: {error}", offset) from None
    return plain


def _zstd(data: memoryview, offset: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_BYTES).stream_reader(data) as reader:
            return reader.read(MAX_BYTES + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise _invalid(f"zstd: {error}", offset) from None


_CODECS = {
    layout.OBJECT_COMPRESSED_XZ: ("xz", _xz),
    layout.OBJECT_COMPRESSED_LZ4: ("lz4", _lz4),
    layout.OBJECT_COMPRESSED_ZSTD: ("zstd", _zstd),
}


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="journal data object", offset=offset)
