"""Directories (section 3.3): sorted names in runs that share a metadata block of inodes.

A large directory has an index: for about every 8 KiB of its listing the name that a run begins
with, so that a name is found without reading what comes before and after.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.inode import InodeStat, InodeTable
from guestctl.disk.filesystems.squashfs.metadata import Metadata

# Some ten million short names; what is larger is a few bytes that decompress to ever the same.
_MAX_LISTING_BYTES = 128 << 20
_PADDING = bytes(L.DIRECTORY_HEADER.size)


class Directories:
    """The directories of a filesystem."""

    def __init__(self, metadata: Metadata, start: int, inodes: InodeTable) -> None:
        self._metadata = metadata
        self._start = start
        self._inodes = inodes

    def entries(self, status: InodeStat) -> Iterator[tuple[str, int, int]]:
        """(name, inode, type bits of st_mode) of all that a directory holds."""
        block, offset, _ = _location(status)
        return self._parse(block, offset, self._listing_bytes(status))

    def lookup(self, node: int, status: InodeStat, name: str) -> int | None:
        """The inode of `name`, or None."""
        block, offset, index_count = _location(status)
        wanted = name.encode("utf-8", "surrogateescape")
        begin, end = 0, self._listing_bytes(status)
        if index_count:
            rest = self._inodes.rest(node, status)
            for _ in range(index_count):
                index, start_block, size = rest.unpack(L.DIRECTORY_INDEX)
                if size >= L.MAX_NAME_BYTES or not begin <= index <= end:
                    raise self._inodes.bad(f"directory index: {index} of {end} bytes, a name of {size + 1}", node)
                if rest.take(size + 1) > wanted:
                    end = index
                    break
                begin, block = index, start_block
        found = self._parse(block, (offset + begin) % L.METADATA_BYTES, end - begin)
        return next((child for child_name, child, _ in found if child_name == name), None)

    def _listing_bytes(self, status: InodeStat) -> int:
        size = max(0, status.st_size - L.EMPTY_DIRECTORY_BYTES)
        if size > _MAX_LISTING_BYTES:
            raise _bad(f"{size} bytes", self._start)
        return size

    def _parse(self, block: int, skip: int, length: int) -> Iterator[tuple[str, int, int]]:
        start = self._start + block
        data = self._metadata.cursor(start, skip).take(length)
        data += _PADDING
        at = 0
        while at < length:
            count, inode_block, _ = L.DIRECTORY_HEADER.unpack_from(data, at)
            if count >= L.MAX_HEADER_ENTRIES:
                raise _bad(f"a header of {count + 1} entries at {at} of the listing", start)
            at += L.DIRECTORY_HEADER.size
            base = inode_block << 16
            for _ in range(count + 1):
                if at >= length:
                    raise _bad("the listing ends early", start)
                offset, _, kind, size = L.DIRECTORY_ENTRY.unpack_from(data, at)
                at += L.DIRECTORY_ENTRY.size
                end = at + size + 1
                if end > length or size >= L.MAX_NAME_BYTES or kind not in L.KINDS:
                    raise _bad(f"an entry of type {kind}, {size + 1} bytes, at {at} of the listing", start)
                yield data[at:end].decode("utf-8", "surrogateescape"), base | offset, L.KINDS[kind]
                at = end


def _location(status: InodeStat) -> tuple[int, int, int]:
    """start_block, offset and i_count of a directory's inode."""
    if status.kind == L.EXTENDED_DIRECTORY_TYPE:
        _, block, index_count, offset = status.unpack(L.EXTENDED_DIRECTORY)
        return block, offset, index_count
    block, _, offset = status.unpack(L.DIRECTORY)
    return block, offset, 0


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="directory", offset=offset)
