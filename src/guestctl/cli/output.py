"""How commands print: JSON, tables, sizes, errors."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

# Halves of surrogate pairs that stand for no byte of a name.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def print_json(value: Any) -> None:
    """`value` as JSON in ASCII, in which a name that is no UTF-8 keeps its bytes as surrogate escapes."""
    print(json.dumps(value, indent=4))


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)


def name_for_output(name: str) -> str:
    """A guest's file name: its own bytes for a pipe, made harmless for a terminal."""
    return printable(name) if sys.stdout.isatty() else _LONE_SURROGATE.sub("\ufffd", name)


def fail(error: Exception | str) -> None:
    """Say on one line of standard error what went wrong."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    print(f"guestctl: error: {printable(text)}", file=sys.stderr)


def warn(text: str) -> None:
    print(f"guestctl: warning: {printable(text)}", file=sys.stderr)


def size_text(size: int) -> str:
    """`size` bytes as qemu-img writes it: ``4 GiB``, ``1.5 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            return f"{value:.3g} {unit}" if value < 1000 or unit == "B" else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def time_text(nanoseconds: int | None) -> str:
    """A time as ``stat`` prints it, in UTC; ``-`` where there is none, its seconds where no calendar has it."""
    if nanoseconds is None:
        return "-"
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds}.{rest:09d}"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d} +0000"


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[str]:
    """Columns of text, those in `right` aligned to the right."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    for line in table_lines(header, rows, right=right):
        print(line)
