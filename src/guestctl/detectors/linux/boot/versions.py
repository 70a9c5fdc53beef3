"""The order of versions, and of the file names that hold them (UAPI Group's Version Format Specification)."""

from __future__ import annotations

import re

_PIECE = re.compile(r"([~^.-])|([0-9]+)|([A-Za-z]+)")
# What comes first of the kinds that may stand in the same place of two versions; None is the end.
_ORDER = {kind: rank for rank, kind in enumerate(("~", None, "-", "^", ".", "letters", "digits"))}


def version_key(version: str) -> list[tuple[int, int, str]]:
    """A key by which versions ascend. Characters other than letters, digits and ``~^.-`` only separate."""
    key = []
    for separator, digits, letters in _PIECE.findall(version):
        if separator:
            key.append((_ORDER[separator], 0, ""))
        elif digits:
            digits = digits.lstrip("0")
            key.append((_ORDER["digits"], len(digits), digits))
        else:
            key.append((_ORDER["letters"], 0, letters))
    return [*key, (_ORDER[None], 0, "")]
