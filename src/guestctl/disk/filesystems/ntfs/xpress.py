"""XPRESS with Huffman codes ([MS-XCA] 2.2): 512 code lengths of four bits, then symbols.

Symbols below 256 are bytes; the others are matches, with the low four bits of a length and the number of
bits of a distance. Bits come in words of 16, from the top; longer lengths are bytes between the words.
"""

from __future__ import annotations

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs.huffman import LENGTH_BITS, LENGTH_MASK, decoding_table

_TABLE_BYTES = 256
_BITS = 15
_MIN_MATCH = 3
_LONG = 15


def decompress(data: bytes, size: int, offset: int) -> bytes:
    """Exactly `size` bytes; `offset` names the chunk in errors. Raises `InvalidFormat`."""
    lengths: list[int] = []
    for byte in data[:_TABLE_BYTES]:
        lengths += (byte & 15, byte >> 4)
    table = decoding_table(lengths, _BITS) if len(data) >= _TABLE_BYTES else None
    if not table:
        raise _bad("the code lengths are no prefix code", offset)
    try:
        return _decode(data + bytes(4), table, size, offset)  # the reader of bits is ahead of what it needs
    except IndexError:
        raise _bad(f"{len(data)} bytes end before the {size} that they are", offset) from None


def _decode(data: bytes, table: list[int], size: int, offset: int) -> bytes:
    at = _TABLE_BYTES + 4
    bits = data[256] << 16 | data[257] << 24 | data[258] | data[259] << 8
    count = 32  # at least 16 before each symbol and each distance
    out = bytearray()
    append = out.append
    while len(out) < size:
        symbol = table[bits >> (count - _BITS) & 0x7FFF]
        count -= symbol & LENGTH_MASK
        symbol >>= LENGTH_BITS
        if count < 16:
            bits = (bits & 0xFFFF) << 16 | data[at] | data[at + 1] << 8
            count += 16
            at += 2
        if symbol < 256:
            append(symbol)
            continue
        length, width = symbol & 15, symbol >> 4 & 15
        if length == _LONG:
            length += data[at]
            at += 1
            if length == _LONG + 255:
                length = data[at] | data[at + 1] << 8
                at += 2
        distance = 1 << width | bits >> (count - width) & ((1 << width) - 1)
        count -= width
        if count < 16:
            bits = (bits & 0xFFFF) << 16 | data[at] | data[at + 1] << 8
            count += 16
            at += 2
        start = len(out) - distance
        if start < 0:
            raise _bad(f"a match {distance} bytes back in {len(out)}", offset)
        length += _MIN_MATCH
        if distance >= length:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // distance + 1))[:length]
    return bytes(out[:size])


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="XPRESS chunk", offset=offset)
