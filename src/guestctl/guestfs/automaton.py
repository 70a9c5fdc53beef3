"""Automata that find regular expressions in lines, each in time that is linear in its length."""

from __future__ import annotations

import errno
from typing import NamedTuple, NoReturn

from guestctl.guestfs.calls import GuestFSError

_MAX_NODES = 5_000  # what bounded repetitions may make of a pattern
_MAX_ROWS = 500  # of 2 KiB, and a set of nodes each
WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")

# ("set", bytes), ("assert", kind), ("cat", trees), ("or", trees), ("repeat", tree, least, most)
Tree = tuple[object, ...]


def bad(message: str) -> NoReturn:
    """Refuse a pattern."""
    raise GuestFSError(message, errno.EINVAL)


class _Node(NamedTuple):
    """The bytes that lead to ``to``; where they are None, ``to`` is reached without any if the assertion holds."""

    accepts: frozenset[int] | None
    kind: str
    to: list[int]


_LINE, _OTHER, _IN_WORD = 0, 1, 2  # what is beside a place in a line: its end, a byte, a byte of a word
_END = 256
_FOUND = -1


class Automaton:
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
            bad("Regular expression too big")
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
        beside = _LINE if byte == _END else _IN_WORD if byte in WORD else _OTHER
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
