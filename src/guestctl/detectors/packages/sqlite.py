"""SQLite databases, which SQLite itself reads, from memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.core.errors import InvalidFormat

_MAGIC = b"SQLite format 3\0"
# Versions of the format for writing and reading: 2 asks for a write-ahead log, which memory does not have.
_VERSIONS, _LEGACY = slice(18, 20), b"\1\1"
# A view in place of a table may never end, or make values of any size. A database of a million files takes a tenth.
_INSTRUCTIONS, _MAX_CALLS = 1_000_000, 500
_MAX_VALUE_BYTES = 64 << 20


def rows(database: bytes, query: str) -> Iterator[tuple[Any, ...]]:
    """What `query` gives of the image `database`. Raises `InvalidFormat`."""
    import sqlite3

    if not database.startswith(_MAGIC):
        raise bad("no SQLite database")
    image = bytearray(database)
    image[_VERSIONS] = _LEGACY
    calls = iter(range(_MAX_CALLS))
    connection = sqlite3.connect(":memory:")
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        connection.deserialize(bytes(image))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.set_progress_handler(lambda: next(calls, None) is None, _INSTRUCTIONS)
        connection.execute("PRAGMA trusted_schema = OFF")
        yield from connection.execute(query)
    except (sqlite3.Error, TypeError) as error:
        raise bad(str(error)) from error
    finally:
        connection.close()


def bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="SQLite database", offset=0)
