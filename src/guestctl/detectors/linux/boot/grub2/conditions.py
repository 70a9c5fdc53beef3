"""The expressions of GRUB 2's ``test`` and ``[`` (GRUB manual, "test").

``-a`` binds tighter than ``-o``; parentheses group.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from guestctl.core.errors import InvalidFormat

_MAX_WORDS = 60
Kind = Callable[[str], str | None]  # of what is at a path: "file", "directory", None where nothing is

_STRINGS = {"=": operator.eq, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
_NUMBERS = {"-eq": operator.eq, "-ne": operator.ne, "-lt": operator.lt, "-le": operator.le}
_NUMBERS |= {"-gt": operator.gt, "-ge": operator.ge}


def evaluate(words: list[str], kind: Kind) -> bool:
    """Whether the expression holds; without words it does not."""
    if len(words) > _MAX_WORDS:
        raise InvalidFormat(f"more than {_MAX_WORDS} words", structure="GRUB test", offset=0)
    return _Expression(words, kind).disjunction()


class _Expression:
    def __init__(self, words: list[str], kind: Kind) -> None:
        self._words = words[::-1]
        self._kind = kind

    def _accept(self, word: str) -> bool:
        if self._words[-1:] == [word]:
            self._words.pop()
            return True
        return False

    def disjunction(self) -> bool:
        value = self._conjunction()
        while self._accept("-o"):
            value = self._conjunction() or value
        return value

    def _conjunction(self) -> bool:
        value = self._term()
        while self._words and self._words[-1] not in ("-o", ")"):
            self._accept("-a")
            value = self._term() and value
        return value

    def _term(self) -> bool:
        words = self._words
        if not words:
            return False
        if self._accept("!"):
            return not self._term()
        if self._accept("("):
            value = self.disjunction()
            self._accept(")")
            return value
        if len(words) >= 3 and (words[-2] in _STRINGS or words[-2] in _NUMBERS):
            left, name, right = words.pop(), words.pop(), words.pop()
            if name in _STRINGS:
                return bool(_STRINGS[name](left, right))
            return bool(_NUMBERS[name](_number(left), _number(right)))
        if len(words) >= 2 and words[-1] in ("-n", "-z", "-f", "-d", "-e", "-s"):
            return self._unary(words.pop(), words.pop())
        return bool(words.pop())

    def _unary(self, name: str, word: str) -> bool:
        if name in ("-n", "-z"):
            return bool(word) is (name == "-n")
        kind = self._kind(word)
        return kind is not None if name == "-e" else kind == {"-d": "directory"}.get(name, "file")


def _number(text: str) -> int:
    digits = text.removeprefix("-")[:18]
    if not digits.isdecimal():
        return 0
    return -int(digits) if text.startswith("-") else int(digits)
