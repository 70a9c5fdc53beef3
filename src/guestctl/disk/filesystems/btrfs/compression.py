"""Compressed extents: zlib, LZO in pieces of a sector, and zstd.

The compressed bytes of an extent on disk fill whole sectors, so that each method must find its own
end. What an extent holds decompressed is given by ``ram_bytes`` and never more than 128 KiB, so
that no input makes us produce more.
"""

from __future__ import annotations

import zlib
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.btrfs import layout as L

MAX_EXTENT_BYTES = 128 << 10
_MAX_ZSTD_WINDOW = 8 << 20
_WORD = 4


def decompress(kind: int, data: bytes, size: int, sectorsize: int, *, offset: int) -> bytes:
    """At most `size` bytes, padded with zeros to that many; `offset` is where the extent is, for messages."""
    try:
        decoder = _DECODERS[kind]
    except KeyError:
        raise InvalidFormat(f"compression is {kind}", structure="EXTENT_DATA", offset=offset) from None
    try:
        result = decoder(data, size, sectorsize)
    except ValueError as error:
        raise InvalidFormat(f"cannot be decompressed: {error}", structure="EXTENT_DATA", offset=offset) from error
    return result if len(result) == size else result[:size].ljust(size, b"\0")


def _zlib(data: bytes, size: int, sectorsize: int) -> bytes:
    library: Any = zlib
    try:
        from isal import isal_zlib as library
    except ImportError:
        pass
    try:
        return bytes(library.decompressobj().decompress(data, size))
    except library.error as error:
        raise ValueError(error) from error


def _zstd(data: bytes, size: int, sectorsize: int) -> bytes:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(data)
        return bytes(reader.read(size))
    except zstandard.ZstdError as error:
        raise ValueError(error) from error


def _lzo(data: bytes, size: int, sectorsize: int) -> bytes:
    """A total length, then segments of a length and that many bytes; no length lies across two sectors."""
    from lzallright import LZOCompressor, LZOError

    total = int.from_bytes(data[:_WORD], "little")
    if not _WORD < total <= len(data):
        raise ValueError(f"{total} bytes of LZO in {len(data)}")
    parts: list[bytes] = []
    position, produced = _WORD, 0
    while position + _WORD <= total and produced < size:
        length = int.from_bytes(data[position : position + _WORD], "little")
        position += _WORD
        if not length or position + length > total:
            raise ValueError(f"a segment of {length} bytes")
        try:
            part = LZOCompressor.decompress(data[position : position + length], sectorsize)
        except LZOError as error:
            raise ValueError(f"LZO: {error}") from error
        if len(part) > sectorsize:
            raise ValueError(f"a segment of {len(part)} bytes decompressed")
        parts.append(part)
        produced += len(part)
        position += length
        if -position % sectorsize < _WORD:
            position += -position % sectorsize
    return b"".join(parts)


_DECODERS = {L.COMPRESS_ZLIB: _zlib, L.COMPRESS_LZO: _lzo, L.COMPRESS_ZSTD: _zstd}
