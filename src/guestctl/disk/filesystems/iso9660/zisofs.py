"""Files that zisofs compressed, in version 1 and 2: a header, pointers to blocks, and blocks of zlib.

As libburnia's documents "zisofs Format" and "zisofs2 Format" describe them. A block without bytes is zeros.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import Any

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature

# algorithm in ZF -> magic of the file, bytes of its header at least, and how a pointer is stored
_VERSIONS = {
    b"pz": (bytes.fromhex("37e45396c9dbd607"), 16, "I"),
    b"PZ": (bytes.fromhex("ef2255a1bc1b95a0"), 24, "Q"),
}
_ALGORITHM_OFFSET = 10  # in the header of version 2
_ZLIB = 1
_MIN_BLOCK_LOG, _MAX_BLOCK_LOG = 15, 20
_CACHE_BYTES = 8 << 20


class ZisofsFile(MappedDevice):
    """The content of the compressed file `stored`, as its ZF entry announces it."""

    def __init__(self, stored: BlockDevice, algorithm: bytes, header_bytes: int, block_log: int, size: int) -> None:
        if algorithm not in _VERSIONS:
            raise UnsupportedFeature(f"zisofs algorithm {algorithm!r} is not known", feature="zisofs algorithm")
        magic, least_bytes, typecode = _VERSIONS[algorithm]
        self.size = size
        self._stored = stored
        self._block_size = 1 << block_log
        self._kept: dict[int, bytes] = {}
        width = array(typecode).itemsize
        if not _MIN_BLOCK_LOG <= block_log <= _MAX_BLOCK_LOG or header_bytes < least_bytes:
            raise _bad(f"a header of {header_bytes} bytes, blocks of 2^{block_log}", 0)
        table_bytes = (-(-size // self._block_size) + 1) * width
        if header_bytes + table_bytes > stored.size:
            raise _bad(f"{stored.size} bytes are too few for the pointers of {size}", header_bytes)
        header = bytes(stored.read(0, header_bytes))
        if not header.startswith(magic):
            raise _bad("no magic", 0)
        if typecode == "Q" and header[_ALGORITHM_OFFSET] != _ZLIB:
            name = f"zisofs2 algorithm {header[_ALGORITHM_OFFSET]}"
            raise UnsupportedFeature(f"{name} is not known", feature=name)
        self._pointers = array(typecode, bytes(stored.read(header_bytes, table_bytes)))
        if sys.byteorder == "big":
            self._pointers.byteswap()

    def extent(self, offset: int) -> Extent:
        number = offset // self._block_size
        start = number * self._block_size
        is_hole = self._pointers[number] == self._pointers[number + 1]
        return Extent(start, self._block_size, None) if is_hole else Extent(start, self._block_size, self, start)

    def compute(self, offset: int, length: int) -> Buffer:
        parts: list[Buffer] = []
        while length:
            number, skip = divmod(offset, self._block_size)
            part = memoryview(self._block(number))[skip : skip + length]
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _block(self, number: int) -> bytes:
        content = self._kept.get(number)
        if content is None:
            content = self._decompress(number)
            if len(self._kept) * self._block_size >= _CACHE_BYTES:
                self._kept.clear()
            self._kept[number] = content
        return content

    def _decompress(self, number: int) -> bytes:
        library: Any = zlib
        try:
            from isal import isal_zlib as library
        except ImportError:
            pass
        start, end = self._pointers[number], self._pointers[number + 1]
        expected = min(self._block_size, self.size - number * self._block_size)
        if not start <= end <= self._stored.size or end - start > 2 * self._block_size:
            raise _bad(f"block {number} from {start} to {end}", start)
        stream = library.decompressobj()
        try:
            content: bytes = stream.decompress(self._stored.read(start, end - start), expected + 1)
        except (library.error, zlib.error) as error:
            raise _bad(f"block {number} cannot be decompressed: {error}", start) from error
        if len(content) != expected or not stream.eof:
            raise _bad(f"block {number} has {len(content)} bytes instead of {expected}", start)
        return content


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="zisofs file", offset=offset)
