"""Files being made: nothing stands under its final name before all of it is written."""

from __future__ import annotations

import errno
import os
import queue
import stat
import struct
import sys
import threading
from collections.abc import Sequence

from guestctl.block.device import CHUNK_BYTES, Buffer, zeros
from guestctl.block.file import FileDevice
from guestctl.core.errors import ConversionError

_MAX_VECTORS = 512  # of one system call; Linux and the BSDs allow 1024
# Writing into reserved space costs the kernel half of what it costs to find the space page by page.
_MIN_RESERVED_BYTES = 64 << 10
# Dirty pages go to the disk in pieces of this size while the next are being filled.
_FLUSH_BYTES = 8 << 20

# Linux: <linux/falloc.h>, <linux/fs.h>. posix_fallocate would write zeros where a filesystem cannot reserve.
_FS_IOC_RESVSP64 = 0x4030582A
_FS_IOC_UNRESVSP64 = 0x4030582B
_BLKZEROOUT = 0x127F
_SPACE_RESV = struct.Struct("@hhqqiI4i")  # l_type, l_whence, l_start, l_len, l_sysid, l_pid, l_pad


class OutputFile:
    """A new file, written at any offset; what is not written reads as zeros."""

    def __init__(self, fd: int, path: str, *, flusher: Flusher | None = None) -> None:
        self.fd = fd
        self.path = path
        self._flusher = flusher
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._reserves = self._is_regular and sys.platform == "linux"
        self._unflushed = (0, 0)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            done = _pwrite(self.fd, view, offset)
            offset += done
            view = view[done:]

    def write_all_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write `buffers` one after the other from `offset` on."""
        if not hasattr(os, "pwritev"):
            self.write_at(offset, b"".join(buffers))
            return
        for first in range(0, len(buffers), _MAX_VECTORS):
            part = buffers[first : first + _MAX_VECTORS]
            wanted = sum(map(len, part))
            done = os.pwritev(self.fd, part, offset)
            if done < wanted:
                self.write_at(offset + done, b"".join(part)[done:])
            offset += wanted

    def fill(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write much data, of which the disk may have its part at once; several threads may."""
        length = sum(map(len, buffers))
        if self._reserves and length >= _MIN_RESERVED_BYTES:
            self._reserve(offset, length)
        if len(buffers) == 1:
            self.write_at(offset, buffers[0])
        else:
            self.write_all_at(offset, buffers)
        if self._flusher is not None:
            self._flush(offset, offset + length)

    def _flush(self, start: int, end: int) -> None:
        """Note what was written; neighbours go to the disk together, whichever thread was first."""
        first, last = self._unflushed
        if last - first < _FLUSH_BYTES and first - _FLUSH_BYTES <= start <= last + _FLUSH_BYTES:
            self._unflushed = (min(first, start), max(last, end))
            return
        self._unflushed = (start, end)
        assert self._flusher is not None
        self._flusher.flush(self.fd, first, last - first)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        parts = []
        while length:
            part = _pread(self.fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def occupied(self) -> int:
        """Bytes that the file occupies on the host."""
        status = os.fstat(self.fd)
        return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long; a block device keeps its size."""
        if self._is_regular:
            os.ftruncate(self.fd, size)

    def reserve(self, offset: int, length: int) -> None:
        """Have the host allocate the range, as zeros."""
        if not hasattr(os, "posix_fallocate"):  # macOS, Windows
            raise OSError(errno.ENOTSUP, "This system cannot reserve space for a file", self.path)
        os.posix_fallocate(self.fd, offset, length)

    def give_back(self, offset: int, length: int) -> None:
        """Return the space of a range to the host, where that is possible; it then reads as zeros."""
        if not self._reserves:
            return
        import fcntl

        try:
            fcntl.ioctl(self.fd, _FS_IOC_UNRESVSP64, _SPACE_RESV.pack(0, os.SEEK_SET, offset, length, 0, 0, 0, 0, 0, 0))
        except OSError:
            self._reserves = False

    def zero(self, offset: int, length: int) -> None:
        """Make a range of a block device, which may hold anything, read as zeros."""
        import fcntl

        try:
            fcntl.ioctl(self.fd, _BLKZEROOUT, struct.pack("=QQ", offset, length))
        except OSError:
            for done in range(0, length, CHUNK_BYTES):
                self.write_at(offset + done, zeros(min(CHUNK_BYTES, length - done)))

    def _reserve(self, offset: int, length: int) -> None:
        import fcntl

        try:
            fcntl.ioctl(self.fd, _FS_IOC_RESVSP64, _SPACE_RESV.pack(0, os.SEEK_SET, offset, length, 0, 0, 0, 0, 0, 0))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            self._reserves = False


class Flusher:
    """A thread that starts writing finished ranges to the disk, so that the last ``fsync`` has little to do."""

    def __init__(self) -> None:
        self._ranges: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def flush(self, fd: int, offset: int, length: int) -> None:
        if not hasattr(os, "posix_fadvise") or not length:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._ranges.put((fd, offset, length))

    def close(self) -> None:
        if self._thread is not None:
            self._ranges.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (piece := self._ranges.get()) is not None:
            # Linux writes dirty pages back when told that they are not needed, and keeps them until that is done.
            os.posix_fadvise(*piece, os.POSIX_FADV_DONTNEED)


class Output:
    """The files of one new image: `main` under the image's own name, others beside it.

    They are written under temporary names; `publish` gives them their final ones, `discard` removes
    them. A `resumable` output keeps its temporary names from run to run, and goes on with what it
    finds there. With `sync` everything is on the disk before it gets its name.

    No file of `reading` is replaced, whatever its name. A block device is written in place.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        resumable: bool = False,
        sync: bool = True,
        reading: Sequence[FileDevice] = (),
    ) -> None:
        self.path = os.fspath(path)
        self.is_device = _is_block_device(self.path)
        self._overwrite = overwrite
        self._resumable = resumable
        self._starts_over = False
        self._reading = reading
        self._published: list[str] = []
        self._suffix = ".partial" if resumable else f".{os.urandom(4).hex()}.partial"
        self.files: list[OutputFile] = []
        self._flusher = Flusher() if sync else None
        self.main = self._open_device() if self.is_device else self._create(self.path)

    def create(self, name: str) -> OutputFile:
        """A further file, beside the image; `name` is its file name, without directories."""
        path = os.path.join(os.path.dirname(self.path), name)
        for file in self.files:
            if self._resumable and file.path == path:
                return file  # for a second writer, which goes on where the first one found the end
        return self._create(path)

    def start_over(self) -> None:
        """Forget what is in the files that an interrupted run left."""
        self._starts_over = True
        self.main.truncate(0)

    def _open_device(self) -> OutputFile:
        refuse_overwriting(self.path, self._reading, overwrite=True)
        if not self._overwrite:
            raise FileExistsError(errno.EEXIST, "A block device is overwritten only when forced to be", self.path)
        # O_EXCL: fails for a device that is mounted or otherwise in use.
        return self._add(os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC), self.path)

    def _create(self, path: str) -> OutputFile:
        refuse_overwriting(path, self._reading, overwrite=self._overwrite)
        if self._resumable:
            for name in (path + self._suffix, path + self._suffix + ".record"):
                refuse_overwriting(name, self._reading, overwrite=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) if self._resumable else os.O_EXCL
        fd = os.open(path + self._suffix, flags, 0o666)
        if self._resumable:
            _lock(fd, path)
        if self._starts_over:
            os.ftruncate(fd, 0)
        return self._add(fd, path)

    def _add(self, fd: int, path: str) -> OutputFile:
        file = OutputFile(fd, path, flusher=self._flusher)
        self.files.append(file)
        return file

    def publish(self) -> None:
        """Give each file its name, the image's own last."""
        if self._flusher is not None:
            self._flusher.close()
            for file in self.files:
                os.fsync(file.fd)
        while self.files:
            file = self.files[-1]
            if not self.is_device:
                self._rename(file.path + self._suffix, file.path)
                self._published.append(file.path)
            os.close(self.files.pop().fd)
        if self._flusher is not None and not self.is_device:
            _sync_directory(os.path.dirname(self.path) or ".")

    def _rename(self, temporary: str, path: str) -> None:
        if not self._overwrite:
            try:
                os.link(temporary, path)  # unlike rename, fails where somebody made the file in the meantime
            except FileExistsError:
                raise
            except OSError:
                pass  # a filesystem without links
            else:
                os.unlink(temporary)
                return
        os.replace(temporary, path)

    def discard(self) -> None:
        """Remove what was made, published or not; what can be resumed stays."""
        if self._flusher is not None:
            self._flusher.close()
        for file in self.files:
            os.close(file.fd)
            if not self.is_device and not self._resumable:
                os.unlink(file.path + self._suffix)
        for path in self._published:
            os.unlink(path)
        self.files.clear()
        self._published.clear()


def refuse_overwriting(path: str, reading: Sequence[FileDevice], *, overwrite: bool) -> None:
    """Raise where `path` is a file of `reading`, through whatever links, and where it exists unless `overwrite`."""
    try:
        target = os.stat(path)
    except OSError:
        target = None
    for file in reading:
        if target is not None and os.path.samestat(target, file.status()):
            raise ConversionError(f"{path}: is {file.path}, which is being read")
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


_seeking = threading.Lock()


def _pread_by_seeking(fd: int, length: int, offset: int, /) -> bytes:
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def _pwrite_by_seeking(fd: int, data: Buffer, offset: int, /) -> int:
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


# Windows has neither.
_pread = getattr(os, "pread", _pread_by_seeking)
_pwrite = getattr(os, "pwrite", _pwrite_by_seeking)


def _is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _lock(fd: int, path: str) -> None:
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise BlockingIOError(error.errno, "Another process is writing it", path) from None


def _sync_directory(path: str) -> None:
    if os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network filesystems have no such thing
    finally:
        os.close(fd)
