"""Assignments of a shell script, which is read and never run: rc.conf(5), the scripts of rc.d(8), periodic.conf(5).

POSIX's "Shell Command Language": several assignments and commands on a line, export, ``: ${name:=word}``, unset.
What only running tells is None: command substitution, what stands in a compound command, or after && and ||. What
functions and sourced files set is not seen. Reading ends at a here-document and at what is no shell.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.bsd.shell_words import BadSubstitution, Reader, Values, Word

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_ENDS = {"fi": "if", "done": "do", "esac": "case", "}": "{"}
_OPENERS = set(_ENDS.values())
_RESERVED = {*_ENDS, *_OPENERS, "then", "else", "elif", "while", "until", "!"}  # a command may follow
_FUNCTION = "function"  # whose body comes
_SPECIAL_COMMANDS = ("export", "readonly", "unset")
# After the special built-in utilities, assignments before them stay.
_KEEPING = {":", ".", "break", "continue", "eval", "exec", "exit", "return", "set", "shift", "times", "trap"}
_IS_NAME = re.compile(r"-[fpv]$|[A-Za-z_]\w*(?:=|$)")
_MAX_DEPTH = 256  # of compound commands


def assigned(text: str, before: Mapping[str, str | None] | None = None) -> Values:
    """The variables after `text` was sourced where those of `before` were set; None is one that is not known."""
    values: Values = dict(before or {})
    line: Values = {}  # a line with a mistake is not run at all
    opened: list[str] = []
    earlier = "\n"
    current = ChainMap(line, values)
    try:
        for words, operator in Reader(text, current).commands():
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
            if len(opened) > _MAX_DEPTH:
                break
            earlier = operator
            if not opened and operator == "\n":
                values.update(line)
                line.clear()
    except BadSubstitution:
        pass
    except InvalidFormat:
        line.clear()
    return {**values, **line}


def _nest(words: list[Word], operator: str, opened: list[str]) -> None:
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


def _run(words: list[Word], values: ChainMap[str, str | None], sure: bool) -> bool:
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
    rest = words[first + len(changes) :]
    command, *arguments = rest or [Word("", True, True)]
    sure = sure and (not rest or (command.known and command.text != ""))  # else there may be none
    if command.text in _SPECIAL_COMMANDS and not all(_IS_NAME.match(word.text) for word in arguments if word.known):
        return not sure  # the shell ends
    if command.text in ("export", "readonly"):
        matches = [(_ASSIGNMENT.fullmatch(word.text), word.known) for word in arguments]
        changes += [(match[1], match[2] if known else None) for match, known in matches if match]
    elif command.text == "unset" and sure:
        names = {word.text for word in arguments}
        changes = [(name, value) for name, value in changes if name not in names]
        for part in values.maps:
            for name in names & part.keys():
                del part[name]
    elif command.text == "unset":
        changes += [(word.text, None) for word in arguments]
    elif command.text and command.known and command.text not in _KEEPING:
        changes = []  # they are the command's alone
    changes += [word.assigns for word in words if word.assigns]
    values.update({name: value if sure else None for name, value in changes})
    return not (sure and command.text in ("exit", "return"))
