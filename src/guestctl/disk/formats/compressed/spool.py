"""``SpoolDevice``: content that is decompressed from its beginning on, kept in a temporary file without a name.

It is decompressed as far as it is asked for. Zeros become holes, so that an empty disk takes no space.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

from guestctl.block.device import BlockDevice, Buffer, Run
from guestctl.block.file import FileDevice
from guestctl.block.output import OutputFile
from guestctl.core.errors import GuestctlError, UnsupportedFeature

# A small file can hold more zeros than anybody waits for.
DEFAULT_LIMIT_BYTES = 1 << 40
_HOLE_BYTES = 64 << 10
_ZEROS = bytes(_HOLE_BYTES)
# The host needs some space for others; how much there is left is asked after so many bytes.
_MIN_FREE_BYTES = 128 << 20
_BYTES_BETWEEN_LOOKS = 32 << 20
_RUN_BYTES = 64 << 20


class Segment(NamedTuple):
    """A part of the content that can be decompressed without what lies before it."""

    start: int
    size: int | None  # None: as much as there is
    pieces: Callable[[], Iterator[bytes]]


class SpoolDevice(BlockDevice):
    """The content of the segments, which follow one another; owns `device`, which they are read from."""

    def __init__(
        self, device: BlockDevice, segments: Sequence[Segment], size: int, *, limit: int = DEFAULT_LIMIT_BYTES
    ) -> None:
        self.size = size
        self._device = device
        self._limit = limit
        self._check_limit(size)
        self._starts = [segment.start for segment in segments]
        self._segments = [_Filling(segment) for segment in segments]
        self._lock = threading.Lock()
        self._directory = _directory()
        self._unlooked = 0
        self._output = OutputFile(_anonymous_file(self._directory), self._directory)
        try:
            self._open_file(size)
        except BaseException:
            os.close(self._output.fd)
            raise

    @classmethod
    def of_unknown_size(
        cls, device: BlockDevice, pieces: Callable[[], Iterator[bytes]], *, limit: int = DEFAULT_LIMIT_BYTES
    ) -> Self:
        """One segment, which is decompressed now, since its end tells the size."""
        spool = cls(device, [Segment(0, None, pieces)], 0, limit=limit)
        try:
            with spool._lock:
                spool._fill(spool._segments[0], limit + 1)
            spool.size = spool._segments[0].position
            spool._open_file(spool.size)
        except BaseException:
            spool._file.close()
            raise
        return spool

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        self._ensure(offset, length)
        return self._file.read(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.check_range(offset, len(buffer))
        self._ensure(offset, len(buffer))
        self._file.read_into(offset, buffer)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        self.check_range(offset, length)
        end = offset + length
        while offset < end:
            part = min(end - offset, _RUN_BYTES)
            self._ensure(offset, part)
            yield from self._file.runs(offset, part)
            offset += part

    def host_offset(self, offset: int) -> None:
        return None

    def close(self) -> None:
        self._file.close()
        self._device.close()

    def _open_file(self, size: int) -> None:
        self._output.truncate(size)
        self._file = FileDevice(self._output.fd, self._directory, size, mapped=False)

    def _ensure(self, offset: int, length: int) -> None:
        if not length:
            return
        end = offset + length
        first = bisect_right(self._starts, offset) - 1
        for filling in self._segments[first : bisect_right(self._starts, end - 1)]:
            if filling.position < min(end, filling.end):
                with self._lock:
                    self._fill(filling, min(end, filling.end))

    def _fill(self, filling: _Filling, end: int) -> None:
        """Decompress up to `end`."""
        if filling.error is not None:
            raise filling.error
        try:
            while filling.position < end:
                piece = next(filling.pieces, None)
                if piece is None:
                    return
                self._check_limit(filling.position + len(piece))
                self._write(filling.position, piece)
                filling.position += len(piece)
            if filling.position == filling.end:
                # The end of a segment has its checksum.
                for _ in filling.pieces:
                    pass
        except GuestctlError as error:
            filling.error = error
            filling.position = filling.start  # nothing of it is right
            raise

    def _write(self, offset: int, piece: bytes) -> None:
        """Write what is not zeros."""
        view = memoryview(piece)
        start = 0
        for position in range(0, len(piece), _HOLE_BYTES):
            length = min(_HOLE_BYTES, len(piece) - position)
            zero = _ZEROS if length == _HOLE_BYTES else bytes(length)
            if piece.startswith(zero, position):
                self._write_data(offset + start, view[start:position])
                start = position + length
        self._write_data(offset + start, view[start:])

    def _write_data(self, offset: int, data: memoryview) -> None:
        if not data:
            return
        self._unlooked += len(data)
        if self._unlooked >= _BYTES_BETWEEN_LOOKS:
            self._unlooked = 0
            if shutil.disk_usage(self._directory).free < _MIN_FREE_BYTES:
                raise self._no_space()
        try:
            self._output.write_at(offset, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise self._no_space() from error

    def _no_space(self) -> UnsupportedFeature:
        message = f"the decompressed content does not fit in {self._directory}: name another directory with TMPDIR"
        return UnsupportedFeature(message, feature="decompressed content larger than the free space")

    def _check_limit(self, size: int) -> None:
        if size > self._limit:
            feature = f"decompressed content of more than {self._limit} bytes"
            raise UnsupportedFeature(f"{feature}: decompress it first", feature=feature)


class _Filling:
    """How far a segment is decompressed. ``error`` is what ended it."""

    def __init__(self, segment: Segment) -> None:
        self.start = self.position = segment.start
        self.end = 1 << 63 if segment.size is None else segment.start + segment.size
        self.error: GuestctlError | None = None
        self._make = segment.pieces
        self._pieces: Iterator[bytes] | None = None

    @property
    def pieces(self) -> Iterator[bytes]:
        if self._pieces is None:
            self._pieces = self._make()
        return self._pieces


def _directory() -> str:
    """Where large temporary files go; /tmp may be in memory."""
    if "TMPDIR" not in os.environ and os.path.isdir("/var/tmp"):
        return "/var/tmp"
    return tempfile.gettempdir()


def _anonymous_file(directory: str) -> int:
    with tempfile.TemporaryFile(dir=directory, prefix="guestctl-") as file:
        return os.dup(file.fileno())
