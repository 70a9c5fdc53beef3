"""Regular expressions as grep(1) has them in the C locale: POSIX basic and extended ones (POSIX 9.3, 9.4), GNU's
``\\+``, ``\\?`` and ``\\|`` in basic ones, and ``\\w \\W \\s \\S \\b \\B \\< \\> \\` \\'`` in both.

A pattern becomes a nondeterministic automaton, and what it is asked for becomes a deterministic one as lines come: a
line takes linear time whatever it holds, for nothing is ever tried twice. Back-references cannot be had so, and are
refused.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple, NoReturn

from guestctl.core.errors import UnsupportedFeature
from guestctl.guestfs.calls import GuestFSError
from guestctl.guestfs.globbing import CLASSES

_MAX_NODES = 5_000  # what bounded repetitions may make of a pattern
_MAX_ROWS = 500  # of 2 KiB, and a set of nodes each
_MAX_REPEAT = 0x7FFF  # RE_DUP_MAX
_MAX_NESTED = 200
_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_SPACE = frozenset(b" \t\n\r\v\f")
_ALL = frozenset(range(256)) - {0x0A}
_ESCAPED_SETS = {"w": _WORD, "W": _ALL - _WORD, "s": _SPACE, "S": _ALL - _SPACE}
_ASSERTIONS = {"b": "b", "B": "B", "<": "<", ">": ">", "`": "^", "'": "$"}

# ("set", bytes), ("assert", kind), ("cat", trees), ("or", trees), ("repeat", tree, least, most)
Tree = tuple[object, ...]
_EMPTY: Tree = ("cat", ())


class Pattern:
    """What is looked for in lines: any of the regular expressions that newlines separate in `pattern`."""

    def __init__(self, pattern: bytes, *, extended: bool = False, insensitive: bool = False) -> None:
        trees = tuple(_Parser(one.decode("latin-1"), extended, insensitive).parse() for one in pattern.split(b"\n"))
        self._literal = b"" if len(trees) > 1 else _longest_literal(trees[0])
        self._automaton = _Automaton(("or", trees) if len(trees) > 1 else trees[0])

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
                    _bad("Unmatched ) or \\)")
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
            _bad("Regular expression too big")
        tree = self._alternatives()
        if not self._take(")"):
            _bad("Unmatched ( or \\(")
        self._depth -= 1
        return tree

    def _one(self, character: str) -> Tree:
        both = {character.lower(), character.upper()} if self._insensitive and character.isascii() else {character}
        return ("set", frozenset(map(ord, both)))

    def _escape(self) -> Tree:
        if self._at == len(self._pattern):
            _bad("Trailing backslash")
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
        _bad("Regular expression too big")

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
                _bad("Unmatched \\{" if closing not in self._pattern[at:] else "Invalid content of \\{\\}")
            return None
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if most is not None and most < least:
            _bad("Invalid content of \\{\\}")
        if max(least, most or 0) > _MAX_REPEAT:
            _bad("Regular expression too big")
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
                    _bad("Invalid range end")
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
            _bad("Unmatched [, [^, [:, [., or [=")
        named = re.compile(r"\[([:.=])(.*?)\1\]", re.DOTALL).match(self._pattern, self._at)
        if not named:
            self._at += 1
            return ord(self._pattern[self._at - 1])
        self._at = named.end()
        if named[1] == ":":
            if named[2] not in CLASSES:
                _bad("Invalid character class name")
            return frozenset(map(ord, re.findall(f"[{CLASSES[named[2]]}]", "".join(map(chr, range(128))))))
        if len(named[2]) != 1:
            _bad("Invalid collation character")
        return ord(named[2]) if named[1] == "." else frozenset({ord(named[2])})


def _bad(message: str) -> NoReturn:
    raise GuestFSError(message, errno.EINVAL)


def _longest_literal(tree: Tree) -> bytes:
    """The longest text that is in every line with a match."""
    parts = tree[1] if tree[0] == "cat" else (tree,)
    best = run = b""
    for part in parts:  # type: ignore[attr-defined]
        single = part[0] == "set" and len(part[1]) == 1
        run = run + bytes(part[1]) if single else b""
        best = max(best, run, key=len)
    return best


# Automata


class _Node(NamedTuple):
    """The bytes that lead to ``to``; where they are None, ``to`` is reached without any if the assertion holds."""

    accepts: frozenset[int] | None
    kind: str
    to: list[int]


_LINE, _OTHER, _IN_WORD = 0, 1, 2  # what is beside a place in a line: its end, a byte, a byte of a word
_END = 256
_FOUND = -1


class _Automaton:
    def __init__(self, tree: Tree) -> None:
        self._nodes: list[_Node] = []
        self._final = self._add(None)
        self._first = self._build(tree, self._final)
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[tuple[frozenset[int], int], int] = {}
        self._states: list[tuple[frozenset[int], int]] = []
        self._rows: list[list[int | None]] = []
        self._start = self._number((frozenset({self._first}), _LINE))

    def _add(self, accepts: frozenset[int] | None, kind: str = "", *to: int) -> int:
        if len(self._nodes) >= _MAX_NODES:
            _bad("Regular expression too big")
        self._nodes.append(_Node(accepts, kind, list(to)))
        return len(self._nodes) - 1

    def _build(self, tree: Tree, after: int) -> int:
        """Nodes for `tree` before the node `after`; gives the first."""
        kind, content = tree[0], tree[1]
        if kind == "set":
            return self._add(content, "", after)  # type: ignore[arg-type]
        if kind == "assert":
            return self._add(None, content, after)  # type: ignore[arg-type]
        if kind == "cat":
            for part in reversed(content):  # type: ignore[call-overload]
                after = self._build(part, after)
            return after
        if kind == "or":
            return self._add(None, "", *[self._build(part, after) for part in content])  # type: ignore[attr-defined]
        return self._build_repeat(content, tree[2], tree[3], after)  # type: ignore[arg-type]

    def _build_repeat(self, tree: Tree, least: int, most: int | None, after: int) -> int:
        if most is None:
            loop = self._add(None, "", after)
            self._nodes[loop].to.append(self._build(tree, loop))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = self._add(None, "", self._build(tree, after), end)
        for _ in range(least):
            before = self._build(tree, after)
            if before == after:  # of nothing
                break
            after = before
        return after

    def _number(self, state: tuple[frozenset[int], int]) -> int:
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
            self._rows.append([None] * 257)
        return self._numbers[state]

    def matches(self, line: bytes) -> bool:
        rows, number = self._rows, self._start
        for byte in line:
            following = rows[number][byte]
            if following is None:
                following = self._step(number, byte)
                rows = self._rows
            if following == _FOUND:
                return True
            number = following
        last = rows[number][_END]
        return (self._step(number, _END) if last is None else last) == _FOUND

    def _step(self, number: int, byte: int) -> int:
        """The state after `byte`, which is remembered."""
        waiting, before = self._states[number]
        beside = _LINE if byte == _END else _IN_WORD if byte in _WORD else _OTHER
        reached = self._reached(waiting, before, beside)
        if self._final in reached:
            following = _FOUND
        elif byte == _END:
            following = 0
        else:
            nodes = self._nodes
            moved = {nodes[one].to[0] for one in reached if byte in (nodes[one].accepts or ())}
            if len(self._states) >= _MAX_ROWS:
                self._forget()
                return self._number((frozenset(moved | {self._first}), beside))
            following = self._number((frozenset(moved | {self._first}), beside))
        self._rows[number][byte] = following
        return following

    def _reached(self, waiting: frozenset[int], before: int, beside: int) -> set[int]:
        pending, reached = list(waiting), set(waiting)
        while pending:
            accepts, kind, to = self._nodes[pending.pop()]
            if accepts is None and _holds(kind, before, beside):
                pending += (one for one in to if one not in reached)
                reached.update(to)
        return reached


def _holds(kind: str, before: int, beside: int) -> bool:
    """Whether an assertion holds between two places."""
    if kind in ("b", "B"):
        return ((before == _IN_WORD) != (beside == _IN_WORD)) == (kind == "b")
    return (
        not kind
        or (kind == "^" and before == _LINE)
        or (kind == "$" and beside == _LINE)
        or (kind == "<" and before != _IN_WORD and beside == _IN_WORD)
        or (kind == ">" and before == _IN_WORD and beside != _IN_WORD)
    )
