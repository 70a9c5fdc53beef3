"""LZX with a window of 32 KiB, as WIM files and WOF have it: every chunk by itself.

"Microsoft LZX Data Compression Format" (in [MS-PATCH] and the documentation of cabinets), with these
differences: no head before the first block; the size of a block is one bit (32 KiB) or 16 bits more; calls
of x86 are always translated, as in a file of 12,000,000 bytes, from the beginning of each chunk on. Bits
come in words of 16, from the top.
"""

from __future__ import annotations

from array import array
from struct import Struct
from sys import byteorder

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs.huffman import LENGTH_BITS, LENGTH_MASK, decoding_table

CHUNK_BYTES = 32 << 10
_VERBATIM, _ALIGNED, _UNCOMPRESSED = 1, 2, 3
_LITERALS, _SLOTS, _LENGTHS = 256, 30, 249
_MAIN = _LITERALS + 8 * _SLOTS
_PRETREE, _PRETREE_BITS, _MAIN_BITS, _LENGTH_TREE_BITS, _ALIGNED_BITS = 20, 15, 16, 16, 7
_MIN_MATCH = 2
# Of a position slot: bits that follow, and the least distance; slots 0 to 2 are the last three distances.
_EXTRA_BITS = [max(0, slot // 2 - 1) for slot in range(_SLOTS)]
_BASES = [sum(1 << bits for bits in _EXTRA_BITS[:slot]) - 2 for slot in range(_SLOTS)]
_RECENT = Struct("<III")
_TRANSLATED_BYTES, _UNTRANSLATED_TAIL = 12_000_000, 10
_FIRST_LITERAL_END = _LITERALS << LENGTH_BITS


def decompress(data: bytes, size: int, offset: int) -> bytes:
    """Exactly `size` bytes; `offset` names the chunk in errors. Raises `InvalidFormat`."""
    decoder = _Decoder(data, size, offset)
    try:
        while len(decoder.out) < size:
            decoder.block()
    except IndexError:
        message = f"{len(data)} bytes end before the {size} that they are, or have a code without a symbol"
        raise _bad(message, offset) from None
    return _untranslate(decoder.out)


class _Decoder:
    def __init__(self, data: bytes, size: int, offset: int) -> None:
        self._data = data
        # The reader of bits is ahead of what it needs.
        words = array("H", data[: len(data) & ~1] + bytes(4))
        if byteorder == "big":
            words.byteswap()
        self._words = words
        self._at = 0  # in words
        self._bits = self._count = 0
        self._size = size
        self._offset = offset
        self.out = bytearray()
        self._recent = [1, 1, 1]
        self._main_lengths = [0] * _MAIN
        self._length_lengths = [0] * _LENGTHS

    def _take(self, count: int) -> int:
        """The next bits, 16 at most."""
        if self._count < count:
            self._bits = (self._bits & 0xFFFF) << 16 | self._words[self._at]
            self._at += 1
            self._count += 16
        self._count -= count
        return self._bits >> self._count & ((1 << count) - 1)

    def block(self) -> None:
        kind = self._take(3)
        length = CHUNK_BYTES if self._take(1) else self._take(16)
        end = len(self.out) + length
        if not length or end > self._size:
            raise _bad(f"a block of {length} bytes after {len(self.out)} of {self._size}", self._offset)
        if kind == _UNCOMPRESSED:
            self._stored(end)
            return
        if kind not in (_VERBATIM, _ALIGNED):
            raise _bad(f"a block of type {kind}", self._offset)
        aligned = self._table([self._take(3) for _ in range(8)], _ALIGNED_BITS) if kind == _ALIGNED else None
        self._read_lengths(self._main_lengths, 0, _LITERALS)
        self._read_lengths(self._main_lengths, _LITERALS, _MAIN)
        self._read_lengths(self._length_lengths, 0, _LENGTHS)
        main = self._table(self._main_lengths, _MAIN_BITS)
        self._decode(end, main, self._table(self._length_lengths, _LENGTH_TREE_BITS), aligned)

    def _table(self, lengths: list[int], bits: int) -> list[int]:
        table = decoding_table(lengths, bits)
        if table is None:
            raise _bad("the code lengths are no prefix code", self._offset)
        return table

    def _read_lengths(self, lengths: list[int], at: int, end: int) -> None:
        """Code lengths, as differences to those of the block before, in a code of their own."""
        table = self._table([self._take(4) for _ in range(_PRETREE)], _PRETREE_BITS)
        while at < end:
            symbol = self._symbol(table)
            if symbol < 17:
                lengths[at] = (lengths[at] - symbol) % 17
                at += 1
                continue
            if symbol == 19:
                run = 4 + self._take(1)
                value = (lengths[at] - self._symbol(table)) % 17
            else:
                run = 4 + self._take(4) if symbol == 17 else 20 + self._take(5)
                value = 0
            run = min(run, end - at)
            lengths[at : at + run] = [value] * run
            at += run

    def _symbol(self, table: list[int]) -> int:
        entry = table[self._take(_PRETREE_BITS)]
        self._count += _PRETREE_BITS - (entry & LENGTH_MASK)
        return entry >> LENGTH_BITS

    def _stored(self, end: int) -> None:
        """Bytes as they are, from the next whole word on, after the last three distances."""
        at = 2 * ((self._at * 16 - self._count) // 16 + 1)
        length = end - len(self.out)
        if at + _RECENT.size + length > len(self._data):
            raise _bad(f"{length} bytes at {at} of {len(self._data)}", self._offset)
        self._recent = list(_RECENT.unpack_from(self._data, at))
        at += _RECENT.size
        self.out += self._data[at : at + length]
        self._at, self._bits, self._count = (at + length + 1) // 2, 0, 0

    def _decode(self, end: int, main: list[int], lengths: list[int], aligned: list[int] | None) -> None:
        words, at, bits, count, out = self._words, self._at, self._bits, self._count, self.out
        append = out.append
        recent = self._recent
        while len(out) < end:
            if count < 16:
                bits = (bits & 0xFFFF) << 16 | words[at]
                count += 16
                at += 1
            symbol = main[bits >> (count - 16) & 0xFFFF]
            count -= symbol & LENGTH_MASK
            if symbol < _FIRST_LITERAL_END:
                append(symbol >> LENGTH_BITS)
                continue
            symbol = (symbol >> LENGTH_BITS) - _LITERALS
            length, slot = symbol & 7, symbol >> 3
            if length == 7:
                if count < 16:
                    bits = (bits & 0xFFFF) << 16 | words[at]
                    count += 16
                    at += 1
                symbol = lengths[bits >> (count - 16) & 0xFFFF]
                count -= symbol & LENGTH_MASK
                length += symbol >> LENGTH_BITS
            length += _MIN_MATCH
            if slot < 3:
                distance = recent[slot]
                recent[slot] = recent[0]
            else:
                if count < 16:
                    bits = (bits & 0xFFFF) << 16 | words[at]
                    count += 16
                    at += 1
                extra = _EXTRA_BITS[slot]
                distance = _BASES[slot]
                if aligned is not None and extra >= 3:
                    extra -= 3
                    distance += (bits >> (count - extra) & ((1 << extra) - 1)) << 3
                    count -= extra
                    if count < 16:
                        bits = (bits & 0xFFFF) << 16 | words[at]
                        count += 16
                        at += 1
                    symbol = aligned[bits >> (count - _ALIGNED_BITS) & 0x7F]
                    count -= symbol & LENGTH_MASK
                    distance += symbol >> LENGTH_BITS
                else:
                    distance += bits >> (count - extra) & ((1 << extra) - 1)
                    count -= extra
                recent[2], recent[1] = recent[1], recent[0]
            recent[0] = distance
            start = len(out) - distance
            if start < 0 or distance <= 0 or len(out) + length > end:
                raise _bad(f"a match of {length} bytes {distance} back in {len(out)} of {end}", self._offset)
            if distance >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // distance + 1))[:length]
        self._at, self._bits, self._count = at, bits, count


def _untranslate(out: bytearray) -> bytes:
    """The targets of calls (opcode 0xe8), made absolute to compress better, relative again."""
    end = len(out) - _UNTRANSLATED_TAIL
    at = out.find(0xE8, 0, max(0, end))
    while at >= 0:
        target = int.from_bytes(out[at + 1 : at + 5], "little", signed=True)
        if -at <= target < _TRANSLATED_BYTES:
            target += -at if target >= 0 else _TRANSLATED_BYTES
            out[at + 1 : at + 5] = target.to_bytes(4, "little", signed=True)
        at = out.find(0xE8, at + 5, end)
    return bytes(out)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="LZX chunk", offset=offset)
