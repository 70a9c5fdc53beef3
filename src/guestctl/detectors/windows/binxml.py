"""Binary XML of event logs: templates, and the values put into them.

Specification: [MS-EVEN6] 2.2.12 "BinXml"; offsets of names and templates in a chunk as in "Windows XML Event Log
(EVTX) format". A fragment is compiled once into items, a path and the parts of its text each; entities, processing
instructions and character references are skipped.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.windows.users import sids

# Token types; 0x40 in one says that more follow.
_EOF, _OPEN, _CLOSE_START, _CLOSE_EMPTY, _END, _VALUE, _ATTRIBUTE, _CDATA = range(8)
_CHAR_REF, _ENTITY_REF, _PI_TARGET, _PI_DATA, _TEMPLATE, _SUBSTITUTION, _OPTIONAL, _FRAGMENT = range(8, 16)
_MORE = 0x40
_OPEN_START = Struct("<2xI")  # dependency, bytes of the element
_NAME = Struct("<4xHH")  # next one, hash, characters
_NAME_END_BYTES = 2
_INSTANCE = Struct("<xII")  # identifier, offset of the definition
_DEFINITION = Struct("<I16sI")  # next one, GUID, bytes
_SUBSTITUTION_SPEC = Struct("<HBx")  # bytes, type
_STRING, _BINXML, _ARRAY = 0x01, 0x21, 0x80
_MAX_DEPTH = 32
_MAX_NESTING = 4
_MAX_TEXT = 1 << 12  # bytes of a value
# Of a record: real ones have some dozens. Without these limits a small one could refer to much again and again.
_MAX_TEXTS = 512
_MAX_NAME = 256  # characters
_MAX_TEMPLATES = 256  # kept; real ones of a chunk are some dozens
_MAX_FRAGMENTS = 16
_MAX_TOKENS = 1 << 13
_NUMBERS = {number: Struct(f"<{code}") for number, code in enumerate("bBhHiIqQfd", 3)}
_ANSI, _BOOLEAN, _GUID, _SIZE, _FILETIME, _SYSTEMTIME, _SID, _HEX32, _HEX64 = 2, 13, 15, 16, 17, 18, 19, 20, 21
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)

Item = tuple[str, list[str | int]]  # path; parts: text, or the number of a substitution
Value = tuple[int, int, int]  # type, offset, bytes


class BinXml:
    """The fragments in one chunk. Raises `InvalidFormat` with offsets in the chunk."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk
        self._names: dict[int, tuple[str, int]] = {}
        self._templates: dict[int, list[Item]] = {}
        self._fragments = 0

    def texts(self, start: int, end: int) -> Iterator[tuple[str, str]]:
        """(path, text) of the attributes (``/Event/System/Provider@Name``) and elements of a fragment, in order."""
        self._fragments = 0
        try:
            for count, found in enumerate(self._texts(start, end, "", 0)):
                if count >= _MAX_TEXTS:
                    raise bad(f"more than {_MAX_TEXTS} texts", start)
                yield found
        except (struct.error, IndexError) as error:
            raise bad("ends too early", start) from error

    def _texts(self, start: int, end: int, path: str, nesting: int) -> Iterator[tuple[str, str]]:
        self._fragments += 1
        if nesting > _MAX_NESTING or self._fragments > _MAX_FRAGMENTS:
            raise bad("too many fragments", start)
        if self._chunk[start] == _FRAGMENT:
            start += 4
        if self._chunk[start] != _TEMPLATE:
            yield from ((path + below, "".join(map(str, parts))) for below, parts in self._compile(start, end))
            return
        items, values = self._instance(start + 1, end)
        for below, parts in items:
            yield from self._filled(path + below, parts, values, nesting)

    def _filled(
        self, path: str, parts: Sequence[str | int], values: Sequence[Value], nesting: int
    ) -> Iterator[tuple[str, str]]:
        if len(parts) == 1 and isinstance(parts[0], int) and parts[0] < len(values):
            kind, start, length = values[parts[0]]
            if kind == _BINXML and length:
                yield from self._texts(start, start + length, path, nesting + 1)
                return
            if kind == _ARRAY | _STRING:
                data = self._chunk[start : start + length]
                yield from ((path, text) for text in _utf16(data).rstrip("\0").split("\0"))
                return
        yield path, "".join(part if isinstance(part, str) else self._value(values, part) for part in parts)

    def _value(self, values: Sequence[Value], index: int) -> str:
        if index >= len(values):
            return ""
        kind, start, length = values[index]
        return value_text(kind, self._chunk[start : start + min(length, _MAX_TEXT)])

    def _instance(self, at: int, end: int) -> tuple[list[Item], list[Value]]:
        """A template, and the values for it."""
        _, definition = _INSTANCE.unpack_from(self._chunk, at)
        at += _INSTANCE.size
        _, _, size = _DEFINITION.unpack_from(self._chunk, definition)
        body = definition + _DEFINITION.size
        if definition not in self._templates:
            if body + size > len(self._chunk):
                raise bad(f"a template of {size} bytes", definition)
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[definition] = self._compile(body, body + size)
        if definition == at:
            at = body + size
        (count,) = struct.unpack_from("<I", self._chunk, at)
        at += 4
        start = at + count * _SUBSTITUTION_SPEC.size
        if start > end:
            raise bad(f"{count} values", at)
        values = []
        for size, kind in _SUBSTITUTION_SPEC.iter_unpack(self._chunk[at:start]):
            if start + size > end:
                raise bad(f"a value of {size} bytes", start)
            values.append((kind, start, size))
            start += size
        return self._templates[definition], values

    def _compile(self, at: int, end: int) -> list[Item]:
        """The items of a fragment, up to its end."""
        items: list[Item] = []
        path: list[str] = []
        current: Item = ("", [])
        for _ in range(_MAX_TOKENS):
            if at >= end:
                break
            token = self._chunk[at] & ~_MORE
            at, more = at + 1, self._chunk[at] & _MORE
            if token == _EOF:
                break
            if token == _FRAGMENT:
                at += 3
            elif token == _OPEN:
                name, at = self._name(at + _OPEN_START.size)
                at += 4 if more else 0  # bytes of the attributes
                path.append(name)
                if len(path) > _MAX_DEPTH:
                    raise bad("too many elements one in the other", at)
            elif token in (_END, _CLOSE_EMPTY, _CLOSE_START):
                if token != _CLOSE_START and path:
                    path.pop()
                current = ("".join(f"/{one}" for one in path), [])
            elif token == _ATTRIBUTE:
                name, at = self._name(at)
                current = ("".join(f"/{one}" for one in path) + f"@{name}", [])
            else:
                part, at = self._part(token, at)
                if part is not None:
                    if not current[1]:
                        if len(items) >= _MAX_TEXTS:
                            raise bad(f"more than {_MAX_TEXTS} texts", at)
                        items.append(current)
                    current[1].append(part)
        else:
            raise bad(f"more than {_MAX_TOKENS} tokens", at)
        return items

    def _part(self, token: int, at: int) -> tuple[str | int | None, int]:
        """What a token adds to the text where it stands, and where the next one is."""
        if token in (_SUBSTITUTION, _OPTIONAL):
            return struct.unpack_from("<H", self._chunk, at)[0], at + 3
        if token == _VALUE and self._chunk[at] == _STRING:
            return self._string(at + 1)
        if token == _CDATA:
            return self._string(at)
        if token == _PI_DATA:
            return None, self._string(at)[1]
        if token in (_ENTITY_REF, _PI_TARGET):
            return None, self._name(at)[1]
        if token == _CHAR_REF:
            return None, at + 2
        raise bad(f"token {token:#x}", at - 1)

    def _string(self, at: int) -> tuple[str, int]:
        (count,) = struct.unpack_from("<H", self._chunk, at)
        end = at + 2 + 2 * count
        return _utf16(self._chunk[at + 2 : end]), end

    def _name(self, at: int) -> tuple[str, int]:
        """The name whose offset stands at `at`, and what follows: the name itself, where it is new."""
        (offset,) = struct.unpack_from("<I", self._chunk, at)
        at += 4
        if offset not in self._names:
            _, count = _NAME.unpack_from(self._chunk, offset)
            if count > _MAX_NAME:
                raise bad(f"a name of {count} characters", offset)
            start = offset + _NAME.size
            self._names[offset] = _utf16(self._chunk[start : start + 2 * count]), start + 2 * count + _NAME_END_BYTES
        name, end = self._names[offset]
        return name, end if offset == at else at


def value_text(kind: int, data: bytes) -> str:
    """A value as XML has it; binary data, and what has no text here, in hexadecimal."""
    if kind == _STRING:
        return _utf16(data).rstrip("\0")
    if kind == _ANSI:
        return data.decode("cp1252", "replace").rstrip("\0")
    if kind in _NUMBERS and len(data) == _NUMBERS[kind].size:
        return str(_NUMBERS[kind].unpack(data)[0])
    if kind == _BOOLEAN:
        return "true" if any(data) else "false"
    if kind == _GUID and len(data) == 16:
        return f"{{{uuid.UUID(bytes_le=data)}}}".upper()
    if kind == _FILETIME and len(data) == 8:
        return _time_text(int.from_bytes(data, "little"))
    if kind == _SYSTEMTIME and len(data) == 16:
        year, month, _, day, hour, minute, second, milli = struct.unpack("<8H", data)
        return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
    if kind == _SID:
        return next(sids(data), "")
    if kind in (_SIZE, _HEX32, _HEX64):
        return hex(int.from_bytes(data, "little"))
    return data.hex().upper()


def _time_text(ticks: int) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=ticks // 10)
    except OverflowError:
        return str(ticks)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ticks % 10_000_000:07}Z"


def _utf16(data: bytes) -> str:
    return data[: len(data) & ~1].decode("utf-16-le", "replace")


def bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="binary XML", offset=offset)
