"""The native engine: from the runs of a disk into an `ImageWriter`.

The disk is cut into windows, and each thread, the calling one among them, takes the next of them: reads it,
finds zeros, packs, waits for its turn to have it placed, and writes. Placing happens in order, so that the
places of a conversion depend on the source alone; the rest happens side by side, with the window in the cache
of the core that works on it. Holes are never read.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from guestctl.block.device import CHUNK_BYTES, BlockDevice, Buffer, Run, SliceDevice, zeros
from guestctl.converters.turns import Stopped, Turns
from guestctl.core.errors import ConversionError
from guestctl.core.progress import NoProgress, Progress
from guestctl.disk.writer import ImageWriter

if TYPE_CHECKING:
    import hashlib

_WINDOW_BYTES = 1 << 20  # fits a core's cache: what is read is written while it is still there
_PROGRESS_SECONDS = 0.1
_MAX_THREADS = 16  # what is not done in the libraries' C code is done by one thread at a time

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
    """A window with its content; what it holds is valid until its thread prepares the next."""

    window: Window
    content: Buffer | None  # None: zeros
    pieces: Sequence[Piece]


def thread_count() -> int:
    """One thread for each processor that is ours."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, _MAX_THREADS)


@dataclass(slots=True)
class Transfer:
    """One conversion: from `source` into `writer`, which are the caller's to close and to finish.

    `backing` is the disk below the new image, or None: only units that differ from it are written.
    `digest` is updated with the whole content. `progress` and `cancelled` are called between windows, in the
    thread that calls `run`; `on_written` in any, one window after the other.
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
        work = _Work(self, start)
        helpers: list[threading.Thread] = []
        try:
            for _ in range(thread_count() - 1):
                helper = threading.Thread(target=work.help, daemon=True)
                helper.start()
                helpers.append(helper)
            work.take_windows(self._reporter())
            _join(helpers)
        except Stopped:
            pass  # by a helper that failed
        except BaseException:
            work.stop()
            raise
        finally:
            _join(helpers)
        if work.failure is not None:
            raise work.failure
        self.progress.update(self.writer.size, self.writer.size)

    def _reporter(self) -> Callable[[int | None], None]:
        """What the calling thread does between windows, told where the last one ended, and while it waits."""
        next_report = 0.0

        def report(done: int | None) -> None:
            nonlocal next_report
            if self.cancelled is not None and self.cancelled():
                raise ConversionError("cancelled")
            now = time.monotonic()
            if done is not None and now >= next_report:
                self.progress.update(done, self.writer.size)
                next_report = now + _PROGRESS_SECONDS

        return report

    def windows(self, start: int) -> Iterator[Window]:
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

    def prepare(self, window: Window, buffer: bytearray) -> Prepared:
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

    def place(self, pieces: Sequence[Piece]) -> list[Callable[[], None]]:
        """Have the writer say where the pieces go; what is then to be done for it, in any order."""
        writer = self.writer
        writes: list[Callable[[], None]] = []
        for kind, start, length, buffers in pieces:
            if kind is Kind.PACKED:
                file, offset = writer.place_packed(start, [len(buffer) for buffer in buffers])
                writes.append(partial(file.fill, offset, buffers))
            elif kind is Kind.DATA:
                for placement in writer.place(start, length):
                    skip = placement.start - start
                    data = memoryview(buffers[0])[skip : skip + placement.length]
                    writes.append(partial(placement.file.fill, placement.offset, [data]))
            else:
                writer.zero(start, length)
                if self.clear_zeros:
                    places = writer.place(start, length)
                    writes += [partial(place.file.zero, place.offset, place.length) for place in places]
        return writes


class _Work:
    """What the threads of a transfer have in common."""

    def __init__(self, transfer: Transfer, start: int) -> None:
        self.failure: BaseException | None = None  # of a helper
        self._transfer = transfer
        self._windows = enumerate(transfer.windows(start))
        self._taking = threading.Lock()
        self._placing, self._recording = Turns(), Turns()

    def help(self) -> None:
        """A helper's whole life."""
        try:
            self.take_windows()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - the calling thread raises it
            self.failure = error
            self.stop()

    def stop(self) -> None:
        """Have every thread end, with `Stopped`."""
        self._placing.stop()
        self._recording.stop()

    def take_windows(self, report: Callable[[int | None], None] | None = None) -> None:
        """Transfer one window after the other until there are no more; `report` is called before each."""
        transfer = self._transfer
        buffer = bytearray(max(_WINDOW_BYTES, transfer.writer.unit))
        ask = partial(report, None) if report else None
        done = None
        while True:
            if report is not None:
                report(done)
            with self._taking:
                number, window = next(self._windows, (0, None))
            if window is None:
                return
            prepared = transfer.prepare(window, buffer)
            with self._placing.take(number, ask):
                self._hash(prepared, ask)
                writes = transfer.place(prepared.pieces)
            for write in writes:
                write()
            if transfer.on_written is not None:
                with self._recording.take(number, ask):
                    transfer.on_written(prepared)
            done = window.start + window.length

    def _hash(self, prepared: Prepared, ask: Callable[[], None] | None) -> None:
        digest = self._transfer.digest
        if digest is None:
            return
        if prepared.content is not None:
            digest.update(prepared.content)
            return
        left = prepared.window.length
        while left:
            part = min(left, CHUNK_BYTES)
            digest.update(zeros(part))
            left -= part
            self._placing.check()
            if ask:
                ask()


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


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
