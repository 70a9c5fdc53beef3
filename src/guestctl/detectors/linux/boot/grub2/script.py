"""The syntax of GRUB 2's configuration (GRUB manual, "Writing full configuration files directly").

Words with quotes and variables; simple commands, ``menuentry`` and the like with a block; ``if``, ``while``,
``until``, ``for``, ``function``. Pipes and redirections, which GRUB reserves, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat

_MAX_DEPTH = 32  # of nested statements
_RESERVED = ("then", "elif", "else", "fi", "do", "done", "in")
_VARIABLE = r"\$(?:\{(?P<braced>[A-Za-z0-9_]+|[?@*#])\}|(?P<name>[A-Za-z_][A-Za-z0-9_]*|[0-9?@*#]))"
_BLANK = re.compile(r"(?:[ \t\r]|\\\n)+|#[^\n]*")
_OPERATOR = re.compile(r"\n|;;?|&&?|\|\|?|[{}<>]")
_PART = re.compile(
    r"'(?P<single>[^']*+)'"
    r'|"(?P<double>(?:[^"\\]++|\\.)*+)"'
    r"|\\(?P<escape>.)"
    rf"|{_VARIABLE}"
    r"|(?P<plain>[^\s'\"\\$;{}|&<>]+|\$)",
    re.DOTALL,
)
_QUOTED_PART = re.compile(rf"\\(?P<escape>[$\"\\\n])|{_VARIABLE}|(?P<plain>[^\\$]+|[\\$])", re.DOTALL)


class Part(NamedTuple):
    """A piece of a word: text, or the name of a variable."""

    text: str
    variable: bool
    quoted: bool


Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command; those that make menu entries have a block."""

    words: list[Word]
    block: list[Node] | None = None


@dataclass(frozen=True, slots=True)
class If:
    branches: list[tuple[list[Node], list[Node]]]  # condition, commands
    otherwise: list[Node]


@dataclass(frozen=True, slots=True)
class Loop:
    condition: list[Node]
    body: list[Node]
    until: bool


@dataclass(frozen=True, slots=True)
class For:
    name: str
    words: list[Word]
    body: list[Node]


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: list[Node]


Node = Command | If | Loop | For | Function
# An operator is a string.
_Token = tuple[int, str | Word]


def parse(text: str) -> list[Node]:
    """The commands of a configuration. Raises `InvalidFormat`, with offsets in characters."""
    return _Parser(_tokens(text), len(text)).statements(())


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        if match := _BLANK.match(text, position):
            position = match.end()
        elif match := _OPERATOR.match(text, position):
            tokens.append((position, match[0]))
            position = match.end()
        else:
            start, parts = position, []
            while match := _PART.match(text, position):
                parts += _parts(match)
                position = match.end()
            if position == start or text[position : position + 1] in ("'", '"'):
                raise _invalid("a quote is not closed", position)
            tokens.append((start, tuple(parts)))
    return tokens


def _parts(match: re.Match[str]) -> list[Part]:
    found = match.groupdict()
    variable = found["braced"] or found["name"]
    if variable:
        return [Part(variable, True, False)]
    if found["double"] is not None:
        return [_quoted_part(inner) for inner in _QUOTED_PART.finditer(found["double"])] or [Part("", False, True)]
    if found["plain"] is not None:
        return [Part(found["plain"], False, False)]
    if found["escape"] is not None:
        return [] if found["escape"] == "\n" else [Part(found["escape"], False, True)]
    return [Part(found["single"], False, True)]


def _quoted_part(match: re.Match[str]) -> Part:
    variable = match["braced"] or match["name"]
    if variable:
        return Part(variable, True, True)
    text = match["plain"] if match["escape"] is None else match["escape"].strip("\n")
    return Part(text, False, True)


class _Parser:
    def __init__(self, tokens: list[_Token], end: int) -> None:
        self._tokens = tokens
        self._end = end
        self._index = 0
        self._depth = 0

    @property
    def token(self) -> str | Word | None:
        return self._tokens[self._index][1] if self._index < len(self._tokens) else None

    def word(self) -> str | None:
        """The token where it is a word without quotes and variables."""
        token = self.token
        if isinstance(token, tuple) and len(token) == 1 and not (token[0].variable or token[0].quoted):
            return token[0].text
        return None

    def error(self, message: str) -> InvalidFormat:
        return _invalid(message, self._tokens[self._index][0] if self._index < len(self._tokens) else self._end)

    def _accept(self, wanted: str) -> bool:
        if self.token == wanted or self.word() == wanted:
            self._index += 1
            return True
        return False

    def _expect(self, wanted: str) -> None:
        while self.token == "\n" and wanted != "\n":
            self._index += 1
        if not self._accept(wanted):
            raise self.error(f"{wanted!r} is expected")

    def statements(self, ends: tuple[str, ...]) -> list[Node]:
        """Commands up to one of the words or operators `ends`, which stays, or the end of the text."""
        nodes: list[Node] = []
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.error(f"more than {_MAX_DEPTH} levels")
        while self.token is not None and self.token not in ends and self.word() not in ends:
            if self.token in ("\n", ";"):
                self._index += 1
            else:
                nodes.append(self._statement())
        self._depth -= 1
        return nodes

    def _statement(self) -> Node:
        if self._accept("if"):
            return self._if()
        if self.word() in ("while", "until"):
            until = self._accept("until") or not self._accept("while")
            condition = self.statements(("do",))
            return Loop(condition, self._body("do", "done"), until)
        if self._accept("for"):
            name = self._name()
            self._expect("in")
            words = self._words()
            self._accept(";")
            return For(name, words, self._body("do", "done"))
        if self._accept("function"):
            return Function(self._name(), self._body("{", "}"))
        words = self._words() if self.word() not in _RESERVED else []
        if not words:
            raise self.error(f"{self.word() or self.token!r} is not expected")
        return Command(words, self._body("{", "}") if self.token == "{" else None)

    def _if(self) -> If:
        branches = []
        while True:
            condition = self.statements(("then",))
            self._expect("then")
            branches.append((condition, self.statements(("elif", "else", "fi"))))
            if not self._accept("elif"):
                break
        otherwise = self.statements(("fi",)) if self._accept("else") else []
        self._expect("fi")
        return If(branches, otherwise)

    def _body(self, begin: str, end: str) -> list[Node]:
        self._expect(begin)
        nodes = self.statements((end,))
        self._expect(end)
        return nodes

    def _name(self) -> str:
        name = self.word()
        if name is None:
            raise self.error("a name is expected")
        self._index += 1
        return name

    def _words(self) -> list[Word]:
        words = []
        while isinstance(token := self.token, tuple):
            words.append(token)
            self._index += 1
        return words


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="GRUB configuration", offset=offset)
