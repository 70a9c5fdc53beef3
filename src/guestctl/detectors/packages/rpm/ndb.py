"""``Packages.db``, rpm's own database "ndb": pages of slots that say where each blob lies. Little-endian."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from guestctl.core.errors import InvalidFormat

_HEADER = Struct("<4sIII")  # magic, version, generation, pages of slots
_SLOT = Struct("<4sIII")  # magic, package, first unit of its blob, units; package 0 is a free slot
_BLOB = Struct("<4sIII")  # magic, package, generation, bytes
_HEADER_MAGIC, _SLOT_MAGIC, _BLOB_MAGIC = b"RpmP", b"Slot", b"BlbS"
_VERSION = 0
_PAGE_BYTES, _UNIT_BYTES = 4096, 16
_HEADER_SLOTS = 2  # that the header takes the place of


def headers(database: bytes) -> Iterator[bytes]:
    """The headers in `database`, by package number. Raises `InvalidFormat`."""
    if len(database) < _HEADER.size:
        raise _bad(f"{len(database)} bytes", 0)
    magic, version, _generation, pages = _HEADER.unpack_from(database)
    if magic != _HEADER_MAGIC or version != _VERSION:
        raise _bad(f"magic is {magic!r}, version {version}", 0)
    end = pages * _PAGE_BYTES
    if end > len(database):
        raise _bad(f"{pages} pages of slots in {len(database)} bytes", 0)
    found = []
    slots = memoryview(database)[_HEADER_SLOTS * _SLOT.size : end]
    for number, (magic, package, start, count) in enumerate(_SLOT.iter_unpack(slots), _HEADER_SLOTS):
        if magic != _SLOT_MAGIC:
            raise _bad(f"magic of a slot is {magic!r}", number * _SLOT.size)
        if package:
            found.append((package, start * _UNIT_BYTES, count * _UNIT_BYTES))
    for package, at, length in sorted(found):
        yield _read_blob(database, package, at, length)


def _read_blob(database: bytes, package: int, at: int, length: int) -> bytes:
    if at + length > len(database) or length < _BLOB.size:
        raise _bad(f"the blob of package {package} has {length} bytes", at)
    magic, owner, _generation, size = _BLOB.unpack_from(database, at)
    if magic != _BLOB_MAGIC or owner != package or _BLOB.size + size > length:
        raise _bad(f"the blob of package {package} has the magic {magic!r}, package {owner}, {size} bytes", at)
    start = at + _BLOB.size
    return database[start : start + size]


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="ndb database", offset=offset)
