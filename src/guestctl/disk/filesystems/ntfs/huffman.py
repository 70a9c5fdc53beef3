"""Canonical Huffman codes, as XPRESS ([MS-XCA] 2.1.4) and LZX use them."""

from __future__ import annotations

LENGTH_BITS = 5
LENGTH_MASK = (1 << LENGTH_BITS) - 1


def decoding_table(lengths: list[int], bits: int) -> list[int] | None:
    """For the next `bits` bits of input: the symbol << `LENGTH_BITS`, with the length of its code in the low bits.

    Empty where no symbol has a code; None where the lengths do not make a complete prefix code. One single
    code of one bit may leave the other half open.
    """
    by_length: list[list[int]] = [[] for _ in range(bits + 1)]
    for symbol, length in enumerate(lengths):
        by_length[length].append(symbol)
    table: list[int] = []
    for length in range(1, bits + 1):
        room = 1 << (bits - length)
        if len(table) + room * len(by_length[length]) > 1 << bits:
            return None
        for symbol in by_length[length]:
            table += [symbol << LENGTH_BITS | length] * room
    if len(table) in (0, 1 << bits):
        return table
    if len(table) == 1 << (bits - 1) and len(by_length[1]) == 1:
        return table * 2
    return None
