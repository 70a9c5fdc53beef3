"""Reparse points ([MS-FSCC] 2.1.2) and the special files of Services for Unix, in POSIX terms.

Read: symbolic links, junctions, links, sockets, fifos and devices of WSL. Other reparse points leave
their file what it is without them.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import layout as L

_LINK_TAGS = (L.TAG_MOUNT_POINT, L.TAG_SYMLINK, L.TAG_LX_SYMLINK)
_KINDS = {
    **dict.fromkeys(_LINK_TAGS, stat.S_IFLNK),
    L.TAG_LX_FIFO: stat.S_IFIFO,
    L.TAG_LX_CHR: stat.S_IFCHR,
    L.TAG_LX_BLK: stat.S_IFBLK,
    L.TAG_AF_UNIX: stat.S_IFSOCK,
}
_NT_PREFIX = "\\??\\"


class Reparse(NamedTuple):
    tag: int
    data: bytes
    offset: int

    @property
    def kind(self) -> int:
        """File type bits, or 0 where the file keeps its own."""
        return _KINDS.get(self.tag, 0)


def parse_reparse(value: bytes, offset: int) -> Reparse:
    """The value of a $REPARSE_POINT. Raises `InvalidFormat`."""
    if len(value) < L.REPARSE_BYTES:
        raise _bad(f"{len(value)} bytes", offset)
    tag, length = L.REPARSE_HEAD.unpack_from(value)
    start = L.REPARSE_BYTES if tag >> 31 else L.REPARSE_BYTES + L.REPARSE_GUID_BYTES
    if start + length > len(value):
        raise _bad(f"{length} bytes of data in {len(value)}", offset)
    return Reparse(tag, value[start : start + length], offset)


class Target(NamedTuple):
    """Where a link points: components, and what stands before them.

    ``device`` is a drive or volume ("C:", "Volume{…}", "UNC"), "/" for the root of the link's own volume,
    or empty where the link is relative. A target that is text already is `text`.
    """

    device: str
    parts: list[str]
    text: str | None = None


def parse_target(reparse: Reparse) -> Target:
    """Raises `InvalidFormat`."""
    if reparse.tag == L.TAG_LX_SYMLINK:
        text = reparse.data[4:]
        if not text or b"\0" in text:
            raise _bad(f"a link to {text!r}", reparse.offset)
        return Target("", [], os.fsdecode(text) if os.sep == "/" else text.decode("utf-8", "surrogateescape"))
    names = L.LINK_NAMES.size + (4 if reparse.tag == L.TAG_SYMLINK else 0)
    if len(reparse.data) < names:
        raise _bad(f"a link of {len(reparse.data)} bytes", reparse.offset)
    offset, length, _, _ = L.LINK_NAMES.unpack_from(reparse.data)
    if names + offset + length > len(reparse.data) or not length or length % 2:
        raise _bad(f"a name of {length} bytes at {offset}", reparse.offset)
    name = reparse.data[names + offset : names + offset + length].decode("utf-16-le", "surrogatepass")
    name = name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    if "\0" in name or "/" in name:
        raise _bad(f"a link to {name!r}", reparse.offset)
    if name.startswith(_NT_PREFIX):
        device, *parts = name[len(_NT_PREFIX) :].split("\\")
        return Target(device, [part for part in parts if part])
    if name[1:2] == ":":
        device, *parts = name.split("\\")
        return Target(device, [part for part in parts if part])
    if name.startswith("\\"):
        return Target("/", [part for part in name.split("\\") if part])
    return Target("", [part for part in name.split("\\") if part])


def parse_extended_attributes(value: bytes, offset: int) -> dict[bytes, bytes]:
    """The value of an $EA, by name. Raises `InvalidFormat`."""
    found = {}
    at = 0
    while at + L.EXTENDED_ATTRIBUTE.size <= len(value):
        step, _, name_length, value_length = L.EXTENDED_ATTRIBUTE.unpack_from(value, at)
        start = at + L.EXTENDED_ATTRIBUTE.size
        end = start + name_length + 1 + value_length
        if end > len(value):
            raise InvalidFormat(f"a value of {value_length} bytes at {at}", structure="$EA", offset=offset)
        found[value[start : start + name_length]] = value[start + name_length + 1 : end]
        if not step:
            break
        at += step
    return found


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="$REPARSE_POINT", offset=offset)
