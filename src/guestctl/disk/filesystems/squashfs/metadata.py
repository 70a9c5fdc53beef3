"""Metadata blocks of up to 8 KiB, and the tables that lie in them (section 3.2 "Inodes").

Inodes, directories and attributes are streams of bytes cut into blocks, each stored with its length
before it. A place in one is the offset of a block and a number of bytes to skip in it. Tables of
fixed-size records (sections 3.5, 3.6, 3.8) are found through pointers to their blocks.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.compression import Decompress

_MAX_BLOCKS = 2048  # 16 MiB


class Metadata:
    """The metadata blocks of a device, by their offsets; `end` is where the filesystem ends."""

    def __init__(self, device: BlockDevice, decompress: Decompress, end: int) -> None:
        self._device = device
        self._decompress = decompress
        self._end = end
        self._blocks: dict[int, tuple[bytes, int]] = {}

    def block(self, offset: int) -> tuple[bytes, int]:
        """The content of the block at `offset`, and where the next one is."""
        found = self._blocks.get(offset)
        if found is None:
            found = self._read(offset)
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[offset] = found
        return found

    def _read(self, offset: int) -> tuple[bytes, int]:
        start = offset + L.METADATA_LENGTH.size
        if start > self._end:
            raise _bad("a block past the end of the filesystem", offset)
        (word,) = L.METADATA_LENGTH.unpack(self._device.read(offset, L.METADATA_LENGTH.size))
        length = word & ~L.METADATA_UNCOMPRESSED
        if not 0 < length <= L.METADATA_BYTES or start + length > self._end:
            raise _bad(f"a block of {length} bytes", offset)
        stored = self._device.read(start, length)
        if word & L.METADATA_UNCOMPRESSED:
            return bytes(stored), start + length
        try:
            content = self._decompress(stored, L.METADATA_BYTES)
        except ValueError as error:
            raise _bad(f"cannot be decompressed: {error}", offset) from error
        if not 0 < len(content) <= L.METADATA_BYTES:
            raise _bad(f"{len(content)} bytes decompressed", offset)
        return content, start + length

    def cursor(self, offset: int, skip: int) -> Cursor:
        """For reading from `skip` bytes after the beginning of the block at `offset` on."""
        return Cursor(self, offset, skip)


class Cursor:
    """Reads a stream of metadata in order."""

    def __init__(self, metadata: Metadata, offset: int, skip: int) -> None:
        self._metadata = metadata
        self.offset = offset
        self.skip = skip

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        parts: list[bytes] = []
        while length:
            content, following = self._metadata.block(self.offset)
            part = content[self.skip : self.skip + length]
            parts.append(part)
            length -= len(part)
            if not length:
                self.skip += len(part)
            else:
                self.skip = max(0, self.skip - len(content))
                self.offset = following
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy(self, offset: int, skip: int) -> Cursor:
        """Another one, that reads from there on."""
        return Cursor(self._metadata, offset, skip)

    def unpack(self, record: Struct) -> tuple[Any, ...]:
        return record.unpack(self.take(record.size))


class Table:
    """`count` records in metadata blocks, to which pointers at `offset` lead."""

    def __init__(self, device: BlockDevice, metadata: Metadata, offset: int, count: int, record: Struct) -> None:
        self._device = device
        self._metadata = metadata
        self._offset = offset
        self._count = count
        self._record = record
        self._in_block = L.METADATA_BYTES // record.size

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if index >= self._count:
            raise _bad(f"record {index} of {self._count}", self._offset)
        number, place = divmod(index, self._in_block)
        (offset,) = L.POINTER.unpack(self._device.read(self._offset + number * L.POINTER.size, L.POINTER.size))
        content, _ = self._metadata.block(offset)
        at = place * self._record.size
        if at + self._record.size > len(content):
            raise _bad(f"no record {index} in its block", offset)
        return self._record.unpack_from(content, at)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="metadata", offset=offset)
