"""What SquashFS compresses with: gzip (zlib streams), lzma (LZMA-alone), lzo, xz, lz4 and zstd.

Each function takes the stored bytes and the most that they may hold, and gives the content; it
raises `ValueError` where they hold something else. None produces more than it may, but for LZO,
which has no such limit, and makes at most 255 bytes of one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from guestctl.block.device import Buffer
from guestctl.core.errors import UnsupportedFeature

Decompress = Callable[[Buffer, int], bytes]

# A dictionary has the size of a block, of at most 1 MiB; the decoder's own tables are small.
_MAX_LZMA_BYTES = 16 << 20
_MAX_ZSTD_WINDOW_BYTES = 8 << 20


def decompressor(compression: int) -> Decompress:
    """For the number in the superblock; raises `UnsupportedFeature` for one that is not known."""
    make = _METHODS.get(compression)
    if make is None:
        raise UnsupportedFeature(f"SquashFS compression {compression} is not known", feature="compression")
    return make()


def _gzip() -> Decompress:
    library: Any = zlib
    try:
        from isal import isal_zlib as library
    except ImportError:
        pass
    errors = (library.error, zlib.error)

    def decompress(data: Buffer, limit: int) -> bytes:
        stream = library.decompressobj()
        try:
            content: bytes = stream.decompress(data, limit + 1)  # one more, to come to the checksum
        except errors as error:
            raise ValueError(error) from error
        if not stream.eof or len(content) > limit:
            raise ValueError("the zlib stream does not end where it should")
        return content

    return decompress


def _lzma_family(name: str) -> Decompress:
    import lzma

    container = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE

    def decompress(data: Buffer, limit: int) -> bytes:
        stream = lzma.LZMADecompressor(container, memlimit=_MAX_LZMA_BYTES)
        try:
            content = stream.decompress(data, limit + 1)
        except lzma.LZMAError as error:
            raise ValueError(f"{name}: {error}") from error
        if len(content) > limit or not stream.eof:
            raise ValueError(f"the {name} stream does not end where it should")
        return content

    return decompress


def _lzo() -> Decompress:
    from lzallright import LZOCompressor, LZOError

    def decompress(data: Buffer, limit: int) -> bytes:
        try:
            content = LZOCompressor.decompress(bytes(data), limit)
        except LZOError as error:
            raise ValueError(f"LZO: {error}") from error
        if len(content) > limit:
            raise ValueError(f"LZO: {len(content)} bytes instead of {limit}")
        return content

    return decompress


def _lz4() -> Decompress:
    import lz4.block

    def decompress(data: Buffer, limit: int) -> bytes:
        try:
            content: bytes = lz4.block.decompress(data, uncompressed_size=limit)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(f"LZ4: {error}") from error
        return content

    return decompress


def _zstd() -> Decompress:
    import threading

    import zstandard

    local = threading.local()  # one decompressor must not serve two threads at once

    def decompress(data: Buffer, limit: int) -> bytes:
        engine = getattr(local, "engine", None)
        if engine is None:
            engine = local.engine = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
        try:
            if zstandard.frame_content_size(data) > limit:
                raise ValueError("the zstd frame holds more than a block")
            content: bytes = engine.decompress(data, max_output_size=limit)
        except zstandard.ZstdError as error:
            raise ValueError(error) from error
        return content

    return decompress


_METHODS: dict[int, Callable[[], Decompress]] = {
    1: _gzip,
    2: lambda: _lzma_family("lzma"),
    3: _lzo,
    4: lambda: _lzma_family("xz"),
    5: _lz4,
    6: _zstd,
}
