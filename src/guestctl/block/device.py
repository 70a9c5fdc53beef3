"""``BlockDevice``, and the loop by which layers that only map share one way of reading.

A layer either *maps* (byte range here is that byte range below, or zeros) or *transforms*
(decompresses, decrypts). A mapping layer derives from `MappedDevice` and answers one question,
`MappedDevice.extent`; clipping, joining, zeros and the descent to the bottom are written here.
A transforming layer names itself as the source of the extents it must compute.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from guestctl.core.errors import EndOfDevice

Buffer = bytes | memoryview

# Chunks are never larger, so that memory stays flat and one buffer of zeros serves every hole.
CHUNK_BYTES = 4 << 20
# Up to here one read costs less than finding the runs.
_SMALL_BYTES = 256 << 10
_PIECE_BYTES = 64 << 10
_ZEROS = memoryview(bytes(CHUNK_BYTES))


def zeros(length: int) -> Buffer:
    """`length` zero bytes; up to `CHUNK_BYTES` they cost no memory of their own."""
    return _ZEROS[:length] if length <= CHUNK_BYTES else bytes(length)


class Extent(NamedTuple):
    """Where a range of a device lies one layer down. All values are in bytes."""

    start: int
    length: int
    source: BlockDevice | None  # None: zeros
    source_offset: int = 0


class Run(NamedTuple):
    """Where a range of a device lies at the bottom of its stack. All values are in bytes.

    ``source`` is a device that holds or computes the bytes itself, or None where they are zeros.
    """

    offset: int
    length: int
    source: BlockDevice | None
    source_offset: int


class BlockDevice(ABC):
    """An array of ``size`` bytes that can be read at any offset, from any thread."""

    size: int
    sector_size: int = 512

    @abstractmethod
    def read(self, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes from `offset`; a read past the end raises `EndOfDevice`.

        A `memoryview` is read-only and valid until the device is closed.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`.

        What is computed comes in pieces of the usual cluster, whose memory is used again and again.
        """
        for done in range(0, len(buffer), _PIECE_BYTES):
            part = self.read(offset + done, min(_PIECE_BYTES, len(buffer) - done))
            buffer[done : done + len(part)] = part

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """The range as runs, ascending, without gaps, neighbours joined."""
        self.check_range(offset, length)
        if length:
            yield Run(offset, length, self, offset)

    def host_offset(self, offset: int) -> int | None:
        """Where `offset` lies in the host file that this device stands for; None where its bytes are computed."""
        return offset

    def close(self) -> None:  # noqa: B027 - most layers own nothing
        """Release what this device opened; devices that were handed to it stay open."""

    def check_range(self, offset: int, length: int) -> None:
        """Raise `EndOfDevice` unless the range lies inside the device."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise EndOfDevice(offset=offset, length=length, size=self.size)

    def chunks(self, offset: int, length: int) -> Iterator[tuple[Run, Buffer]]:
        """The range's bytes in order, in buffers of at most `CHUNK_BYTES`, each with its run.

        Where ``run.source`` is None the buffer is zeros, and a caller may make a hole instead.
        """
        for batch in _batches(self.runs(offset, length)):
            yield from _read_together(batch) if len(batch) > 1 else _read_alone(batch[0])

    def buffers(self, offset: int, length: int) -> Iterator[Buffer]:
        """The range's bytes in order, in buffers of at most `CHUNK_BYTES`, for who does not ask about holes."""
        if length <= _SMALL_BYTES:
            yield self.read(offset, length)
        else:
            for _, buffer in self.chunks(offset, length):
                yield buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class MappedDevice(BlockDevice):
    """A device whose bytes lie elsewhere; a subclass says where, one extent at a time."""

    @abstractmethod
    def extent(self, offset: int) -> Extent:
        """The extent that covers `offset` (which lies inside the device).

        It may begin before `offset` and may end past the device; it must cover at least one byte.
        ``source`` may be this device itself for bytes that must be computed: the subclass then
        overrides `compute`, and ``source_offset`` equals ``start``.
        """

    def compute(self, offset: int, length: int) -> Buffer:
        """The bytes of a range for which `extent` names this device as the source."""
        raise AssertionError(f"{type(self).__name__} computes nothing")

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        if not length:
            return b""
        start, extent_length, source, source_offset = self.extent(offset)
        skip = offset - start
        if length <= extent_length - skip:
            if source is None:
                return zeros(length)
            if source is self:
                return self.compute(offset, length)
            return source.read(source_offset + skip, length)
        parts = []
        end = offset + length
        while True:
            part = min(end - offset, extent_length - skip)
            if source is None:
                parts.append(zeros(part))
            elif source is self:
                parts.append(self.compute(offset, part))
            else:
                parts.append(source.read(source_offset + skip, part))
            offset += part
            if offset >= end:
                return b"".join(parts)
            start, extent_length, source, source_offset = self.extent(offset)
            skip = offset - start

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        self.check_range(offset, length)
        return _joined(self._runs(offset, length))

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        while offset < end:
            start, extent_length, source, source_offset = self.extent(offset)
            skip = offset - start
            part = min(end - offset, extent_length - skip)
            if source is None or source is self:
                yield Run(offset, part, source, offset if source is self else 0)
            else:
                shift = offset - (source_offset + skip)
                for run in source.runs(source_offset + skip, part):
                    yield Run(run.offset + shift, run.length, run.source, run.source_offset)
            offset += part


def _batches(runs: Iterator[Run]) -> Iterator[list[Run]]:
    """Large runs alone, small ones in lists of which each is to be read at once."""
    batch: list[Run] = []
    room = CHUNK_BYTES
    for run in runs:
        if batch and run.length > min(room, _PIECE_BYTES):
            yield batch
            batch, room = [], CHUNK_BYTES
        if run.length > _PIECE_BYTES:
            yield [run]
        else:
            batch.append(run)
            room -= run.length
    if batch:
        yield batch


def _read_alone(run: Run) -> Iterator[tuple[Run, Buffer]]:
    done = 0
    while done < run.length:
        part = min(CHUNK_BYTES, run.length - done)
        piece = Run(run.offset + done, part, run.source, run.source_offset + done)
        yield piece, zeros(part) if run.source is None else run.source.read(piece.source_offset, part)
        done += part


def _read_together(runs: list[Run]) -> Iterator[tuple[Run, Buffer]]:
    """What lies side by side on its source, as every so-many-th stripe does, is read in one piece."""
    last: dict[BlockDevice, _Piece] = {}
    pieces = []
    for _, length, source, start in runs:
        piece = last.get(source) if source is not None else None
        if source is not None and (piece is None or piece.end != start):
            piece = last[source] = _Piece(start)
        if piece is not None:
            piece.end = start + length
        pieces.append(piece)
    for run, piece in zip(runs, pieces, strict=True):
        if piece is None or run.source is None:
            yield run, zeros(run.length)
            continue
        if piece.buffer is None:
            piece.buffer = memoryview(run.source.read(piece.start, piece.end - piece.start))
        at = run.source_offset - piece.start
        yield run, piece.buffer[at : at + run.length]


class _Piece:
    """A range of a source that serves several runs."""

    __slots__ = ("buffer", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.buffer: memoryview | None = None


def _joined(runs: Iterator[Run]) -> Iterator[Run]:
    pending: Run | None = None
    for run in runs:
        if pending is None:
            pending = run
        elif run.source is pending.source and (
            run.source is None or run.source_offset == pending.source_offset + pending.length
        ):
            pending = Run(pending.offset, pending.length + run.length, pending.source, pending.source_offset)
        else:
            yield pending
            pending = run
    if pending is not None:
        yield pending


class WritableDevice(BlockDevice):
    """A device that takes writes from any thread."""

    zeroes_fast: bool = True  # `discard` takes less time than writing zeros would

    @abstractmethod
    def write(self, offset: int, data: Buffer) -> None:
        """Put `data` at `offset`; raises `EndOfDevice` past the end, ``OSError`` where the host is full."""

    @abstractmethod
    def discard(self, offset: int, length: int) -> None:
        """Make the range read as zeros, which need no space."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written would survive a loss of power."""


class ExtentsDevice(MappedDevice):
    """`size` bytes in these extents, which begin at 0, follow one another, and may reach further."""

    def __init__(self, extents: Sequence[Extent], size: int) -> None:
        self.size = size
        self._extents = extents
        self._starts = [extent.start for extent in extents]

    def extent(self, offset: int) -> Extent:
        return self._extents[bisect_right(self._starts, offset) - 1]


class SliceDevice(BlockDevice):
    """`size` bytes of `parent` from `start`; clipped to the parent where it ends early."""

    def __init__(self, parent: BlockDevice, start: int, size: int) -> None:
        if isinstance(parent, SliceDevice):
            size = max(0, min(size, parent.size - start))
            start, parent = start + parent.start, parent.parent
        self.parent: BlockDevice = parent
        self.start: int = start
        self.size = max(0, min(size, parent.size - start))
        self.sector_size = parent.sector_size

    def read(self, offset: int, length: int) -> Buffer:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise EndOfDevice(offset=offset, length=length, size=self.size)
        return self.parent.read(self.start + offset, length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        self.check_range(offset, length)
        start = self.start
        for run in self.parent.runs(start + offset, length):
            yield Run(run.offset - start, run.length, run.source, run.source_offset)

    def host_offset(self, offset: int) -> int | None:
        return self.parent.host_offset(self.start + offset)


class WritableSlice(SliceDevice, WritableDevice):
    """A `SliceDevice` whose writes go to `target`, its parent."""

    def __init__(self, target: WritableDevice, start: int, size: int) -> None:
        super().__init__(target, start, size)
        self.target = target
        self.zeroes_fast = target.zeroes_fast

    def write(self, offset: int, data: Buffer) -> None:
        self.check_range(offset, memoryview(data).nbytes)
        self.target.write(self.start + offset, data)

    def discard(self, offset: int, length: int) -> None:
        self.check_range(offset, length)
        self.target.discard(self.start + offset, length)

    def flush(self) -> None:
        self.target.flush()


class MemoryDevice(BlockDevice):
    """A device over bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview, sector_size: int = 512) -> None:
        self._view = memoryview(data).toreadonly().cast("B")
        self.size = len(self._view)
        self.sector_size = sector_size

    def read(self, offset: int, length: int) -> Buffer:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise EndOfDevice(offset=offset, length=length, size=self.size)
        return self._view[offset : offset + length]
