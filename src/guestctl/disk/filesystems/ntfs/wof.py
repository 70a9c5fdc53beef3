"""Files that the Windows Overlay Filter (WOF) compresses: a hole as long as the file, and a stream with its chunks.

The reparse point names the algorithm ([MS-FSCC] 2.1.2.8 leaves it opaque; the fields are those of
WOF_EXTERNAL_INFO and FILE_PROVIDER_EXTERNAL_INFO in the documentation of FSCTL_SET_EXTERNAL_BACKING). The
stream is a resource as in a WIM file: offsets of all chunks but the first, counted from their own end, of
32 bits, or of 64 for a file of 4 GiB or more; then the chunks. A chunk as long as its content is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from guestctl.block import BlockDevice
from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs import lzx, xpress
from guestctl.disk.filesystems.ntfs.reparse import Reparse

# Version and provider; version and algorithm.
_INFO = Struct("<IIII")
_VERSION, _PROVIDER_WIM, _PROVIDER_FILE = 1, 1, 2
_LARGE_FILE = 1 << 32
_TABLE_CHUNKS = 4096  # whose offsets are read at once
_MAX_CACHED_BYTES = 1 << 20

Decompress = Callable[[bytes, int, int], bytes]
# By the number of an algorithm: XPRESS4K, LZX, XPRESS8K, XPRESS16K.
_ALGORITHMS: tuple[tuple[int, Decompress], ...] = (
    (4096, xpress.decompress),
    (lzx.CHUNK_BYTES, lzx.decompress),
    (8192, xpress.decompress),
    (16384, xpress.decompress),
)


def open_compressed(reparse: Reparse, size: int, stream: BlockDevice) -> BlockDevice:
    """The `size` bytes of a file. Raises `InvalidFormat` and `UnsupportedFeature`."""
    if len(reparse.data) < _INFO.size:
        raise _bad(f"{len(reparse.data)} bytes", reparse.offset)
    version, provider, file_version, algorithm = _INFO.unpack_from(reparse.data)
    if (version, provider) == (_VERSION, _PROVIDER_WIM):
        raise UnsupportedFeature("a file whose content is in a WIM file (WIMBoot)", feature="WIMBoot")
    if (version, provider, file_version) != (_VERSION, _PROVIDER_FILE, _VERSION) or algorithm >= len(_ALGORITHMS):
        message = f"WOF provider {provider}, versions {version} and {file_version}, algorithm {algorithm}"
        raise UnsupportedFeature(message, feature="WOF")
    return _WofData(size, stream, *_ALGORITHMS[algorithm])


class _WofData(MappedDevice):
    def __init__(self, size: int, stream: BlockDevice, chunk_bytes: int, decompress: Decompress) -> None:
        self.size = size
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._decompress = decompress
        self._count = -(-size // chunk_bytes)
        self._pointer_bytes = 8 if size >= _LARGE_FILE else 4
        self._head_bytes = self._pointer_bytes * max(0, self._count - 1)
        if self._head_bytes > stream.size:
            raise _bad(f"the offsets of {self._count} chunks in {stream.size} bytes", self._position(0))
        self._tables: dict[int, memoryview] = {}
        self._cache: dict[int, bytes] = {}

    def extent(self, offset: int) -> Extent:
        return Extent(0, self.size, self, 0)

    def compute(self, offset: int, length: int) -> Buffer:
        first, last = offset // self._chunk_bytes, (offset + length - 1) // self._chunk_bytes
        skip = offset - first * self._chunk_bytes
        if first == last:
            return memoryview(self._chunk(first))[skip : skip + length]
        return memoryview(b"".join(map(self._chunk, range(first, last + 1))))[skip : skip + length]

    def _chunk(self, number: int) -> bytes:
        data = self._cache.get(number)
        if data is None:
            data = self._read_chunk(number)
            if (len(self._cache) + 1) * self._chunk_bytes > _MAX_CACHED_BYTES:
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[number] = data
        return data

    def _read_chunk(self, number: int) -> bytes:
        start = self._start(number)
        end = self._start(number + 1) if number + 1 < self._count else self._stream.size
        size = min(self._chunk_bytes, self.size - number * self._chunk_bytes)
        if not start < end <= self._stream.size or end - start > size:
            where = self._position(self._pointer_bytes * max(0, number - 1))
            raise _bad(f"chunk {number} of {size} bytes from {start} to {end} of {self._stream.size}", where)
        data = bytes(self._stream.read(start, end - start))
        return data if len(data) == size else self._decompress(data, size, self._position(start))

    def _start(self, number: int) -> int:
        if not number:
            return self._head_bytes
        part, index = divmod(number - 1, _TABLE_CHUNKS)
        table = self._tables.get(part)
        if table is None:
            at = part * _TABLE_CHUNKS * self._pointer_bytes
            length = min(_TABLE_CHUNKS * self._pointer_bytes, self._head_bytes - at)
            self._tables = {part: (table := memoryview(bytes(self._stream.read(at, length))))}
        at = index * self._pointer_bytes
        return self._head_bytes + int.from_bytes(table[at : at + self._pointer_bytes], "little")

    def _position(self, at: int) -> int:
        """Where the device has a byte of the stream, for errors."""
        if at >= self._stream.size:
            return 0
        return next(iter(self._stream.runs(at, 1))).source_offset


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=L.WOF_STREAM, offset=offset)
