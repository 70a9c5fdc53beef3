"""LZNT1 ([MS-XCA] 2.5): chunks of 4 KiB, each with a head; tokens in groups of eight under a byte of flags."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

from guestctl.core.errors import InvalidFormat

_CHUNK_BYTES = 4096
_COMPRESSED, _LENGTH_MASK = 0x8000, 0x0FFF


def decompress(data: bytes, size: int, offset: int) -> bytes:
    """At most `size` bytes, zeros after what `data` holds; `offset` names the unit in errors."""
    parts = []
    at, done = 0, 0
    while at + 2 <= len(data) and done < size:
        head = data[at] | data[at + 1] << 8
        if not head:
            break
        end = at + 3 + (head & _LENGTH_MASK)
        if end > len(data):
            raise _bad(f"a chunk of {head & _LENGTH_MASK} bytes at {at} of {len(data)}", offset)
        chunk = _chunk(data, at + 2, end, offset) if head & _COMPRESSED else data[at + 2 : end]
        # Only the last chunk of a stream may be shorter.
        parts.append(chunk.ljust(_CHUNK_BYTES, b"\0"))
        done += _CHUNK_BYTES
        at = end
    return b"".join(parts)[:size].ljust(size, b"\0")


class _Group(NamedTuple):
    """Up to eight tokens: ``unpack`` gives runs of literal bytes, and a number for each match."""

    unpack: Callable[[bytes, int], tuple[Any, ...]]
    size: int


def _group(flags: int, size: int = 16) -> _Group:
    """What the flags say of the next `size` bytes."""
    kinds = "".join("H" if flags >> index & 1 else "s" for index in range(8))
    while Struct("<" + kinds).size > size:
        kinds = kinds[:-1]
    layout = Struct("<" + re.sub("s+", lambda run: f"{len(run[0])}s", kinds))
    return _Group(layout.unpack_from, layout.size)


@cache
def _groups() -> list[_Group]:
    return [_group(flags) for flags in range(256)]


def _chunk(data: bytes, at: int, end: int, offset: int) -> bytes:
    groups = _groups()
    out = bytearray()
    length_bits, limit = 12, 16  # up to `limit` bytes of output, a length has so many bits
    mask = (1 << length_bits) - 1
    while at < end:
        flags = data[at]
        at += 1
        unpack, size = groups[flags]
        if at + size > end:
            unpack, size = _group(flags, end - at)
            if at + size < end:
                raise _bad("a match is cut off", offset)
        for item in unpack(data, at):
            if item.__class__ is bytes:
                out += item
                continue
            position = len(out)
            while position > limit:
                length_bits -= 1
                limit <<= 1
                mask >>= 1
            distance = (item >> length_bits) + 1
            length = (item & mask) + 3
            start = position - distance
            if start < 0:
                raise _bad(f"a match {distance} bytes back in {position}", offset)
            if distance >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // distance + 1))[:length]
        at += size
        if len(out) > _CHUNK_BYTES:
            raise _bad(f"a chunk of {len(out)} bytes", offset)
    return bytes(out)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="LZNT1 unit", offset=offset)
