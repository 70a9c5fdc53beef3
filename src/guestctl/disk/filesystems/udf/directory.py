"""Directories (4/14.4): file identifiers; and the names in them and in symbolic links (UDF 2.1.1, 4/14.16)."""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.udf import layout as L
from guestctl.disk.filesystems.udf.tag import check_tag

_ILLEGAL = re.compile("[/\0]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXTENSION = re.compile(r"\.[^.]{0,4}\Z", re.DOTALL)
_STRUCTURE = "file identifier"


class Identifier(NamedTuple):
    name: str
    partition: int
    block: int
    is_directory: bool


def parse_identifiers(data: bytes, offset: int, *, verify: bool) -> Iterator[Identifier]:
    """The names in a directory; those that are deleted, hidden, or lead to its parent are left out.

    Raises `InvalidFormat`, with `offset`, the place of the directory's entry.
    """
    at = 0
    while at < len(data):
        if at + L.IDENTIFIER_BYTES > len(data):
            raise InvalidFormat(f"cut off at {at}", structure=_STRUCTURE, offset=offset)
        characteristics, name_length, icb, use_length = L.IDENTIFIER.unpack_from(data, at)
        length = L.IDENTIFIER_BYTES + use_length + name_length
        end = at + length + -length % 4
        if end > len(data):
            raise InvalidFormat(f"{length} bytes at {at}", structure=_STRUCTURE, offset=offset)
        identifier = check_tag(data[at:end], offset, None, verify=verify)
        if identifier != L.FILE_IDENTIFIER:
            raise InvalidFormat(f"descriptor {identifier} at {at}", structure=_STRUCTURE, offset=offset)
        if name_length and not characteristics & (L.DELETED | L.HIDDEN | L.PARENT):
            start = at + L.IDENTIFIER_BYTES + use_length
            name = file_name(data[start : start + name_length], offset)
            _, block, partition = L.LONG_AD.unpack(icb)
            yield Identifier(name, partition, block, bool(characteristics & L.DIRECTORY))
        at = end


def file_name(data: bytes, offset: int) -> str:
    """A name in OSTA compressed Unicode, and what is no name elsewhere with a CRC in it, as UDF 4.2.2.1 has it."""
    if data[0] not in (8, 16) or (data[0] == 16 and len(data) % 2 == 0):
        message = f"compression {data[0]} of {len(data)} bytes"
        raise InvalidFormat(message, structure="compressed unicode", offset=offset)
    text = data[1:].decode("latin-1") if data[0] == 8 else data[1:].decode("utf-16-be", "surrogatepass")
    name = _SURROGATE.sub("?", _ILLEGAL.sub("_", text))
    if name == text and name not in (".", ".."):
        return name
    extension = _EXTENSION.search(name)
    stem = name[: extension.start()] if extension else name
    return f"{stem}#{crc_hqx(data[1:], 0):04X}{extension[0] if extension else ''}"


def link_target(data: bytes, offset: int) -> str:
    """A path of components, as Linux writes it."""
    path = ""
    at = 0
    while at < len(data):
        if at + L.COMPONENT.size > len(data):
            raise InvalidFormat(f"cut off at {at}", structure="path component", offset=offset)
        kind, length, _ = L.COMPONENT.unpack_from(data, at)
        at += L.COMPONENT.size
        name = data[at : at + length]
        if len(name) < length:
            raise InvalidFormat(f"cut off at {at}", structure="path component", offset=offset)
        at += length
        if kind == L.COMPONENT_ROOT or (kind == L.COMPONENT_OTHER_ROOT and not length):
            path = "/"
        elif kind == L.COMPONENT_PARENT:
            path += "../"
        elif kind == L.COMPONENT_SELF:
            path += "./"
        elif kind == L.COMPONENT_NAME and length:
            path += file_name(name, offset) + "/"
    return path[:-1] if len(path) > 1 else path
