"""The members of a tar archive: ustar, pax and GNU headers (POSIX.1-2001, "pax Interchange Format")."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat

BLOCK_BYTES = 512
# name, size, chksum, typeflag, magic, prefix.
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_REGULAR = b"0\07"
_WITHOUT_DATA = b"123456"  # links, devices, directories, fifos
_MAX_MEMBERS = 10_000
_MAX_EXTENSION_BYTES = 1 << 20
_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")


class Member(NamedTuple):
    name: str
    offset: int  # of the data
    size: int
    is_file: bool  # plain data, not sparse


def read_members(device: BlockDevice) -> Iterator[Member]:
    """The members in order; those that only say something of the next one are not among them."""
    position = 0
    extended: dict[str, str] = {}
    for _ in range(_MAX_MEMBERS):
        if position + BLOCK_BYTES > device.size:
            raise _invalid("the archive ends without its two blocks of zeros", position)
        header = bytes(device.read(position, BLOCK_BYTES))
        if not any(header):
            return
        name, size, kind = _parse_header(header, position)
        data = position + BLOCK_BYTES
        if kind in _REGULAR and "size" in extended:
            size = _decimal(extended["size"], position)
        if kind in _WITHOUT_DATA:
            size = 0
        if size > device.size - data:
            raise _invalid(f"{name!r} has {size} bytes, of which {device.size - data} are there", position)
        position = data + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if kind in b"xgLK":
            if size > _MAX_EXTENSION_BYTES:
                raise _invalid(f"an extended header of {size} bytes", data - BLOCK_BYTES)
            content = bytes(device.read(data, size))
            if kind == b"x":
                extended |= _parse_records(content, data)
            elif kind == b"L":
                extended["path"] = _text(content.partition(b"\0")[0])
            continue
        is_sparse = any(key.startswith("GNU.sparse.") for key in extended)
        yield Member(extended.get("path", name), data, size, kind in _REGULAR and not is_sparse)
        extended = {}
    raise _invalid(f"more than {_MAX_MEMBERS} members", position)


def _parse_header(header: bytes, offset: int) -> tuple[str, int, bytes]:
    name, size, checksum, kind, magic, prefix = _HEADER.unpack(header)
    expected = sum(header) - sum(checksum) + 8 * 0x20
    if _number(checksum, offset) != expected:
        raise _invalid("the header's checksum is wrong", offset)
    name = name.partition(b"\0")[0]
    prefix = prefix.partition(b"\0")[0] if magic == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name), _number(size, offset), kind


def _number(field: bytes, offset: int) -> int:
    """Octal digits; GNU's form for large numbers is binary, with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        if field[0] != 0x80 or value >= 1 << 63:
            raise _invalid("a number that is negative or too large", offset)
        return value
    digits = field.strip(b" \0")
    if digits and not re.fullmatch(rb"[0-7]+", digits):
        raise _invalid(f"{digits!r} is no number", offset)
    return int(digits or b"0", 8)


def _parse_records(content: bytes, offset: int) -> dict[str, str]:
    """pax records: ``LENGTH KEY=VALUE`` and a newline."""
    records = {}
    position = 0
    while position < len(content):
        match = _RECORD.match(content, position)
        if match is None:
            raise _invalid("no pax record", offset + position)
        end = position + int(match[1])
        if not match.end() < end <= len(content) or content[end - 1] != 0x0A:
            raise _invalid("a pax record of a wrong length", offset + position)
        records[_text(match[2])] = _text(content[match.end() : end - 1])
        position = end
    return records


def _decimal(text: str, offset: int) -> int:
    if not re.fullmatch("[0-9]{1,18}", text, re.ASCII):
        raise _invalid(f"{text[:20]!r} is no size", offset)
    return int(text)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="tar header", offset=offset)
