"""The words of a shell script, and the operators between them, with quotes, continuation and comments.

POSIX's "Shell Command Language": parameters with ``-``, ``=`` and ``+`` have their values, command substitution is
passed over.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat

Values = dict[str, str | None]

# Of one value, and of all: a value may hold another twice, and so on.
_MAX_VALUE = 1 << 14
_MAX_VALUES = 1 << 22
_BLANKS = re.compile(r"(?:[ \t]|\\\n)*+(?:#[^\n]*+)?")
_OPERATOR = re.compile(r"<<|&&|\|\||;;|[\n;&|()<>]")
_PLAIN = re.compile(r"[^ \t\n'\"\\$`;&|()<>]++")
_IN_DOUBLE = re.compile(r'[^"\\$`]++')
_PARAMETER = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-=+])(.*))?\})", re.DOTALL)
_SPECIAL = re.compile(r"\$[#?*@!$0-9-]")
_BRACES = re.compile(r"\$\{(?:[^{}'\"\\`$]|\\.|'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|\$\{[^{}]*+\}|\$)*+\}", re.DOTALL)
_EXPANSION = re.compile(
    r"\$\{(?:#?(?:[A-Za-z_]\w*|\d+|[@*#?!$-])|(?:[A-Za-z_]\w*:?=|(?:[A-Za-z_]\w*|\d+)(?::?[-+?]|%%?|##?)).*)\}",
    re.DOTALL,
)
_LITERAL = re.compile(r"\"([^\"\\$`]*)\"|'([^']*)'|([^'\"\\$`~]*)")
_BACKQUOTED = re.compile(r"`(?:[^`\\]|\\.)*+`", re.DOTALL)
_ESCAPED = re.compile(r"\\.?", re.DOTALL)
_SINGLE = re.compile(r"'[^']*+'")
_NESTED = re.compile(r"\\.|'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|[()]|[^\\'\"()]++", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*=")
_SURROUNDINGS = {"HOME", "PATH", "PWD"}


class Word(NamedTuple):
    """A word as far as it is known; a quoted one may be empty."""

    text: str
    known: bool
    plain: bool  # without quotes and parameters
    is_assignment: bool = False
    assigns: tuple[str, str | None] | None = None  # of ${name=word}


class BadSubstitution(InvalidFormat):
    """What the shell finds when it runs a line, and not before."""


class Reader:
    """The commands of a text. Parameters have the values that are set when their command comes."""

    def __init__(self, text: str, values: ChainMap[str, str | None]) -> None:
        self._text = text
        self._values = values
        self._position = 0
        self._left = _MAX_VALUES

    def commands(self) -> Iterator[tuple[list[Word], str]]:
        """(words, the operator after them)"""
        words: list[Word] = []
        local: Values = {}  # what is assigned in this command
        redirected = False
        while True:
            self._position = _BLANKS.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position == len(self._text):
                yield words, ""
                return
            operator = _OPERATOR.match(self._text, self._position)
            if operator is None:
                word = self._word(self._values.new_child(local))
                if not redirected:
                    words.append(word)
                    if word.is_assignment:
                        name, _, value = word.text.partition("=")
                        local[name] = value if word.known else None
                redirected = False
                continue
            if operator[0] == "<<":
                return
            self._position = operator.end()
            if operator[0] in ("<", ">") or (redirected and operator[0] in ("&", "|")):
                redirected = True
                continue
            yield words, operator[0]
            words, local, redirected = [], {}, False

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise InvalidFormat("no shell script", structure="shell script", offset=self._position)
        self._position = match.end()
        return match[0]

    def _word(self, values: Mapping[str, str | None]) -> Word:
        pieces: list[str] = []
        is_assignment = _NAME.match(self._text, self._position) is not None
        known = plain = True
        quoted, size = False, 0
        assigns = None
        while self._position < len(self._text) or quoted:
            character = self._text[self._position : self._position + 1]
            piece: str | None
            if character == '"':
                quoted, plain, piece = not quoted, False, ""
                self._position += 1
            elif character == "\\":
                piece = self._escaped(quoted)
                plain = plain and not piece
            elif character in ("$", "`"):
                piece, assigns = self._expanded(values)
                plain = False
            elif quoted:
                piece = self._take(_IN_DOUBLE)
            elif character == "'":
                piece, plain = self._take(_SINGLE)[1:-1], False
            elif _OPERATOR.match(character) or character in " \t":
                break
            else:
                piece = self._take(_PLAIN)
                known = known and not ("~" in piece and re.search("[=:]~", piece))
            size += len(piece or "")
            fits = size <= min(_MAX_VALUE, self._left)
            known = known and piece is not None and fits
            pieces.append(piece if piece and fits else "")
        self._left -= size if known else 0
        text = "".join(pieces)
        return Word(text, known, plain, is_assignment, assigns)

    def _escaped(self, quoted: bool) -> str:
        character = self._take(_ESCAPED)[1:]
        if character == "\n":
            return ""
        return "\\" + character if not character or (quoted and character not in '$`"\\') else character

    def _expanded(self, values: Mapping[str, str | None]) -> tuple[str | None, tuple[str, str | None] | None]:
        """(the value of what begins with $ or `, None if unknown; what it assigns)"""
        start = self._position
        if self._text[start] == "`":
            self._take(_BACKQUOTED)
            return None, None
        if self._text.startswith("$(", start):
            self._skip_substitution()
            return None, None
        if _SPECIAL.match(self._text, start):
            self._position += 2
            return None, None
        if self._text.startswith("${", start):
            match = _PARAMETER.fullmatch(expansion := self._take(_BRACES))
            if match is None and not _EXPANSION.fullmatch(expansion):
                raise BadSubstitution("bad substitution", structure="shell script", offset=start)
            return _parameter(match[2], match[3], match[4], values) if match else (None, None)
        match = _PARAMETER.match(self._text, start)
        self._position = match.end() if match else start + 1
        if self._text.startswith("\\\n", self._position):  # where the name may go on
            return None, None
        return _parameter(match[1], None, "", values) if match else ("$", None)

    def _skip_substitution(self) -> None:
        self._position += 1
        depth = 0
        while True:
            depth += {"(": 1, ")": -1}.get(self._take(_NESTED), 0)
            if depth == 0:
                return


def _parameter(
    name: str, operator: str | None, word: str, values: Mapping[str, str | None]
) -> tuple[str | None, tuple[str, str | None] | None]:
    """The value of ``${name}``, or with an operator and a word; what it assigns.

    A variable that is not set is taken for an empty one.
    """
    value = values.get(name, None if name in _SURROUNDINGS else "")
    if operator is None or value is None:
        return value, None
    literal = _LITERAL.fullmatch(word)
    other = "".join(filter(None, literal.groups())) if literal else None
    if operator[-1] == "+":
        return (other if value else ""), None
    if value or (len(operator) == 1 and name in values):
        return value, None
    return other, (name, other) if operator[-1] == "=" else None
