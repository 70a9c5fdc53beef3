"""Files of regedit (.reg): what they ask of a registry.

The format is that of "How to add, modify, or delete registry subkeys and values by using a .reg file" (Microsoft): a
header, keys in brackets (with a hyphen before the name to delete one), and below them ``name=data``. The bytes of
texts are UTF-16, or below the header ``REGEDIT4`` of a code page, of which ASCII is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.detectors.registry import layout as L

_ANSI_HEADER = "REGEDIT4"
_HEADERS = ("Windows Registry Editor Version 5.00", _ANSI_HEADER)
_TEXTS = (L.REG_SZ, L.REG_EXPAND_SZ, L.REG_MULTI_SZ)
_VALUE = re.compile(r'(?:@|"(?P<name>(?:[^"\\]|\\.)*)")\s*=\s*(?P<data>.*)', re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_HEX = re.compile(r"hex(?:\(([0-9a-f]+)\))?:([0-9a-f,\s]*)", re.IGNORECASE)
_BYTE = re.compile("[0-9a-f]{1,2}", re.IGNORECASE)


class Change(NamedTuple):
    """What is asked: ``key`` is created, or deleted; where there is a ``name``, that value is set, or deleted."""

    key: str
    delete: bool = False
    name: str | None = None  # "" is the default value
    type: int = 0
    data: bytes = b""


def decode_reg(raw: bytes) -> str:
    """The text of a file: UTF-16 with its mark, as regedit writes it, or UTF-8. Raises `InvalidFormat`."""
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{error.encoding} is not what it has: {error.reason}"
        raise InvalidFormat(message, structure="text of a .reg file", offset=error.start) from error


def parse_reg(text: str) -> Iterator[Change]:
    """The changes in their order. Raises `InvalidFormat`, with the number of the line as its offset."""
    lines = _lines(text)
    number, header = next(lines, (0, ""))
    if header not in _HEADERS:
        raise _bad("the first line is none of regedit's", number)
    key: str | None = None
    for number, line in lines:
        if line.startswith("["):
            if not line.endswith("]"):
                raise _bad("a key without a closing bracket", number)
            delete = line.startswith("[-")
            name = line[2 if delete else 1 : -1]
            key = None if delete else name
            yield Change(name, delete)
        elif key is None:
            raise _bad("a value without a key", number)
        else:
            yield _value(key, line, number, ansi=header == _ANSI_HEADER)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without comments and blank ones; a backslash at the end goes on with the next."""
    whole, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not whole and (not line or line.startswith(";")):
            continue
        start = start if whole else number
        if line.endswith("\\") and not line.startswith("["):
            whole += line[:-1]
            continue
        yield start, whole + line
        whole = ""
    if whole:
        yield start, whole


def _value(key: str, line: str, number: int, *, ansi: bool) -> Change:
    match = _VALUE.fullmatch(line)
    if match is None:
        raise _bad(f"neither a key nor a value: {line[:40]!r}", number)
    name, data = _unquoted(match["name"] or ""), match["data"].strip()
    if data == "-":
        return Change(key, True, name)
    string = _STRING.fullmatch(data)
    if string:
        return Change(key, False, name, L.REG_SZ, (_unquoted(string[1]) + "\0").encode("utf-16-le", "surrogatepass"))
    word = re.fullmatch(r"dword:([0-9a-f]{1,8})", data, re.IGNORECASE)
    if word:
        return Change(key, False, name, L.REG_DWORD, int(word[1], 16).to_bytes(4, "little"))
    numbers = _HEX.fullmatch(data)
    if numbers is None:
        raise _bad(f"data of no known kind: {data[:40]!r}", number)
    kind = int(numbers[1], 16) if numbers[1] else L.REG_BINARY
    if kind > 0xFFFFFFFF:
        raise _bad(f"type {kind:#x}", number)
    parts = [part.strip() for part in numbers[2].split(",")]
    if not parts[-1]:  # nothing at all, or after the last comma
        parts.pop()
    if not all(map(_BYTE.fullmatch, parts)):
        raise _bad(f"bytes that are none: {data[:40]!r}", number)
    found = bytes(int(part, 16) for part in parts)
    if ansi and kind in _TEXTS:
        if not found.isascii():
            raise UnsupportedFeature(f"text of a code page in line {number}", feature="code pages of .reg files")
        found = found.decode("ascii").encode("utf-16-le")
    return Change(key, False, name, kind, found)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _bad(message: str, line: int) -> InvalidFormat:
    return InvalidFormat(message, structure="line of a .reg file", offset=line)
