"""What is in files: all of it, lines from either end, parts."""

from __future__ import annotations

import errno
import os

from guestctl.block import BlockDevice
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.paths import Paths

# What is given as one value must fit in memory; a string in a list takes some 60 bytes besides its own.
MAX_BYTES = 2 << 30
MAX_LINES = 10_000_000
_PIECE_BYTES = 256 << 10


class Files(Paths):
    """``cat``, ``read_file``, ``head``, ``pread`` and the like.

    What libguestfs gives as text ends at the first zero byte, because C's strings do; so it does here. Bytes that are
    no UTF-8 are surrogate escapes, as ``os.fsdecode`` has it.
    """

    @launched
    def read_file(self, path: str) -> bytes:
        """The bytes of a file or device."""
        return whole(self._content_or_device(path), path)

    @launched
    def cat(self, path: str) -> str:
        """The content of a file or device as text."""
        return text(until_zero(self._content_or_device(path), path))

    @launched
    def read_lines(self, path: str) -> list[str]:
        """The lines of a file without LF or CRLF at their ends; each ends at its first zero byte."""
        content = whole(self._content_or_device(path), path)
        check_lines(content)
        lines = content.removesuffix(b"\n").split(b"\n") if content else []
        return [text(line.removesuffix(b"\r")) for line in lines]

    @launched
    def head(self, path: str) -> list[str]:
        """The first 10 lines."""
        return self.head_n(10, path)

    @launched
    def head_n(self, nrlines: int, path: str) -> list[str]:
        """The first `nrlines` lines; all but so many at the end where it is negative."""
        device = self._content(path)
        if nrlines >= 0:
            return text_lines(_first_lines(device, nrlines, path))
        if -nrlines > device.size:
            return []
        content = whole(device, path)
        return text_lines(content[: _line_from_end(content, -nrlines)])

    @launched
    def tail(self, path: str) -> list[str]:
        """The last 10 lines."""
        return self.tail_n(10, path)

    @launched
    def tail_n(self, nrlines: int, path: str) -> list[str]:
        """The last `nrlines` lines; those from line ``-nrlines`` on where it is negative."""
        device = self._content(path)
        if nrlines >= 0:
            return text_lines(_last_lines(device, nrlines, path))
        content = whole(device, path)
        at = 0
        for _ in range(min(-nrlines - 1, len(content))):
            at = content.find(b"\n", at) + 1
            if not at:
                return []
        return text_lines(content[at:])

    @launched
    def pread(self, path: str, count: int, offset: int) -> bytes:
        """Up to `count` bytes of a file from `offset`; fewer where it ends."""
        return _part(self._content(path), count, offset)

    @launched
    def pread_device(self, device: str, count: int, offset: int) -> bytes:
        """Up to `count` bytes of a device from `offset`."""
        return _part(self._device(device), count, offset)

    @launched
    def is_zero(self, path: str) -> bool:
        """Whether a file is empty, or has no byte that is not zero."""
        return _all_zero(self._content(path))

    @launched
    def is_zero_device(self, device: str) -> bool:
        """Whether a device has no byte that is not zero."""
        return _all_zero(self._device(device))

    @launched
    def equal(self, file1: str, file2: str) -> bool:
        """Whether two files have the same bytes."""
        if self._tree.resolve(self._path(file1)) == self._tree.resolve(self._path(file2)):
            return True
        first, second = self._content(file1), self._content(file2)
        if first.size != second.size:
            return False
        steps = range(0, first.size, _PIECE_BYTES * 4)
        return all(
            bytes(first.read(at, min(steps.step, first.size - at))) == second.read(at, min(steps.step, first.size - at))
            for at in steps
        )


def whole(device: BlockDevice, path: str) -> bytes:
    """All bytes, where they can be given as one value."""
    if device.size > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return bytes(device.read(0, device.size))


def until_zero(device: BlockDevice, path: str) -> bytes:
    """The bytes before the first that is zero."""
    parts: list[bytes] = []
    size = 0
    for buffer in device.buffers(0, device.size):
        part, zero, _ = bytes(buffer).partition(b"\0")
        parts.append(part)
        size += len(part)
        if zero:
            break
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return b"".join(parts)


def text(content: bytes) -> str:
    """As C takes it: up to the first zero byte."""
    return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def check_lines(content: bytes) -> None:
    """Refuse more lines than may be in a list."""
    if content.count(b"\n") > MAX_LINES:
        raise GuestFSError(f"more than {MAX_LINES} lines", errno.EFBIG)


def text_lines(content: bytes) -> list[str]:
    """The lines of what a command would print."""
    check_lines(content)
    lines = text(content).split("\n")
    return lines if lines[-1] else lines[:-1]


def _first_lines(device: BlockDevice, count: int, path: str) -> bytes:
    """No more than is needed: what follows a zero byte is not shown."""
    found = b""
    while count and len(found) < device.size:
        at, length = len(found), min(max(_PIECE_BYTES, len(found)), device.size - len(found))
        if at + length > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        piece = bytes(device.read(at, length))
        found += piece
        if b"\0" in piece or found.count(b"\n") >= count:
            break
    return found[: _line_from_start(found, count)]


def _last_lines(device: BlockDevice, count: int, path: str) -> bytes:
    found = b""
    while count and len(found) < device.size:
        length = min(max(_PIECE_BYTES, len(found)), device.size - len(found))
        if len(found) + length > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        found = bytes(device.read(device.size - len(found) - length, length)) + found
        if found.count(b"\n") > count:
            break
    return found[_line_from_end(found, count) :]


def _line_from_start(content: bytes, count: int) -> int:
    """Where the first `count` lines end."""
    at = 0
    for _ in range(min(count, len(content))):
        at = content.find(b"\n", at) + 1
        if not at:
            return len(content)
    return at


def _line_from_end(content: bytes, count: int) -> int:
    """Where the last `count` lines begin."""
    if not count:
        return len(content)
    at = len(content) - content.endswith(b"\n")
    for _ in range(min(count, len(content) + 1)):
        at = content.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _part(device: BlockDevice, count: int, offset: int) -> bytes:
    if count < 0:
        raise GuestFSError("count is negative", errno.EINVAL)
    if offset < 0:
        raise GuestFSError("offset is negative", errno.EINVAL)
    if offset >= device.size:
        return b""
    return bytes(device.read(offset, min(count, device.size - offset, MAX_BYTES)))


def _all_zero(device: BlockDevice) -> bool:
    """Holes are not read."""
    return all(run.source is None or not bytes(buffer).lstrip(b"\0") for run, buffer in device.chunks(0, device.size))
