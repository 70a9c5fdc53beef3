"""Shell patterns as glob(3) with ``GLOB_BRACE`` has them: ``*``, ``?``, ``[…]`` with classes, ``{…,…}``, ``\\``."""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Iterator
from typing import Any

from guestctl.disk.filesystem import FileSystem
from guestctl.guestfs.calls import GuestFSError

# Each pair of braces may double the number of patterns.
_MAX_PATTERNS = 1 << 14
_SPECIAL = re.compile(r"[*?\[\\]")
# POSIX 9.3.5, of the C locale.
CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t-\\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


def expand(tree: FileSystem[Any], pattern: str, *, mark: bool) -> list[str]:
    """The paths that match, those of each alternative in braces in their order; `mark` puts a slash to directories."""
    found: list[str] = []
    for one in _braces(pattern):
        matching = _matching(tree, one)
        if mark:
            matching = (f"{path}/" if not path.endswith("/") and tree.is_dir(path) else path for path in matching)
        found += sorted(matching, key=lambda path: path.encode("utf-8", "surrogateescape"))
    return found


def _braces(pattern: str) -> list[str]:
    """The patterns that one with braces stands for."""
    pending, done = [pattern], []
    while pending:
        one = pending.pop()
        found = _first_braces(one)
        if found is None:
            done.append(one)
        else:
            start, choices, end = found
            pending += (one[:start] + choice + one[end:] for choice in reversed(choices))
        if len(pending) + len(done) > _MAX_PATTERNS:
            raise GuestFSError("too many alternatives in braces", errno.E2BIG)
    return done


def _first_braces(pattern: str) -> tuple[int, list[str], int] | None:
    """Where the first pair of braces begins, what is between its commas, and where it ends."""
    start, depth, cuts = -1, 0, []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "{":
            depth += 1
            if depth == 1:
                start, cuts = at, [at]
        elif character == "," and depth == 1:
            cuts.append(at)
        elif character == "}" and depth:
            depth -= 1
            if not depth:
                cuts.append(at)
                return start, [pattern[a + 1 : b] for a, b in itertools.pairwise(cuts)], at + 1
        at += 1
    return None


def _matching(tree: FileSystem[Any], pattern: str) -> Iterator[str]:
    """Paths, with slashes and dots as `pattern` has them."""
    found = [""]
    for part in re.findall("/+|[^/]+", pattern):
        if part[0] == "/" or not _SPECIAL.search(part):
            found = [path + part for path in found]
        elif not _SPECIAL.search(part.replace("\\", "")):
            found = [path + re.sub(r"\\(.)", r"\1", part) for path in found]
        else:
            matches = component(part).fullmatch
            found = [path + name for path in found for name in _names(tree, path or "/", part) if matches(name)]
    return (path for path in found if _is_there(tree, path))


def _names(tree: FileSystem[Any], path: str, part: str) -> list[str]:
    """What is in a directory; hidden names only where the pattern begins with a dot."""
    if not tree.is_dir(path):
        return []
    hidden = part.removeprefix("\\").startswith(".")
    names = [name for name in tree.listdir(path) if name.startswith(".") == hidden]
    return [".", "..", *names] if hidden else names


def _is_there(tree: FileSystem[Any], path: str) -> bool:
    try:
        tree.lstat(path)
    except OSError:
        return False
    return True


def component(pattern: str, *, slashes: bool = False) -> re.Pattern[str]:
    """A pattern of one name; with `slashes`, what ``*`` and ``?`` match may be one too.

    What follows a star is looked for once, so that no name takes more than linear time for each star.
    """
    parts: list[list[str]] = [[]]
    any_character = "." if slashes else "[^/]"
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            parts.append([])
        elif character == "?":
            parts[-1].append(any_character)
        elif character == "[" and (found := _bracket(pattern, at)):
            parts[-1].append(found[0])
            at = found[1]
        else:
            if character == "\\" and at < len(pattern):
                character = pattern[at]
                at += 1
            parts[-1].append(re.escape(character))
    first, *others = ("".join(part) for part in parts)
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>{any_character}*?{part})" for part in others[:-1] if part)
    return re.compile(f"{first}{middle}{any_character}*{others[-1]}", re.DOTALL)


def _bracket(pattern: str, at: int) -> tuple[str, int] | None:
    """A bracket expression that begins after `at`, as ``re`` writes it, and where it ends; None if it never does."""
    negated = pattern[at : at + 1] in ("!", "^") and pattern[at : at + 1] != ""
    at += negated
    items = ""
    first = True
    while at < len(pattern):
        character = pattern[at]
        if character == "]" and not first:
            return _set(items, negated), at + 1
        named = re.compile(r"\[:(\w+):\]").match(pattern, at)
        if named and named[1] in CLASSES:
            items += CLASSES[named[1]]
            at = named.end()
        else:
            if character == "\\" and at + 1 < len(pattern):
                at += 1
                character = pattern[at]
            is_range = character == "-" and not first and pattern[at + 1 : at + 2] not in ("]", "")
            items += "-" if is_range else re.escape(character)
            at += 1
        first = False
    return None


def _set(items: str, negated: bool) -> str:
    try:
        re.compile(f"[{items}]")
    except re.error:  # a range that ends before it begins matches nothing
        return "[^/]" if negated else "(?!)"
    return f"[^/{items}]" if negated else f"[{items}]"
