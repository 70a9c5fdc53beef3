"""Files and block devices of the host, mapped into memory where the platform can."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from typing import Self

from guestctl.block.device import BlockDevice, Buffer, Run
from guestctl.core.errors import EndOfDevice

# From here on copying out of the page cache costs no more than faulting pages in.
_BULK_BYTES = 4 << 10
# Each read of the map makes up to 64 KiB resident (the kernel maps neighbours too): let go of them
# after so many reads, or a long walk would grow the process to the size of the metadata.
_READS_BEFORE_RELEASE = 512
# In a range shorter than this a hole is not worth the system calls that find it, unless it is the whole file.
_MIN_HOLE_BYTES = 256 << 10


class FileDevice(BlockDevice):
    """A regular file or block device, read-only.

    Small reads are slices of a memory map; bulk reads, block devices and files that cannot be
    mapped go through ``pread``. A file that another process truncates while it is mapped ends this
    process, as with any memory map: images are opened while nobody shrinks them.
    """

    def __init__(self, fd: int, path: str, size: int, *, mapped: bool) -> None:
        self.path = path
        self.size = size
        self._fd = fd
        self._opened = os.fstat(fd)
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._reads = 0
        self._lock = threading.Lock()
        if mapped and size:
            try:
                self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            except (OSError, ValueError, OverflowError):
                return  # file systems without mmap, or no room in the address space
            self._view = memoryview(self._map)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mapped: bool = True) -> Self:
        """Open `path`; raises ``OSError`` where it is missing, a directory or not a file at all."""
        path = os.fspath(path)
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(path, flags)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise OSError(errno.EINVAL, "Not a regular file or block device", path)
            size = os.lseek(fd, 0, os.SEEK_END)
            return cls(fd, path, size, mapped=mapped and stat.S_ISREG(mode))
        except BaseException:
            os.close(fd)
            raise

    def read(self, offset: int, length: int) -> Buffer:
        end = offset + length
        if offset < 0 or length < 0 or end > self.size:
            raise EndOfDevice(offset=offset, length=length, size=self.size)
        if self._view is not None and length < _BULK_BYTES:
            self._reads += 1
            if not self._reads % _READS_BEFORE_RELEASE:
                self._release_pages()
            return self._view[offset:end]
        return self._pread(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if not hasattr(os, "preadv"):
            super().read_into(offset, buffer)
            return
        while buffer:
            done = os.preadv(self._fd, [buffer], offset)
            if not done:
                raise EndOfDevice(offset=offset, length=len(buffer), size=offset)
            offset += done
            buffer = buffer[done:]

    def fileno(self) -> int:
        """The descriptor, for positional system calls."""
        return self._fd

    def status(self) -> os.stat_result:
        """The file as it is on the host now."""
        return os.fstat(self._fd)

    def changed(self) -> bool:
        """Whether the file was written since it was opened."""
        before, now = self._opened, self.status()
        return (before.st_mtime_ns, before.st_size) != (now.st_mtime_ns, now.st_size)

    def occupied(self) -> int:
        """Bytes that the file occupies on the host."""
        status = self.status()
        return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size

    def _release_pages(self) -> None:
        """Views stay valid: their pages come back from the page cache when they are touched."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        if length < min(_MIN_HOLE_BYTES, self.size) or not hasattr(os, "SEEK_HOLE"):
            yield from super().runs(offset, length)
            return
        self.check_range(offset, length)
        end = offset + length
        while offset < end:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                yield Run(offset, data - offset, None, 0)
            if data == end:
                return
            offset = self._seek(data, os.SEEK_HOLE, end)
            yield Run(data, offset - data, self, data)

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return min(os.lseek(self._fd, offset, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO and whence == os.SEEK_DATA:
                size = os.lseek(self._fd, 0, os.SEEK_END)
                if size < end:  # the file was cut off
                    raise EndOfDevice(offset=offset, length=end - offset, size=size) from error
                return end  # no data from here to the end
            return end if whence == os.SEEK_HOLE else offset

    def _pread(self, offset: int, length: int) -> bytes:
        content = self._pread_some(length, offset)
        if len(content) == length:
            return content
        parts = []
        while content:
            parts.append(content)
            offset += len(content)
            length -= len(content)
            if not length:
                return b"".join(parts)
            content = self._pread_some(length, offset)
        raise EndOfDevice(offset=offset, length=length, size=offset)

    if hasattr(os, "pread"):

        def _pread_some(self, length: int, offset: int) -> bytes:
            return os.pread(self._fd, length, offset)

    else:

        def _pread_some(self, length: int, offset: int) -> bytes:
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.read(self._fd, length)

    def close(self) -> None:
        if self._view is not None:
            view, self._view = self._view, None
            view.release()
        if self._map is not None:
            mapping, self._map = self._map, None
            try:
                mapping.close()
            except BufferError:
                pass  # a caller still holds a view; the map goes when the view does
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
