"""Compressed clusters: raw deflate and zstd ("Compressed Clusters Descriptor", ``compression_type``).

A descriptor counts whole sectors, so the bytes handed to a decompressor end with others' data, or
early where the file ends; decompression stops with a full cluster. As in qemu, a deflate stream may
go on after that, a zstd frame may not, and neither may end before.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import Any

from guestctl.block.device import Buffer
from guestctl.disk.formats.qcow2 import layout

# qemu compresses with windows of up to a cluster; zstd asks every decoder to support this much.
_MAX_ZSTD_WINDOW_BYTES = 8 << 20

# qemu's window for deflate; a stream that reaches further back is not for its decoder.
_DEFLATE_WINDOW_BITS = 12
# By size and time of a whole guest: isal's level 3 makes 1 % less than level 1 and takes 60 % more time; zstd's
# level 2 makes 1 % more than qemu-img, and takes 15 % less time than level 3.
_ISAL_LEVEL = 1
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 2

Compress = Callable[[Buffer], bytes]
Decompress = Callable[[Buffer], bytes]


class DecompressionError(Exception):
    """The bytes are not a compressed cluster."""


def compressor(compression_type: int) -> Compress:
    """A thread-safe function from a whole cluster to its compressed bytes."""
    return _zstd_compressor() if compression_type == layout.COMPRESSION_ZSTD else _deflate_compressor()


def _deflate_compressor() -> Compress:
    try:
        from isal import igzip_lib
    except ImportError:
        return _zlib_compress

    def compress(data: Buffer) -> bytes:
        return igzip_lib.compress(data, _ISAL_LEVEL, igzip_lib.COMP_DEFLATE, hist_bits=_DEFLATE_WINDOW_BITS)

    return compress


def _zlib_compress(data: Buffer) -> bytes:
    engine = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, -_DEFLATE_WINDOW_BITS)
    return engine.compress(data) + engine.flush()


def _zstd_compressor() -> Compress:
    import zstandard

    local = threading.local()  # one compressor must not serve two threads at once

    def compress(data: Buffer) -> bytes:
        engine = getattr(local, "engine", None)
        if engine is None:
            engine = local.engine = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        compressed: bytes = engine.compress(data)
        return compressed

    return compress


def decompressor(compression_type: int, cluster_size: int) -> Decompress:
    """A thread-safe function from a cluster's compressed bytes to its content, or `DecompressionError`."""
    if compression_type == layout.COMPRESSION_ZSTD:
        return _zstd(cluster_size)
    return _deflate(cluster_size)


def _deflate(cluster_size: int) -> Decompress:
    library: Any
    try:
        from isal import isal_zlib as library
    except ImportError:
        library = zlib
    errors = (library.error, zlib.error)

    def decompress(data: Buffer) -> bytes:
        try:
            # qemu writes windows of 2**12; one of 2**15 reads these and other writers' too.
            content: bytes = library.decompressobj(wbits=-15).decompress(data, cluster_size)
        except errors as error:
            raise DecompressionError(str(error)) from error
        return _complete(content, cluster_size)

    return decompress


def _zstd(cluster_size: int) -> Decompress:
    import zstandard

    local = threading.local()  # one decompressor must not serve two threads at once

    def decompress(data: Buffer) -> bytes:
        engine = getattr(local, "engine", None)
        if engine is None:
            engine = local.engine = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
        try:
            if zstandard.frame_content_size(data) > cluster_size:
                raise DecompressionError("the frame holds more than a cluster")
            content: bytes = engine.decompress(data, max_output_size=cluster_size)
        except zstandard.ZstdError as error:
            raise DecompressionError(str(error)) from error
        return _complete(content, cluster_size)

    return decompress


def _complete(content: bytes, cluster_size: int) -> bytes:
    if len(content) != cluster_size:
        raise DecompressionError(f"{len(content)} bytes instead of {cluster_size}")
    return content
