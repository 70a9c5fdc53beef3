"""A directory of a filesystem as a tar archive: POSIX.1-2001 (pax) interchange format.

Extended attributes are ``SCHILY.xattr.`` records, as GNU tar and bsdtar write and read them; owners
are numbers; times have nanoseconds. Sockets have no form in a tar archive and are left out.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any

from guestctl.block.device import Buffer, zeros
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.filesystem import FileSystem, WalkError
from guestctl.disk.stat import FileStat

_BLOCK_BYTES = 512
_RECORD_BYTES = 20 * _BLOCK_BYTES
_FLUSH_BYTES = 1 << 20
# A ustar header: name, then these, chksum, typeflag, linkname, and the tail.
_NUMBERS = b"%07o\0%07o\0%07o\0%011o\0%011o\0"  # mode uid gid size mtime
_BLANK_CHECKSUM = b" " * 8
_MAX_OCTAL7 = 0o7777777
_MAX_OCTAL11 = 0o77777777777
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK = b"1"


def _tail(major: int, minor: int) -> bytes:
    """magic version uname gname devmajor devminor prefix, and what fills the block."""
    return b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (major, minor) + bytes(155 + 12)


_TAIL = _tail(0, 0)
_PAX_HEADER = b"x"


def write_tar(
    filesystem: FileSystem[Any],
    path: str,
    stream: IO[bytes],
    *,
    onerror: Callable[[WalkError], None] | None = None,
) -> None:
    """Write what is at `path`, and below it, to `stream`; names begin with ``./`` relative to it.

    `onerror` receives what cannot be read, and the archive goes on without it.
    """
    archive = _Archive(filesystem, stream, onerror)
    base = "/" + path.strip("/")
    top = filesystem.resolve(path)
    if not filesystem.node_stat(top).is_dir():
        archive.add("./" + base.rpartition("/")[2], base, top, filesystem.node_stat(top))
    else:
        base = filesystem.realpath(path)
        skip = len(base.rstrip("/")) + 1
        for found, node, status in filesystem.find(base, onerror=onerror):
            archive.add("./" + found[skip:], found, node, status)
    archive.finish()


class _Archive:
    def __init__(
        self, filesystem: FileSystem[Any], stream: IO[bytes], onerror: Callable[[WalkError], None] | None
    ) -> None:
        self._filesystem = filesystem
        self._stream = stream
        self._onerror = onerror
        self._parts: list[Buffer] = []
        self._pending = 0
        self._written = 0
        self._linked: dict[Any, bytes] = {}

    def add(self, name: str, path: str, node: Any, status: FileStat) -> None:
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        if "/../" in name + "/":
            self._fail(path, InvalidFormat("'..' is no file name", structure="directory entry", offset=0))
            return
        encoded = name.encode("utf-8", "surrogateescape")
        if kind == b"5" and not encoded.endswith(b"/"):
            encoded += b"/"
        try:
            if kind != b"5" and status.st_nlink > 1:
                first = self._linked.setdefault(node, encoded)
                if first is not encoded:
                    self._header(encoded, status, _HARD_LINK, first, 0, self._filesystem.node_xattrs(node))
                    return
            xattrs = self._filesystem.node_xattrs(node)
            target = self._filesystem.node_target(node).encode("utf-8", "surrogateescape") if kind == b"2" else b""
            device = self._filesystem.node_data(node) if kind == b"0" else None
            buffers = device.buffers(0, device.size) if device is not None else ()
        except GuestctlError as error:
            self._linked.pop(node, None)
            self._fail(path, error)
            return
        size = device.size if device is not None else 0
        self._header(encoded, status, kind, target, size, xattrs)
        done = 0
        try:
            for buffer in buffers:
                self._write(buffer)
                done += len(buffer)
        except GuestctlError as error:
            # The header has promised the size; as GNU tar does for a file that shrank.
            self._fail(path, error)
            while done < size:
                self._write(zeros(min(size - done, _FLUSH_BYTES)))
                done += min(size - done, _FLUSH_BYTES)
        self._write(zeros(-size % _BLOCK_BYTES))

    def finish(self) -> None:
        self._write(zeros(2 * _BLOCK_BYTES))
        self._write(zeros(-(self._written + self._pending) % _RECORD_BYTES))
        self._flush()
        self._stream.flush()

    def _header(
        self, name: bytes, status: FileStat, kind: bytes, target: bytes, size: int, xattrs: dict[str, bytes]
    ) -> None:
        records = _times(status)
        if len(name) > 100 or not name.isascii():
            records.append((b"path", name))
        if len(target) > 100 or not target.isascii():
            records.append((b"linkpath", target))
        if size > _MAX_OCTAL11:
            records.append((b"size", b"%d" % size))
        for key, number in ((b"uid", status.st_uid), (b"gid", status.st_gid)):
            if number > _MAX_OCTAL7:
                records.append((key, b"%d" % number))
        for attribute in sorted(xattrs):
            key = attribute.encode("utf-8", "surrogateescape")
            # An equals sign would end the keyword: escaped as GNU tar does.
            key = key.replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append((b"SCHILY.xattr." + key, xattrs[attribute]))
        if records:
            body = b"".join(map(_pax_record, records))
            self._write(_pax_header(len(body)))
            self._write(body)
            self._write(zeros(-len(body) % _BLOCK_BYTES))
        mode = stat.S_IMODE(status.st_mode)
        self._write(_ustar(name, mode, kind, size, status, target))

    def _fail(self, path: str, error: Exception) -> None:
        if self._onerror is None:
            raise error
        self._onerror(WalkError(path, error))

    def _write(self, buffer: Buffer) -> None:
        self._parts.append(buffer)
        self._pending += len(buffer)
        if self._pending >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._stream.write(b"".join(self._parts))
        self._written += self._pending
        self._parts.clear()
        self._pending = 0


def _times(status: FileStat) -> list[tuple[bytes, bytes]]:
    """GNU tar's choice: those that ustar has no field for, and mtime where it has nanoseconds."""
    times = [(b"atime", _decimal(status.st_atime_ns)), (b"ctime", _decimal(status.st_ctime_ns))]
    mtime = status.st_mtime_ns
    if mtime % 10**9 or not 0 <= mtime <= _MAX_OCTAL11 * 10**9:
        times.insert(0, (b"mtime", _decimal(mtime)))
    return times


def _decimal(nanoseconds: int) -> bytes:
    whole, rest = divmod(abs(nanoseconds), 10**9)
    text = b"%d.%09d" % (whole, rest) if rest else b"%d" % whole
    return (b"-" if nanoseconds < 0 else b"") + text


def _pax_record(record: tuple[bytes, bytes]) -> bytes:
    """``LENGTH key=value\\n``, where the length counts its own digits."""
    rest = b" %s=%s\n" % record
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%s" % (length, rest)


@lru_cache
def _pax_header(size: int) -> bytes:
    return _ustar(b"./PaxHeaders/x", 0o644, _PAX_HEADER, size)


def _ustar(
    name: bytes, mode: int, kind: bytes, size: int, status: FileStat | None = None, target: bytes = b""
) -> bytes:
    """A header block. What does not fit in a field is in a pax record before it."""
    uid = gid = mtime = 0
    tail = _TAIL
    if status is not None:
        uid, gid, mtime = status.st_uid, status.st_gid, status.st_mtime_ns // 10**9
        if kind in b"34":
            rdev = status.st_rdev
            tail = _tail(min(os.major(rdev), _MAX_OCTAL7), min(os.minor(rdev), _MAX_OCTAL7))
    numbers = _NUMBERS % (
        mode,
        uid if uid <= _MAX_OCTAL7 else 0,
        gid if gid <= _MAX_OCTAL7 else 0,
        size if size <= _MAX_OCTAL11 else 0,
        mtime if 0 <= mtime <= _MAX_OCTAL11 else 0,
    )
    rest = kind + target[:100].ljust(100, b"\0") + tail
    head = name[:100].ljust(100, b"\0") + numbers
    # The low half of Adler-32 is 1 + the sum of the bytes modulo 65521; names and numbers sum to less.
    checksum = (zlib.adler32(head + _BLANK_CHECKSUM + rest) & 0xFFFF) - 1
    return head + b"%06o\0 " % checksum + rest
