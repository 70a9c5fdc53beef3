"""Calls on libguestfs's handle and ours, and how their results are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Answer = dict[str, Any]  # {"value": …} or {"error": text}
Both = Callable[[list[dict[str, Any]], list[Any]], list[tuple[Answer, Answer]]]


def call(name: str, *args: Any, **keywords: Any) -> list[Any]:
    """A call, as JSON carries it."""
    return [name, list(args), keywords]


def differences(
    answers: Sequence[tuple[Answer, Answer]], calls: Sequence[Any], known: Mapping[str, Callable[[Answer, Answer], Any]]
) -> str:
    """The calls that libguestfs answers otherwise than we do, but for those that `known` lets pass.

    Two errors are alike whatever their words, but for those of errno, which programs match on.
    """
    found = []
    for (theirs, ours), (name, args, keywords) in zip(answers, calls, strict=True):
        alike = theirs == ours or ("error" in theirs and "error" in ours and _alike(theirs["error"], ours["error"]))
        if not alike and not (name in known and known[name](theirs, ours)):
            found.append(f"{name} {args} {keywords}:\n  libguestfs: {theirs}\n  guestctl: {ours}"[:2000])
    return "\n".join(found)


_WORDS = (
    "No such file or directory",
    "Not a directory",
    "Is a directory",
    "Too many levels of symbolic links",
    "path must start with a / character",
    "you must call 'mount' first to mount the root filesystem",
    "root device not found",
    "unknown group",
)


def _alike(theirs: str, ours: str) -> bool:
    return all((words in theirs) == (words in ours) for words in _WORDS) and "no attribute" not in ours
