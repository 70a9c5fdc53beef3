"""The devices of a machine as a tree: each below what it lies on, as lsblk draws it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

_MAX_LEVELS = 32
_MAX_LINES = 10_000  # volumes over several devices appear below each


def tree_lines(parents: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """(what is drawn before the name, name), in order; `parents` has every device with what it lies on."""
    children: dict[str, list[str]] = {}
    for name, below in parents.items():
        for parent in below:
            children.setdefault(parent, []).append(name)
    lines = 0
    pending = [("", "", name) for name in reversed(list(parents)) if not parents[name]]
    while pending and lines < _MAX_LINES:
        drawn, indent, name = pending.pop()
        yield drawn, name
        lines += 1
        below = children.get(name, []) if len(indent) < 2 * _MAX_LEVELS else []
        for number, child in enumerate(reversed(below)):
            last = number == 0
            pending.append((indent + ("└─" if last else "├─"), indent + ("  " if last else "│ "), child))
