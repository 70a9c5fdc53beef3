"""The native engine: from the runs of a disk into an `ImageWriter`.

The disk is cut into windows. Preparing a window (reading, finding zeros, packing) may happen in
several threads at once; placing and writing happen in order in the calling thread, so that the
places of a conversion depend on the source alone. Holes are never read.
"""

from __future__ import annotations

import os
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from guestctl.block.device import CHUNK_BYTES, BlockDevice, Buffer, Run, SliceDevice, zeros
from guestctl.block.file import FileDevice
from guestctl.core.errors import ConversionError
from guestctl.core.progress import NoProgress, Progress
from guestctl.disk.writer import ImageWriter

if TYPE_CHECKING:
    import hashlib
    from concurrent.futures import Future, ThreadPoolExecutor

_WINDOW_BYTES = 1 << 20  # fits a core's cache: what is read is written while it is still there
_WINDOWS_AHEAD = 4  # for each thread
_PROGRESS_SECONDS = 0.1

_DATA, _ZERO, _SAME = b"dz="
_RUNS = re.compile(rb"d+|z+|=+")


class Window(NamedTuple):
    """A range of the disk; ``runs`` lie in it, ascending, and what they leave out is zeros."""

    start: int
    length: int
    runs: tuple[Run, ...]


class Kind(Enum):
    """How a piece is handed to the writer; the values are those of a conversion's record."""

    DATA = "data"
    PACKED = "packed"
    ZERO = "zero"


class Piece(NamedTuple):
    """What a prepared window holds from ``start`` on: data in one buffer, packed units, or zeros.

    With a backing file, ranges in no piece are as they are there.
    """

    kind: Kind
    start: int
    length: int
    buffers: Sequence[Buffer] = ()


class Prepared(NamedTuple):
    """A window with its content."""

    window: Window
    content: Buffer | None  # None: zeros
    pieces: Sequence[Piece]


@dataclass(slots=True)
class Transfer:
    """One conversion: from `source` into `writer`, which are the caller's to close and to finish.

    `backing` is the disk below the new image, or None: only units that differ from it are written.
    `digest` is updated with the whole content. `cancelled` is asked between windows.
    """

    source: BlockDevice
    writer: ImageWriter
    backing: BlockDevice | None = None
    progress: Progress = field(default_factory=NoProgress)
    digest: hashlib._Hash | None = None
    cancelled: Callable[[], bool] | None = None
    on_written: Callable[[Prepared], None] | None = None
    clear_zeros: bool = False  # what is not written may hold anything: zeros are written too

    def run(self, start: int = 0) -> None:
        """Transfer everything from `start`, the end of a window, on."""
        size = self.writer.size
        next_report = 0.0
        hasher = _Hasher(self.digest) if self.digest is not None else None
        try:
            for prepared in self._prepared(start):
                if self.cancelled is not None and self.cancelled():
                    raise ConversionError("cancelled")
                window = prepared.window
                if hasher is not None:
                    hasher.update(prepared.content, window.length)
                self._write(prepared.pieces)
                if self.on_written is not None:
                    self.on_written(prepared)
                now = time.monotonic()
                if now >= next_report:
                    self.progress.update(window.start + window.length, size)
                    next_report = now + _PROGRESS_SECONDS
            if hasher is not None:
                hasher.finish()
        finally:
            if hasher is not None:
                hasher.close()
        self.progress.update(size, size)

    def _windows(self, start: int) -> Iterator[Window]:
        """The disk from `start` on, in windows of some MiB; a hole, however long, is one window."""
        size = self.writer.size
        available = min(self.source.size, size)
        step = max(_WINDOW_BYTES, self.writer.unit)
        inside: list[Run] = []
        for run in self._runs(start, max(0, available - start)):
            offset, end = run.offset, run.offset + run.length
            while offset < end:
                window_end = start + step - start % step
                if run.source is None and not inside and end >= window_end:
                    hole_end = end if end == available else end - end % step
                    yield Window(start, hole_end - start, ())
                    start = offset = hole_end
                    continue
                part = min(end, window_end) - offset
                if run.source is not None:
                    inside.append(Run(offset, part, run.source, run.source_offset + offset - run.offset))
                offset += part
                if offset == window_end:
                    yield Window(start, window_end - start, tuple(inside))
                    start, inside = window_end, []
        if start < available:
            yield Window(start, available - start, tuple(inside))
        start = max(start, available)
        if start < size:
            yield Window(start, size - start, ())

    def _runs(self, start: int, length: int) -> Iterator[Run]:
        """The source's runs; where it has holes and the backing file has data, a run of zeros that are read."""
        if self.backing is None:
            yield from self.source.runs(start, length)
            return
        below = SliceDevice(self.backing, 0, start + length)
        for run in self.source.runs(start, length):
            if run.source is not None:
                yield run
                continue
            present = max(0, min(run.length, below.size - run.offset))
            for covered in below.runs(run.offset, present) if present else ():
                source = None if covered.source is None else _Zeros()
                yield Run(covered.offset, covered.length, source, 0)
            if present < run.length:
                yield Run(run.offset + present, run.length - present, None, 0)

    def _prepared(self, start: int) -> Iterator[Prepared]:
        """Prepared windows in order: in threads where there is something to compute, else as they are asked for.

        What a window holds is valid until the next is asked for.
        """
        threads = os.cpu_count() or 1
        pool: ThreadPoolExecutor | None = None
        waiting: deque[Window | tuple[Future[Prepared], bytearray]] = deque()
        buffers: list[bytearray] = []
        windows = self._windows(start)

        def new_buffer() -> bytearray:
            return buffers.pop() if buffers else bytearray(max(_WINDOW_BYTES, self.writer.unit))

        try:
            while True:
                while len(waiting) <= _WINDOWS_AHEAD * threads and (window := next(windows, None)) is not None:
                    if not self._computes(window):
                        waiting.append(window)
                        continue
                    if pool is None:
                        from concurrent.futures import ThreadPoolExecutor

                        pool = ThreadPoolExecutor(threads)
                    buffer = new_buffer()
                    waiting.append((pool.submit(self._prepare, window, buffer), buffer))
                if not waiting:
                    return
                first = waiting.popleft()
                if isinstance(first, Window):
                    buffer = new_buffer()
                    yield self._prepare(first, buffer)
                else:
                    buffer = first[1]
                    yield first[0].result()
                buffers.append(buffer)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _computes(self, window: Window) -> bool:
        return bool(window.runs) and (
            self.writer.packs or any(not isinstance(run.source, FileDevice) for run in window.runs)
        )

    def _prepare(self, window: Window, buffer: bytearray) -> Prepared:
        """Read `window`, find what is to be written, and pack it; `buffer` is to hold what is read."""
        start, length, runs = window
        if not runs:
            # With a backing file, a hole on both sides: the backing file may end before.
            return Prepared(window, None, [Piece(Kind.ZERO, start, length)] if self.backing is None else ())
        _read(window, buffer)
        view = memoryview(buffer)[:length]
        pieces: list[Piece] = []
        same = self._below(window) if self.backing is not None else None
        for kind, begin, end in _ranges(buffer, length, self.writer.unit, same):
            if kind is Kind.DATA and self.writer.packs:
                pieces += self._pack(start, view, begin, end)
            else:
                pieces.append(Piece(kind, start + begin, end - begin, [view[begin:end]]))
        return Prepared(window, view, pieces)

    def _below(self, window: Window) -> bytes:
        """What the backing file has there."""
        assert self.backing is not None
        present = max(0, min(window.length, self.backing.size - window.start))
        content = bytes(self.backing.read(window.start, present)) if present else b""
        return content.ljust(window.length, b"\0")

    def _pack(self, start: int, view: memoryview, begin: int, end: int) -> Iterator[Piece]:
        """Neighbouring units of which packing makes less are one piece, and so are those it does not."""
        unit, pack = self.writer.unit, self.writer.pack
        units: list[Buffer] = []
        first, packed = begin, True
        for offset in range(begin, end, unit):
            data = view[offset : min(offset + unit, end)]
            result = pack(start + offset, data)
            if units and (result is not None) is not packed:
                yield _packed_or_not(packed, start, view, first, offset, units)
                first, units = offset, []
            packed = result is not None
            units.append(data if result is None else result)
        yield _packed_or_not(packed, start, view, first, end, units)

    def _write(self, pieces: Sequence[Piece]) -> None:
        writer = self.writer
        for kind, start, length, buffers in pieces:
            if kind is Kind.PACKED:
                file, offset = writer.place_packed(start, [len(buffer) for buffer in buffers])
                file.fill(offset, buffers)
            elif kind is Kind.DATA:
                for placement in writer.place(start, length):
                    skip = placement.start - start
                    placement.file.fill(placement.offset, [memoryview(buffers[0])[skip : skip + placement.length]])
            else:
                writer.zero(start, length)
                if self.clear_zeros:
                    for placement in writer.place(start, length):
                        placement.file.zero(placement.offset, placement.length)


def _read(window: Window, buffer: bytearray) -> None:
    """Put the bytes of a window into `buffer`."""
    start, length, runs = window
    view = memoryview(buffer)
    done = 0
    for offset, run_length, source, source_offset in runs:
        begin = offset - start
        if done < begin:
            view[done:begin] = zeros(begin - done)
        done = begin + run_length
        if source is not None:
            source.read_into(source_offset, view[begin:done])
    if done < length:
        view[done:length] = zeros(length - done)


def _ranges(content: bytearray, length: int, unit: int, same: bytes | None) -> Iterator[tuple[Kind, int, int]]:
    """The first `length` bytes of `content` as ranges of whole units, zeros or data, without what is as in `same`."""
    kinds = bytearray((_DATA,)) * -(-length // unit)
    for index in _zero_units(content, length, unit):
        kinds[index] = _ZERO
    if same is not None:
        for index in range(len(kinds)):
            start = index * unit
            if content.startswith(same[start : start + unit], start):
                kinds[index] = _SAME
    for match in _RUNS.finditer(kinds):
        kind = match[0][0]
        if kind != _SAME:
            start, end = match.span()
            yield Kind.ZERO if kind == _ZERO else Kind.DATA, start * unit, min(end * unit, length)


def _zero_units(content: bytearray, length: int, unit: int) -> Iterator[int]:
    """The numbers of the units that are all zeros; those that do not begin with one are not looked at."""
    first_bytes = content[:length:unit]
    zero = bytes(unit)
    index = first_bytes.find(0)
    while index >= 0:
        start = index * unit
        if content.startswith(zero if start + unit <= length else zero[: length - start], start):
            yield index
        index = first_bytes.find(0, index + 1)


def _packed_or_not(packed: bool, start: int, view: memoryview, begin: int, end: int, units: list[Buffer]) -> Piece:
    if packed:
        return Piece(Kind.PACKED, start + begin, end - begin, units)
    return Piece(Kind.DATA, start + begin, end - begin, [view[begin:end]])


class _Zeros(BlockDevice):
    """Zeros that are read like data."""

    size = sys.maxsize

    def read(self, offset: int, length: int) -> Buffer:
        return zeros(length)


class _Hasher:
    """Hashes beside the transfer, in a thread of its own."""

    def __init__(self, digest: hashlib._Hash) -> None:
        self._digest = digest
        self._queue: queue.Queue[tuple[Buffer | None, int] | None] = queue.Queue(maxsize=16)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def update(self, content: Buffer | None, length: int) -> None:
        # The buffer will hold the next window when this one's turn comes.
        self._queue.put((None if content is None else bytes(content), length))

    def finish(self) -> None:
        """Wait until everything is hashed."""
        self._queue.put(None)
        self._thread.join()

    def close(self) -> None:
        """Leave the rest unhashed."""
        self._stopped = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            content, length = item
            if self._stopped:
                continue
            if content is not None:
                self._digest.update(content)
                continue
            while length and not self._stopped:
                part = min(length, CHUNK_BYTES)
                self._digest.update(zeros(part))
                length -= part
