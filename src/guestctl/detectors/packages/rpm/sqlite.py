"""``rpmdb.sqlite``: a table ``Packages`` of headers."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.packages.sqlite import bad, rows

NAME = "rpmdb.sqlite"


def headers(database: bytes) -> Iterator[bytes]:
    """The headers in `database`. Raises `InvalidFormat`."""
    for (blob,) in rows(database, "SELECT blob FROM Packages ORDER BY hnum"):
        if not isinstance(blob, bytes):
            raise bad("a header that is no blob")
        yield blob


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
            raise bad(str(error)) from error
        finally:
            connection.close()
