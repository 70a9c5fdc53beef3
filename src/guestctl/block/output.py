"""Files being made: nothing stands under its final name before all of it is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from guestctl.block.device import Buffer

_MAX_VECTORS = 512  # of one system call; Linux and the BSDs allow 1024


class OutputFile:
    """A new file, written at any offset from any thread; what is not written reads as zeros."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, offset)
            offset += done
            view = view[done:]

    def write_all_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write `buffers` one after the other from `offset` on."""
        for first in range(0, len(buffers), _MAX_VECTORS):
            part = buffers[first : first + _MAX_VECTORS]
            wanted = sum(map(len, part))
            done = os.pwritev(self.fd, part, offset)
            if done < wanted:
                self.write_at(offset + done, b"".join(part)[done:])
            offset += wanted

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        parts = []
        while length:
            part = os.pread(self.fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long."""
        os.ftruncate(self.fd, size)

    def reserve(self, offset: int, length: int) -> None:
        """Have the host allocate the range, as zeros."""
        os.posix_fallocate(self.fd, offset, length)


class Output:
    """The files of one new image: `main` under the image's own name, others beside it.

    They are written under temporary names; `publish` gives them their final ones, `discard` removes
    them.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = os.fspath(path)
        self._overwrite = overwrite
        self._suffix = f".{secrets.token_hex(4)}.partial"
        self._files: list[OutputFile] = []
        self.main = self._create(self.path)

    def create(self, name: str) -> OutputFile:
        """A further file, beside the image; `name` is its file name, without directories."""
        return self._create(os.path.join(os.path.dirname(self.path), name))

    def _create(self, path: str) -> OutputFile:
        if not self._overwrite and os.path.lexists(path):
            raise FileExistsError(17, "File exists", path)
        fd = os.open(path + self._suffix, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        file = OutputFile(fd, path)
        self._files.append(file)
        return file

    def publish(self) -> None:
        """Flush every file to the disk, then give each its name: the image's own last."""
        for file in self._files:
            os.fsync(file.fd)
        for file in reversed(self._files):
            os.rename(file.path + self._suffix, file.path)
            os.close(file.fd)
        self._files.clear()

    def discard(self) -> None:
        """Remove what was not published."""
        for file in self._files:
            os.close(file.fd)
            os.unlink(file.path + self._suffix)
        self._files.clear()
