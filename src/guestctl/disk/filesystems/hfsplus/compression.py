"""Files that macOS compressed: the attribute ``com.apple.decmpfs``, whose header is little-endian, says how.

The bytes follow in the attribute itself, or lie in the resource fork, in chunks of 64 KiB. TN1150 is older than
these; what is read here is what macOS writes.
"""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import NamedTuple

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature

ATTRIBUTE = "com.apple.decmpfs"
_HEADER = struct.Struct("<4sIQ")  # magic, type, size of the file
_MAGIC = b"fpmc"
_STORED, _ZLIB_INLINE, _ZLIB_FORK, _STORED_INLINE = 1, 3, 4, 9
_REFUSED = {5: "de-duplicated", 7: "LZVN", 8: "LZVN", 10: "uncompressed chunks", 11: "LZFSE", 12: "LZFSE"}
_REFUSED |= {13: "LZBITMAP", 14: "LZBITMAP"}
_CHUNK_BYTES = 64 << 10
_MAX_INLINE_BYTES = _CHUNK_BYTES
# Of the resource fork: where its data begins (big-endian), after which come a length, the count of chunks and their
# places, which count from the count.
_RESOURCE_DATA = struct.Struct(">I")
_CHUNK_COUNT = struct.Struct("<4xI")
_CHUNK = struct.Struct("<II")
_STRUCTURE = "decmpfs"


class Compressed(NamedTuple):
    """The header of the attribute, and what follows it."""

    kind: int
    size: int
    data: bytes


def parse_attribute(value: bytes) -> Compressed:
    """Raises `InvalidFormat`."""
    if len(value) < _HEADER.size:
        raise _bad(f"{len(value)} bytes")
    magic, kind, size = _HEADER.unpack_from(value)
    if magic != _MAGIC or size >> 63:
        raise _bad(f"magic {magic!r}, {size} bytes")
    return Compressed(kind, size, value[_HEADER.size :])


def open_compressed(found: Compressed, resource_fork: BlockDevice) -> BlockDevice:
    """The bytes of the file. Raises `InvalidFormat` and `UnsupportedFeature`."""
    if found.kind == _ZLIB_FORK:
        return ZlibChunks(resource_fork, found.size)
    if found.kind in (_STORED, _STORED_INLINE):
        data = found.data[1:] if found.kind == _STORED_INLINE else found.data
    elif found.kind == _ZLIB_INLINE:
        if found.size > _MAX_INLINE_BYTES:
            raise _bad(f"{found.size} bytes in an attribute")
        data = _inflate(found.data, found.size) if found.size else b""
    else:
        feature = f"decmpfs {_REFUSED.get(found.kind, f'type {found.kind}')}"
        raise UnsupportedFeature(f"a file in {feature}", feature=feature)
    if len(data) != found.size:
        raise _bad(f"{len(data)} bytes of {found.size}")
    return MemoryDevice(data)


def _inflate(data: bytes, size: int) -> bytes:
    """A chunk; one that did not become smaller has 0x0F in its first byte and follows that."""
    if data[:1] and data[0] & 0x0F == 0x0F:
        return data[1:]
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(data, size)
    except zlib.error as error:
        raise _bad(str(error)) from error
    if len(found) != size:
        raise _bad(f"a chunk of {len(found)} bytes, not {size}")
    return found


class ZlibChunks(MappedDevice):
    """Chunks in a resource fork; the last few that were read are kept."""

    def __init__(self, fork: BlockDevice, size: int) -> None:
        self.size = size
        self._fork = fork
        if fork.size < _RESOURCE_DATA.size:
            raise _bad(f"a resource fork of {fork.size} bytes")
        (start,) = _RESOURCE_DATA.unpack(fork.read(0, _RESOURCE_DATA.size))
        count = -(-size // _CHUNK_BYTES)
        self._base = start + 4
        self._table = self._base + 4
        if self._table + count * _CHUNK.size > fork.size:
            raise _bad(f"{count} chunks in a resource fork of {fork.size} bytes")
        (found,) = _CHUNK_COUNT.unpack(fork.read(start, _CHUNK_COUNT.size))
        if found < count:
            raise _bad(f"{found} chunks of {count}")
        self._kept: dict[int, bytes] = {}

    def extent(self, offset: int) -> Extent:
        return Extent(0, self.size, self, 0)

    def compute(self, offset: int, length: int) -> Buffer:
        end = offset + length
        first, last = offset // _CHUNK_BYTES, -(-end // _CHUNK_BYTES)
        data = b"".join(map(self._chunk, range(first, last)))
        skip = offset - first * _CHUNK_BYTES
        return data[skip : skip + length]

    def _chunk(self, index: int) -> bytes:
        found = self._kept.get(index)
        if found is None:
            offset, length = _CHUNK.unpack(self._fork.read(self._table + index * _CHUNK.size, _CHUNK.size))
            if length > 2 * _CHUNK_BYTES or self._base + offset + length > self._fork.size:
                raise _bad(f"chunk {index} of {length} bytes at {offset}")
            size = min(_CHUNK_BYTES, self.size - index * _CHUNK_BYTES)
            found = _inflate(bytes(self._fork.read(self._base + offset, length)), size)
            if len(found) != size:
                raise _bad(f"chunk {index} has {len(found)} bytes, not {size}")
            if len(self._kept) >= 16:
                self._kept.clear()
            self._kept[index] = found
        return found


_bad = partial(InvalidFormat, structure=_STRUCTURE, offset=0)
