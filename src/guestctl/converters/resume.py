"""The record of an interrupted conversion: which windows were written, with checksums.

A file of JSON lines beside the unfinished image: what was being converted into what, then one line
for each window. Since a writer's places follow from the calls it got, repeating the calls finds what
was written; its checksum tells whether it arrived.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, Self

from guestctl.block.device import Buffer
from guestctl.block.output import Output, OutputFile
from guestctl.converters.engine import Kind, Prepared
from guestctl.disk.writer import ImageWriter

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32


class _Entry(NamedTuple):
    """A window that was written: its end, its pieces, the CRC-32 of what was stored for them."""

    end: int
    pieces: Sequence[tuple[str, int, int, Sequence[int]]]  # kind, start, length, sizes of packed units
    crc: int


class Record:
    """The record for `output`; `fingerprint` is what must be equal for a run to go on with another's work."""

    def __init__(self, output: Output, fingerprint: dict[str, Any]) -> None:
        self._path = output.path + ".partial.record"
        self._first_line = json.dumps(fingerprint, sort_keys=True)
        self.entries = list(self._read())
        if not self.entries:
            output.start_over()  # what is there is of a run with other intentions
        self._file: IO[str] | None = None

    def _read(self) -> Iterator[_Entry]:
        try:
            file = open(self._path, encoding="utf-8")
        except FileNotFoundError:
            return
        with file:
            if file.readline() != self._first_line + "\n":
                return
            for line in file:
                try:
                    yield _Entry(*json.loads(line))
                except (ValueError, TypeError):
                    return  # the line that was being written

    def check(self, writer: ImageWriter) -> None:
        """Compare the files with the record; what comes after the first difference is dropped from it."""
        for number, entry in enumerate(self.entries):
            crc = 0
            for file, offset, length in _places(writer, entry):
                crc = crc32(file.read_at(offset, length), crc)
            if crc != entry.crc:
                del self.entries[number:]
                return

    def replay(self, writer: ImageWriter) -> None:
        """Bring a new writer to where the record ends."""
        for entry in self.entries:
            for _ in _places(writer, entry):
                pass

    def start(self) -> int:
        """Begin to record; the end of the last window that is on the record already."""
        self._file = open(self._path, "w", encoding="utf-8", buffering=1, opener=_open_no_link)
        self._file.write(self._first_line + "\n")
        self._file.writelines(json.dumps(entry) + "\n" for entry in self.entries)
        return self.entries[-1].end if self.entries else 0

    def add(self, prepared: Prepared) -> None:
        """Record a window that was written."""
        assert self._file is not None
        pieces = []
        crc = 0
        for kind, start, length, buffers in prepared.pieces:
            pieces.append((kind.value, start, length, [len(buffer) for buffer in buffers]))
            if kind is not Kind.ZERO:
                crc = _crc(buffers, crc)
        window = prepared.window
        self._file.write(json.dumps(_Entry(window.start + window.length, pieces, crc)) + "\n")

    def remove(self) -> None:
        """The image is complete: forget."""
        os.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _crc(buffers: Sequence[Buffer], crc: int) -> int:
    for buffer in buffers:
        crc = crc32(buffer, crc)
    return crc


def _places(writer: ImageWriter, entry: _Entry) -> Iterator[tuple[OutputFile, int, int]]:
    """Repeat the calls of a window; the ranges of files that hold it, in the order they were written."""
    for kind, start, length, sizes in entry.pieces:
        if kind == Kind.PACKED.value:
            file, offset = writer.place_packed(start, sizes)
            yield file, offset, sum(sizes)
        elif kind == Kind.DATA.value:
            for placement in writer.place(start, length):
                yield placement.file, placement.offset, placement.length
        else:
            writer.zero(start, length)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
