"""Assignments of a shell script, which is read and never run: rc.conf(5), the scripts of rc.d(8), periodic.conf(5).

POSIX's "Shell Command Language": quotes, continuation, comments, several assignments and commands on a line,
parameters with ``-``, ``=`` and ``+``, ``: ${name:=word}``, unset. What only running tells is None: command
substitution, what stands in a compound command, or after && and ||. What functions and sourced files set is not seen.
Reading ends at a here-document and at what is no shell.
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
_BLANKS = re.compile(r"(?:[ \t\r]|\\\n)*+(?:#[^\n]*+)?")
_OPERATOR = re.compile(r"<<|&&|\|\||;;|[\n;&|()<>]")
_PLAIN = re.compile(r"[^\s'\"\\$`;&|()<>]++|[\f\v]++")
_IN_DOUBLE = re.compile(r'[^"\\$`]++')
_PARAMETER = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-=+])(.*))?\})", re.DOTALL)
_SPECIAL = re.compile(r"\$[#?*@!$0-9-]")
_BRACES = re.compile(r"\$\{(?:[^{}'\"\\`$]|\\.|'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|\$\{[^{}]*+\}|\$)*+\}", re.DOTALL)
_EXPANSION = re.compile(r"\$\{(?:#?(?:\w+|[@*#?!$-])|(?:[A-Za-z_]\w*:?=|\w+(?::?[-+?]|%%?|##?)).*)\}", re.DOTALL)
_LITERAL = re.compile(r"\"([^\"\\$`]*)\"|'([^']*)'|([^'\"\\$`~]*)")
_BACKQUOTED = re.compile(r"`(?:[^`\\]|\\.)*+`", re.DOTALL)
_ESCAPED = re.compile(r"\\.?", re.DOTALL)
_SINGLE = re.compile(r"'[^']*+'")
_NESTED = re.compile(r"\\.|'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|[()]|[^\\'\"()]++", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*=")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_ENDS = {"fi": "if", "done": "do", "esac": "case", "}": "{"}
_OPENERS = set(_ENDS.values())
_RESERVED = {*_ENDS, *_OPENERS, "then", "else", "elif", "while", "until", "!"}  # a command may follow
_FUNCTION = "function"  # whose body comes
_SPECIAL_COMMANDS = ("export", "readonly", "unset")
_IS_NAME = re.compile(r"-[fpv]$|[A-Za-z_]\w*(?:=|$)")
_SURROUNDINGS = {"HOME", "PATH", "PWD"}


class _Word(NamedTuple):
    text: str
    known: bool
    plain: bool  # without quotes and parameters
    is_assignment: bool = False
    assigns: tuple[str, str | None] | None = None  # of ${name=word}


def assigned(text: str, before: Mapping[str, str | None] | None = None) -> Values:
    """The variables after `text` was sourced where those of `before` were set; None is one that is not known."""
    values: Values = dict(before or {})
    line: Values = {}  # a line with a mistake is not run at all
    opened: list[str] = []
    earlier = "\n"
    current = ChainMap(line, values)
    try:
        for words, operator in _Reader(text, current).commands():
            if not words and operator == "\n" and earlier in ("|", "&&", "||"):
                continue
            sure = not opened and earlier in ("\n", ";") and operator in ("\n", ";", "&&", "||", "")
            apart = operator in ("|", "&") or earlier == "|" or "(" in opened or _FUNCTION in opened
            if not (apart or _run(words, current, sure)):
                break
            is_function = earlier == "(" and operator == ")" and not words
            _nest(words, operator, opened)
            if is_function:
                opened.append(_FUNCTION)
            earlier = operator
            if not opened and operator == "\n":
                values.update(line)
                line.clear()
    except _BadSubstitution:
        pass
    except InvalidFormat:
        line.clear()
    return {**values, **line}


class _BadSubstitution(InvalidFormat):
    """What is found while a line is run."""


def _nest(words: list[_Word], operator: str, opened: list[str]) -> None:
    """Follow compound commands."""
    for word in words:
        if not (word.plain and word.text in _RESERVED):
            break
        if word.text in _OPENERS:
            opened.append(word.text)
        else:
            _close(opened, _ENDS.get(word.text))
    if operator == "(":
        opened.append("(")
    elif operator == ")":
        _close(opened, "(")


def _close(opened: list[str], opener: str | None) -> None:
    if opened and opened[-1] == opener:
        opened.pop()
        if opened and opened[-1] == _FUNCTION:
            opened.pop()


def _run(words: list[_Word], values: ChainMap[str, str | None], sure: bool) -> bool:
    """What a simple command does to the variables; whether others follow it."""
    first = 0
    while first < len(words) and words[first].plain and words[first].text in _RESERVED:
        first, sure = first + 1, False
    changes = []
    for word in words[first:]:
        if not word.is_assignment:
            break
        name, _, value = word.text.partition("=")
        changes.append((name, value if word.known else None))
    command, *arguments = words[first + len(changes) :] or [_Word("", True, True)]
    sure = sure and command.known  # there may be none
    if command.text in _SPECIAL_COMMANDS and not all(_IS_NAME.match(word.text) for word in arguments if word.known):
        return not sure  # the shell ends
    if command.text in ("export", "readonly"):
        matches = [(_ASSIGNMENT.fullmatch(word.text), word.known) for word in arguments]
        changes += [(match[1], match[2] if known else None) for match, known in matches if match]
    elif command.text == "unset" and sure:
        for word in arguments:
            for part in values.maps:
                part.pop(word.text, None)
    elif command.text == "unset":
        changes = [(word.text, None) for word in arguments]
    elif command.text and command.known:
        changes = []  # they are the command's alone
    changes += [word.assigns for word in words if word.assigns]
    values.update({name: value if sure else None for name, value in changes})
    return not (sure and command.text in ("exit", "return"))


class _Reader:
    """The commands of a text. Parameters have the values that are set when their command comes."""

    def __init__(self, text: str, values: ChainMap[str, str | None]) -> None:
        self._text = text
        self._values = values
        self._position = 0
        self._left = _MAX_VALUES

    def commands(self) -> Iterator[tuple[list[_Word], str]]:
        """(words, the operator after them)"""
        words: list[_Word] = []
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

    def _word(self, values: Mapping[str, str | None]) -> _Word:
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
            elif _OPERATOR.match(character) or character in " \t\r":
                break
            else:
                piece = self._take(_PLAIN)
                known = known and not re.search("[=:]~", piece)
            size += len(piece or "")
            fits = size <= min(_MAX_VALUE, self._left)
            known = known and piece is not None and fits
            pieces.append(piece if piece and fits else "")
        self._left -= size if known else 0
        text = "".join(pieces)
        return _Word(text, known, plain, is_assignment, assigns)

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
                raise _BadSubstitution("bad substitution", structure="shell script", offset=start)
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
