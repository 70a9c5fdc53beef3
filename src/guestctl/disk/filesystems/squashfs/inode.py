"""Inodes (section 3.2): fourteen types, half of them the extended forms of the others.

An inode is named by the offset of its metadata block in the inode table, shifted left by 16 bits,
and its place in the block.
"""

from __future__ import annotations

import os
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.squashfs import layout as L
from guestctl.disk.filesystems.squashfs.metadata import Cursor, Metadata
from guestctl.disk.filesystems.squashfs.superblock import Superblock
from guestctl.disk.filesystems.squashfs.xattrs import XattrTable
from guestctl.disk.stat import FileStat

_MAX_WINDOWS = 2048
_MAX_FILE_BYTES = (1 << 63) - 1
_MAX_TARGET_BYTES = 65536
_NS = 1_000_000_000


class InodeStat(FileStat):
    """The attributes of the inode at `at` in `data`. There is one time for all, in seconds until 2106."""

    __slots__ = ("_ids", "at", "data", "form", "kind", "st_ino", "st_mode", "st_size", "xattr_bytes")

    def __init__(self, kind: int, form: L.Form, data: bytes, at: int, ids: tuple[int, int]) -> None:
        self.kind = kind
        self.form = form
        self.data = data
        self.at = at
        self._ids = ids
        self.xattr_bytes = 0

    @property
    def st_nlink(self) -> int:  # type: ignore[override]
        return int(self.unpack(self.form.nlink)[0]) if self.form.nlink else 1

    @property
    def st_uid(self) -> int:  # type: ignore[override]
        return self._ids[0]

    @property
    def st_gid(self) -> int:  # type: ignore[override]
        return self._ids[1]

    @property
    def st_mtime_ns(self) -> int:  # type: ignore[override]
        return int(self.unpack(L.INODE_MTIME)[0]) * _NS

    st_atime_ns = st_ctime_ns = st_mtime_ns
    st_birthtime_ns = None

    @property
    def st_blocks(self) -> int:  # type: ignore[override]
        """As the kernel counts: the content before compression, and extended attributes."""
        blocks = self.xattr_bytes + 511 >> 9
        if self.is_file():
            (sparse,) = self.unpack(L.FILE_SPARSE) if self.kind == L.EXTENDED_FILE_TYPE else (0,)
            blocks += max(0, self.st_size - sparse + 511 >> 9)
        return blocks

    @property
    def st_rdev(self) -> int:  # type: ignore[override]
        if self.st_mode >> 12 not in (0x2, 0x6):
            return 0
        (rdev,) = self.unpack(L.DEVICE_RDEV)
        return os.makedev((rdev & 0xFFF00) >> 8, rdev & 0xFF | (rdev >> 12 & 0xFFF00))

    def unpack(self, fields: Any) -> Any:
        return fields.unpack_from(self.data, self.at)


class InodeTable:
    """The inodes of a filesystem, by their names."""

    def __init__(self, metadata: Metadata, superblock: Superblock, ids: list[int], xattrs: XattrTable | None) -> None:
        self._metadata = metadata
        self._xattrs = xattrs
        self._start = superblock.inode_table
        self._end = superblock.directory_table
        self._ids = ids
        self._windows: dict[int, bytes] = {}

    def stat(self, node: int) -> InodeStat:
        """Raises `InvalidFormat`."""
        data = self._windows.get(node >> 16)
        if data is None:
            data = self._load(node >> 16)
        at = node & 0xFFFF
        if at >= L.METADATA_BYTES or at + L.INODE_HEAD.size > len(data):
            raise self.bad("ends early", node)
        kind, mode, uid, gid, _, number = L.INODE_HEAD.unpack_from(data, at)
        form = L.FORMS.get(kind)
        if form is None or mode >> 12 or at + form.bytes > len(data):
            raise self.bad(f"type {kind}, mode {mode:#o}, {len(data) - at} bytes", node)
        try:
            status = InodeStat(kind, form, data, at, (self._ids[uid], self._ids[gid]))
        except IndexError:
            raise self.bad(f"ids {uid} and {gid} of {len(self._ids)}", node) from None
        status.st_ino = number
        status.st_mode = mode | form.mode
        status.st_size = form.size.unpack_from(data, at)[0] if form.size else 0
        if status.st_size > _MAX_FILE_BYTES:
            raise self.bad(f"a size of {status.st_size} bytes", node)
        if kind > L.LAST_BASIC_TYPE and self._xattrs is not None:
            number = self._xattr_number(node, status)
            if number != L.INVALID_XATTR:
                status.xattr_bytes = self._xattrs.size(number)
        return status

    def xattrs(self, node: int) -> dict[str, bytes]:
        """The extended attributes of an inode."""
        status = self.stat(node)
        if self._xattrs is None or status.kind <= L.LAST_BASIC_TYPE:
            return {}
        number = self._xattr_number(node, status)
        return {} if number == L.INVALID_XATTR else self._xattrs.read(number)

    def _xattr_number(self, node: int, status: InodeStat) -> int:
        if status.form.xattr is not None:
            return int(status.unpack(status.form.xattr)[0])
        rest = self.rest(node, status)
        rest.take(self.target_bytes(node, status))
        return int(rest.unpack(L.ID)[0])

    def target_bytes(self, node: int, status: InodeStat) -> int:
        """The length of a symbolic link, which follows the fixed part of its inode."""
        if not 0 < status.st_size <= _MAX_TARGET_BYTES:
            raise self.bad(f"a target of {status.st_size} bytes", node)
        return status.st_size

    def _load(self, block: int) -> bytes:
        """A metadata block, and what of its last inode may lie in the next one."""
        data, following = self._metadata.block(self._start + block)
        if len(data) == L.METADATA_BYTES and following < self._end:
            try:
                data += self._metadata.block(following)[0][: L.LARGEST_FORM]
            except InvalidFormat:
                pass  # that one inode ends early
        if len(self._windows) >= _MAX_WINDOWS:
            self._windows.clear()
        self._windows[block] = data
        return data

    def rest(self, node: int, status: InodeStat) -> Cursor:
        """What follows the fixed part of an inode."""
        return self._metadata.cursor(self._start + (node >> 16), status.at + status.form.bytes)

    def bad(self, message: str, node: int) -> InvalidFormat:
        message = f"{message} (at {node & 0xFFFF} in the metadata block)"
        return InvalidFormat(message, structure="inode", offset=self._start + (node >> 16))
