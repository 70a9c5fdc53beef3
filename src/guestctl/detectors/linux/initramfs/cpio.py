"""cpio archives in the formats "newc" and "crc" (cpio(5); initramfs buffer format of the kernel).

A header is 110 characters: a magic of six, then 13 numbers of eight hexadecimal digits. The name follows,
with its NUL; header with name, and data, each end with zeros at a multiple of four. ``TRAILER!!!`` ends an archive,
or its segment does.
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.detectors.linux.initramfs.reader import Reader

_NEWC, _CRC = b"070701", b"070702"
_HEADER_BYTES = 110
# c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_devmajor, c_devminor, c_rdevmajor, c_rdevminor,
# c_namesize, c_check
_NUMBERS = struct.Struct(">4x6I16xII")
_TRAILER = b"TRAILER!!!"
_OLDER = ((b"070707", "odc"), (b"\xc7\x71", "bin"), (b"\x71\xc7", "bin"))
_MAX_NAME_BYTES = 4096  # PATH_MAX, as in the kernel
_SUM_BYTES = 1 << 20


class CpioEntry(NamedTuple):
    """A file. ``mode`` is st_mode, ``size`` the bytes that lie here: of hard links, one alone has them."""

    name: str
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int  # seconds since 1970
    size: int


def is_cpio(magic: bytes) -> bool:
    """Whether an entry begins so; `UnsupportedFeature` for a format that the kernel does not read."""
    for older, name in _OLDER:
        if magic.startswith(older):
            raise UnsupportedFeature(f"cpio in the format {name}, which no kernel reads", feature=f"cpio {name}")
    return magic.startswith((_NEWC, _CRC))


def read_entry(source: Reader) -> CpioEntry | None:
    """The entry at the position of `source`, which goes past it; None for a trailer."""
    offset = source.position
    header = source.take(_HEADER_BYTES, "cpio header")
    mode, uid, gid, nlink, mtime, size, name_bytes, checksum = _parse_header(header, offset)
    if not 0 < name_bytes <= _MAX_NAME_BYTES:
        raise _invalid(f"a name of {name_bytes} bytes", offset)
    name = source.take(name_bytes, "cpio name").rstrip(b"\0")
    _align(source)
    if name == _TRAILER:
        return None
    if header.startswith(_CRC) and stat.S_ISREG(mode):
        _verify(source, size, checksum)
    else:
        source.skip(size, "cpio data")
    _align(source)
    return CpioEntry(name.decode("utf-8", "surrogateescape"), mode, uid, gid, nlink, mtime, size)


def _parse_header(header: bytes, offset: int) -> tuple[int, ...]:
    if not is_cpio(header):
        raise _invalid(f"magic is {header[:6]!r}", offset)
    try:
        return _NUMBERS.unpack(bytes.fromhex(header[6:].decode("ascii")))
    except (ValueError, struct.error):
        raise _invalid("a number is not of hexadecimal digits", offset) from None


def _align(source: Reader) -> None:
    source.skip(-source.position % 4, "cpio padding")


def _verify(source: Reader, size: int, expected: int) -> None:
    """c_check is the sum of all bytes, in 32 bits; a hard link without data has it too."""
    offset, actual = source.position, 0
    for done in range(0, size, _SUM_BYTES):
        actual += sum(source.take(min(_SUM_BYTES, size - done), "cpio data"))
    if size and actual & 0xFFFFFFFF != expected:
        raise ChecksumMismatch(structure="cpio data", offset=offset, expected=expected, actual=actual & 0xFFFFFFFF)


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="cpio header", offset=offset)
