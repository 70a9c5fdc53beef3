"""One room per image format, its reader and writer together, and the table that finds them."""

from __future__ import annotations

from typing import NamedTuple


class FormatProbe(NamedTuple):
    """A format: its name is its room's. The room's ``open_reader(image_file)`` makes the reader."""

    name: str
    offset: int = 0
    magic: bytes | None = None


PROBES = (
    FormatProbe("qcow2", 0, b"QFI\xfb"),
    FormatProbe("raw"),
)
