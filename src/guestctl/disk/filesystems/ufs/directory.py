"""Directories (``struct direct``): blocks of 512 bytes, each filled by its entries. Entry 0 is unused."""

from __future__ import annotations

import struct

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ufs import layout as L

DirEntries = list[tuple[str, int, int]]  # name, inode, file type bits of st_mode or 0

_DOTS = (b".", b"..")
_HEADER_BYTES = 8
_STRUCTURE = "directory entry"


def parse_entries(data: bytes, order: str, *, typed: bool, offset: int) -> DirEntries:
    """The names in `data` but ``.`` and ``..``. Without types the length of a name has 16 bits.

    Raises `InvalidFormat`, with `offset`, the place of the directory's inode.
    """
    entry = struct.Struct(f"{order}{L.DIRECTORY_ENTRY}" if typed else f"{order}IHH").unpack_from
    found: DirEntries = []
    position = 0
    while position + _HEADER_BYTES <= len(data):
        end = position + L.DIRECTORY_BLOCK_BYTES - position % L.DIRECTORY_BLOCK_BYTES
        if typed:
            inode, record, kind, length = entry(data, position)
        else:
            inode, record, length = entry(data, position)
            kind = 0
        if record < _HEADER_BYTES + length or record & 3 or position + record > min(end, len(data)):
            raise _bad(f"d_reclen is {record} for a name of {length} bytes at {position}", offset)
        if inode:
            name = data[position + _HEADER_BYTES : position + _HEADER_BYTES + length]
            if name not in _DOTS:
                if not name or 0 in name:
                    raise _bad(f"inode {inode} has the name {name!r} at {position}", offset)
                found.append((name.decode("utf-8", "surrogateescape"), inode, L.FILE_TYPES[kind]))
        position += record
    return found


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset)
