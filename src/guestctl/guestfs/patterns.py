"""Regular expressions as grep(1) has them in the C locale: POSIX basic and extended ones (POSIX 9.3, 9.4), GNU's
``\\+``, ``\\?`` and ``\\|`` in basic ones, and ``\\w \\W \\s \\S \\b \\B \\< \\> \\` \\'`` in both.

A pattern becomes a nondeterministic automaton, and what it is asked for becomes a deterministic one as lines come: a
line takes linear time whatever it holds, for nothing is ever tried twice. Back-references cannot be had so, and are
refused.
"""

from __future__ import annotations

import errno
import re

from guestctl.core.errors import UnsupportedFeature
from guestctl.guestfs.automaton import WORD, Automaton, Tree, bad
from guestctl.guestfs.calls import GuestFSError
from guestctl.guestfs.globbing import CLASSES

_MAX_REPEAT = 0x7FFF  # RE_DUP_MAX
_MAX_NESTED = 200
_SPACE = frozenset(b" \t\n\r\v\f")
_ALL = frozenset(range(256)) - {0x0A}
_ESCAPED_SETS = {"w": WORD, "W": _ALL - WORD, "s": _SPACE, "S": _ALL - _SPACE}
_ASSERTIONS = {"b": "b", "B": "B", "<": "<", ">": ">", "`": "^", "'": "$"}

_EMPTY: Tree = ("cat", ())


class Pattern:
    """What is looked for in lines: any of the regular expressions that newlines separate in `pattern`."""

    def __init__(self, pattern: bytes, *, extended: bool = False, insensitive: bool = False) -> None:
        trees = tuple(_Parser(one.decode("latin-1"), extended, insensitive).parse() for one in pattern.split(b"\n"))
        self._literal = b"" if len(trees) > 1 else _longest_literal(trees[0])
        self._automaton = Automaton(("or", trees) if len(trees) > 1 else trees[0])

    def matching(self, lines: list[bytes]) -> list[bytes]:
        """The lines with a match in them."""
        if self._literal:
            lines = [line for line in lines if self._literal in line]
        matches = self._automaton.matches
        return [line for line in lines if matches(line)]


# Parsing


class _Parser:
    def __init__(self, pattern: str, extended: bool, insensitive: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._extended = extended
        self._insensitive = insensitive
        self._depth = 0

    def parse(self) -> Tree:
        return self._alternatives()

    def _looking_at(self, operator: str) -> bool:
        """Whether an operator comes: with a backslash in basic expressions, without one in extended ones."""
        return self._pattern.startswith(operator if self._extended else "\\" + operator, self._at)

    def _take(self, operator: str) -> bool:
        found = self._looking_at(operator)
        self._at += (1 if self._extended else 2) * found
        return found

    def _alternatives(self) -> Tree:
        trees = [self._sequence()]
        while self._take("|"):
            trees.append(self._sequence())
        return ("or", tuple(trees)) if len(trees) > 1 else trees[0]

    def _sequence(self) -> Tree:
        parts: list[Tree] = []
        start = self._at
        while self._at < len(self._pattern) and not self._looking_at("|"):
            if self._looking_at(")"):
                if self._depth:
                    break
                if not self._extended:
                    bad("Unmatched ) or \\)")
            parts.append(self._repeated(self._atom(start)))
        return ("cat", tuple(parts))

    def _atom(self, start: int) -> Tree:
        character = self._pattern[self._at]
        if self._extended and (character in "*+?" or self._bounds_at(self._at)) and self._begins(start):
            return _EMPTY  # as GNU has it: what is repeated is nothing
        if self._take("("):
            return self._group()
        self._at += 1
        if character == ".":
            return ("set", _ALL)
        if character == "[":
            return ("set", self._bracket())
        if character == "^" and (self._extended or self._at - 1 == start):
            return ("assert", "^")
        if character == "$" and (self._extended or self._ends()):
            return ("assert", "$")
        return self._escape() if character == "\\" else self._one(character)

    def _begins(self, start: int) -> bool:
        return self._at == start or self._pattern[start : self._at] == "^"

    def _ends(self) -> bool:
        return self._at == len(self._pattern) or self._looking_at("|") or self._looking_at(")")

    def _group(self) -> Tree:
        self._depth += 1
        if self._depth > _MAX_NESTED:
            bad("Regular expression too big")
        tree = self._alternatives()
        if not self._take(")"):
            bad("Unmatched ( or \\(")
        self._depth -= 1
        return tree

    def _one(self, character: str) -> Tree:
        both = {character.lower(), character.upper()} if self._insensitive and character.isascii() else {character}
        return ("set", frozenset(map(ord, both)))

    def _escape(self) -> Tree:
        if self._at == len(self._pattern):
            bad("Trailing backslash")
        character = self._pattern[self._at]
        self._at += 1
        if character in _ESCAPED_SETS:
            return ("set", _ESCAPED_SETS[character])
        if character in _ASSERTIONS:
            return ("assert", _ASSERTIONS[character])
        if character in "123456789":
            raise UnsupportedFeature("back-references in regular expressions", feature="back-references")
        return self._one(character)

    # Repetition

    def _repeated(self, tree: Tree) -> Tree:
        for _ in range(_MAX_NESTED):
            bounds = self._bounds_at(self._at)
            if self._pattern.startswith("*", self._at) and not self._literal_star(tree):
                self._at += 1
                tree = ("repeat", tree, 0, None)
            elif bounds:
                least, most, self._at = bounds
                tree = ("repeat", tree, least, most)
            elif self._take("+"):
                tree = ("repeat", tree, 1, None)
            elif self._take("?"):
                tree = ("repeat", tree, 0, 1)
            else:
                return tree
        return bad("Regular expression too big")

    def _literal_star(self, tree: Tree) -> bool:
        return not self._extended and tree == ("assert", "^")

    def _bounds_at(self, at: int) -> tuple[int, int | None, int] | None:
        """The bounds ``{m,n}`` that stand at `at`, and where they end; None where there are none."""
        opening, closing = ("{", "}") if self._extended else ("\\{", "\\}")
        if not self._pattern.startswith(opening, at) or (not self._extended and at == 0):
            return None
        found = re.compile(r"(\d*)(,?)(\d*)" + re.escape(closing)).match(self._pattern, at + len(opening))
        if not found or found[1] + found[2] == "":
            if not self._extended:
                bad("Unmatched \\{" if closing not in self._pattern[at:] else "Invalid content of \\{\\}")
            return None
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if most is not None and most < least:
            bad("Invalid content of \\{\\}")
        if max(least, most or 0) > _MAX_REPEAT:
            bad("Regular expression too big")
        return least, most, found.end()

    # Bracket expressions (POSIX 9.3.5)

    def _bracket(self) -> frozenset[int]:
        begin = self._at
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        found: set[int] = set()
        first = True
        while first or not self._pattern.startswith("]", self._at):
            first = False
            low = self._bracket_item()
            if isinstance(low, frozenset):
                found |= low
                continue
            if self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at):
                self._at += 1
                high = self._bracket_item()
                if isinstance(high, frozenset) or high < low:
                    bad("Invalid range end")
                found.update(range(low, high + 1))
            else:
                found.add(low)
        self._at += 1
        inside = self._pattern[begin : self._at - 1]
        if re.fullmatch(":[a-z]+:", inside):
            raise GuestFSError("character class syntax is [[:space:]], not [:space:]", errno.EINVAL)
        if self._insensitive:
            found |= {ord(swapped) for one in found if (swapped := chr(one).swapcase()).isascii()}
        return _ALL - found if negated else frozenset(found)

    def _bracket_item(self) -> int | frozenset[int]:
        if self._at >= len(self._pattern):
            bad("Unmatched [, [^, [:, [., or [=")
        named = re.compile(r"\[([:.=])(.*?)\1\]", re.DOTALL).match(self._pattern, self._at)
        if not named:
            self._at += 1
            return ord(self._pattern[self._at - 1])
        self._at = named.end()
        if named[1] == ":":
            if named[2] not in CLASSES:
                bad("Invalid character class name")
            return frozenset(map(ord, re.findall(f"[{CLASSES[named[2]]}]", "".join(map(chr, range(128))))))
        if len(named[2]) != 1:
            bad("Invalid collation character")
        return ord(named[2]) if named[1] == "." else frozenset({ord(named[2])})


def _longest_literal(tree: Tree) -> bytes:
    """The longest text that is in every line with a match."""
    parts = tree[1] if tree[0] == "cat" else (tree,)
    best = run = b""
    for part in parts:  # type: ignore[attr-defined]
        single = part[0] == "set" and len(part[1]) == 1
        run = run + bytes(part[1]) if single else b""
        best = max(best, run, key=len)
    return best
