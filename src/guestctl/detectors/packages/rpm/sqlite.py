"""``rpmdb.sqlite``: a table ``Packages`` of headers. SQLite itself reads it, from memory."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat

NAME = "rpmdb.sqlite"
_MAGIC = b"SQLite format 3\0"
# Versions of the format for writing and reading: 2 asks for a write-ahead log, which memory does not have.
_VERSIONS, _LEGACY = slice(18, 20), b"\1\1"


def headers(database: bytes) -> Iterator[bytes]:
    """The headers in `database`. Raises `InvalidFormat`."""
    import sqlite3

    if not database.startswith(_MAGIC):
        raise _bad("no SQLite database")
    image = bytearray(database)
    image[_VERSIONS] = _LEGACY
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(bytes(image))
        connection.execute("PRAGMA trusted_schema = OFF")
        for (blob,) in connection.execute("SELECT blob FROM Packages ORDER BY hnum"):
            yield bytes(blob)
    except (sqlite3.Error, TypeError) as error:
        raise _bad(str(error)) from error
    finally:
        connection.close()


def with_log(database: bytes, log: bytes) -> bytes:
    """`database` with its write-ahead log, by a copy of both in a temporary directory. Raises `InvalidFormat`."""
    import sqlite3
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        path.write_bytes(database)
        path.with_name(f"{NAME}-wal").write_bytes(log)
        connection = sqlite3.connect(path)
        try:
            return connection.serialize()
        except sqlite3.Error as error:
            raise _bad(str(error)) from error
        finally:
            connection.close()


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="rpm database", offset=0)
