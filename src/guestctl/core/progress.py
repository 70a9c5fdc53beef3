"""Progress of long operations: a protocol that any caller can implement."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol


class Progress(Protocol):
    """Receives how far an operation is, in bytes or in items."""

    def update(self, done: int, total: int | None) -> None:
        """`done` so far, of `total`, or of an unknown total."""


class NoProgress:
    """Listens to nothing."""

    def update(self, done: int, total: int | None) -> None:
        pass


class JsonProgress:
    """A line of JSON for each report: bytes ``done`` and ``total``, ``rate`` in bytes a second, ``left`` in seconds."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._start = time.monotonic()

    def update(self, done: int, total: int | None) -> None:
        import json

        rate = done / max(time.monotonic() - self._start, 1e-6)
        left = (total - done) / rate if total is not None and rate else None
        record = {
            "done": done,
            "total": total,
            "rate": round(rate),
            "left": None if left is None else round(left, 3),
        }
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()


@contextmanager
def terminal_progress(description: str) -> Iterator[Progress]:
    """A bar on standard error where that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with RichProgress("{task.description}", *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)

        class _Bar:
            def update(self, done: int, total: int | None) -> None:
                bar.update(task, completed=done, total=total)

        yield _Bar()
