"""LZNT1 ([MS-XCA] 2.5): chunks of 4 KiB, each with a head; tokens in groups of eight under a byte of flags."""

from __future__ import annotations

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


def _chunk(data: bytes, at: int, end: int, offset: int) -> bytes:
    out = bytearray()
    length_bits, limit = 12, 16  # up to `limit` bytes of output, a length has so many bits
    while at < end:
        flags = data[at]
        at += 1
        if not flags:
            out += data[at : min(at + 8, end)]
            at += 8
            continue
        for _ in range(8):
            if at >= end:
                break
            if not flags & 1:
                out.append(data[at])
                at += 1
            else:
                if at + 2 > end:
                    raise _bad("a token is cut off", offset)
                token = data[at] | data[at + 1] << 8
                at += 2
                position = len(out)
                while position > limit:
                    length_bits -= 1
                    limit <<= 1
                distance = (token >> length_bits) + 1
                length = (token & ((1 << length_bits) - 1)) + 3
                if distance > position:
                    raise _bad(f"a match {distance} bytes back in {position}", offset)
                start = position - distance
                if distance >= length:
                    out += out[start : start + length]
                else:
                    out += (out[start:] * (length // distance + 1))[:length]
            flags >>= 1
        if len(out) > _CHUNK_BYTES:
            break
    if len(out) > _CHUNK_BYTES:
        raise _bad(f"a chunk of {len(out)} bytes", offset)
    return bytes(out)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="LZNT1 unit", offset=offset)
