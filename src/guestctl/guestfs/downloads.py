"""Files, devices and directories on their way to the host: as they are, in base64, made smaller."""

from __future__ import annotations

import base64
import bz2
import errno
import gzip
import lzma
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from guestctl.block import BlockDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.filesystem import WalkError
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.events import EVENT_PROGRESS
from guestctl.guestfs.paths import Paths, write_all

_BASE64_LINE_BYTES = 57  # 76 characters, as base64(1) has them
_BASE64_BYTES = _BASE64_LINE_BYTES << 14
_COMPRESSIONS = ("compress", "gzip", "bzip2", "xz", "lzop")
_ABSENT_COMPRESSIONS = ("compress", "lzop")


class Downloads(Paths):
    """``download``, ``copy_out``, ``base64_out``, ``compress_out`` and the like."""

    def _download(self, device: BlockDevice, offset: int, length: int, stream: IO[bytes]) -> None:
        """Write a range of a device; holes stay holes where the host's file can have them."""
        sparse = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
        done = 0
        for run, buffer in device.chunks(offset, length):
            if run.source is None and sparse:
                stream.seek(len(buffer), os.SEEK_CUR)
            else:
                write_all(stream, buffer)
            done += len(buffer)
            self._events.send(EVENT_PROGRESS, "", (0, 1, done, length))
        if sparse:
            stream.truncate(length)

    @launched
    def download(self, remotefilename: str, filename: str) -> None:
        """Copy a file or device to the host's file `filename`."""
        device = self._content_or_device(remotefilename)
        with self._host_file(filename) as stream:
            self._download(device, 0, device.size, stream)

    @launched
    def download_offset(self, remotefilename: str, filename: str, offset: int, size: int) -> None:
        """`download` of `size` bytes from `offset`; fewer where it ends."""
        device = self._content_or_device(remotefilename)
        if offset < 0:
            raise GuestFSError(f"{remotefilename}: offset in file is negative", errno.EINVAL)
        if size < 0:
            raise GuestFSError(f"{remotefilename}: size is negative", errno.EINVAL)
        offset = min(offset, device.size)
        size = min(size, device.size - offset)
        with self._host_file(filename) as stream:
            self._download(device, offset, size, stream)

    @launched
    def download_inode(self, device: str, inode: int, filename: str) -> None:
        """`download` of a regular file by its inode number; its filesystem need not be mounted."""
        if inode < 0:
            raise GuestFSError("inode must be >= 0", errno.EINVAL)
        filesystem = self._filesystem(device)
        walked = filesystem.find("/", onerror=lambda error: None)
        node, status = next(((node, status) for _, node, status in walked if status.st_ino == inode), (None, None))
        if status is None:
            raise OSError(errno.ENOENT, "no file has this number", f"{device}: inode {inode}")
        if not status.is_file():
            raise OSError(errno.EINVAL, "not a regular file", f"{device}: inode {inode}")
        content = filesystem.node_data(node)
        with self._host_file(filename) as stream:
            self._download(content, 0, content.size, stream)

    @launched
    def download_blocks(
        self, device: str, start: int, stop: int, filename: str, unallocated: bool | None = None
    ) -> None:
        """`download` of the blocks of ext2, ext3 or ext4 from `start` to `stop`.

        With `unallocated`, of those alone that are known not to be used.
        """
        if start < 0:
            raise GuestFSError("starting address must be greater than zero", errno.EINVAL)
        if stop <= start:
            raise GuestFSError("stopping address must greater than starting address", errno.EINVAL)
        filesystem, content = self._filesystem(device), self._device(device)
        if not filesystem.type.startswith("ext"):
            raise UnsupportedFeature(f"blocks of {filesystem.type} by their numbers", feature=filesystem.type)
        first, end = start * filesystem.block_size, min((stop + 1) * filesystem.block_size, filesystem.size)
        ranges = filesystem.free_ranges() if unallocated else [(first, max(0, end - first))]
        with self._host_file(filename) as stream:
            for offset, length in ranges:
                at, past = max(first, offset), min(end, offset + length)
                for buffer in content.buffers(at, past - at) if at < past else ():
                    write_all(stream, buffer)

    @launched
    def copy_out(self, remotepath: str, localdir: str) -> None:
        """Copy a file, or a directory with what is below it, into the host's directory `localdir`.

        Owners and set-id bits are not kept. What cannot be copied, such as a device node, raises when all else is.
        """
        from guestctl.disk.copy_out import copy_out

        path = self._path(remotepath)
        if not os.path.isdir(localdir):
            raise GuestFSError(f"target '{localdir}' is not a directory", errno.ENOTDIR)
        if not (self.is_file(path) or self.is_dir(path)):
            raise GuestFSError(f"'{path}' is not a file or directory", errno.ENOENT)
        errors: list[WalkError] = []
        copy_out(self._tree, path, localdir, keep=self._images(), onerror=errors.append)
        if errors:
            raise errors[0].error

    @launched
    def base64_out(self, filename: str, base64file: str) -> None:
        """Write a file in base64 to the host's file `base64file`."""
        device = self._content_or_device(filename)
        with self._host_file(base64file) as stream:
            for at in range(0, device.size, _BASE64_BYTES):
                part = device.read(at, min(_BASE64_BYTES, device.size - at))
                write_all(stream, base64.encodebytes(part))

    @launched
    def compress_out(self, ctype: str, file: str, zfile: str, level: int | None = None) -> None:
        """Write a file, made smaller by gzip, bzip2, xz or zstd, to the host's file `zfile`."""
        self._compress(ctype, self._content(file), zfile, level)

    @launched
    def compress_device_out(self, ctype: str, device: str, zdevice: str, level: int | None = None) -> None:
        """`compress_out` of a device."""
        self._compress(ctype, self._device(device), zdevice, level)

    def _compress(self, kind: str, device: BlockDevice, filename: str, level: int | None) -> None:
        level = None if level == -1 else level
        check_compression(kind, level)
        with self._host_file(filename) as raw, compressed(kind, raw, level) as stream:
            for buffer in device.buffers(0, device.size):
                stream.write(buffer)


def check_compression(kind: str, level: int | None = None) -> None:
    """Refuse what there is none of, before anything is written."""
    if kind not in _COMPRESSIONS:
        raise GuestFSError("unknown compression type", errno.EINVAL)
    if kind in _ABSENT_COMPRESSIONS:
        raise GuestFSError(f"compression type {kind} is not supported", errno.ENOTSUP)
    least = 1 if kind in ("gzip", "bzip2") else 0
    if level is not None and not least <= level <= 9:
        raise GuestFSError(f"{kind}: incorrect value for level parameter", errno.EINVAL)


@contextmanager
def compressed(kind: str, raw: IO[bytes], level: int | None = None) -> Iterator[IO[bytes]]:
    """A stream that makes smaller what is written, and writes that to `raw`."""
    stream = _compressor(kind, raw, level)
    with stream:
        yield stream


def _compressor(kind: str, raw: IO[bytes], level: int | None) -> Any:
    if kind == "gzip":
        return _gzip(raw, level)
    if kind == "bzip2":
        return bz2.BZ2File(raw, "wb", compresslevel=9 if level is None else level)
    return lzma.LZMAFile(raw, "wb", preset=level)


def _gzip(raw: IO[bytes], level: int | None) -> Any:
    """Without a level, the fast one of ISA-L."""
    if level is None:
        try:
            from isal import igzip
        except ImportError:
            pass
        else:
            library: Any = igzip
            return library.IGzipFile("", "wb", fileobj=raw, mtime=0)
    return gzip.GzipFile("", "wb", 6 if level is None else level, fileobj=raw, mtime=0)
