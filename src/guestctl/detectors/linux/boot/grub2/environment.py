"""The GRUB environment block (GRUB manual, "The GRUB environment block"): ``grubenv``, of 1024 bytes.

A line that says what it is, then ``name=value`` lines, a backslash before a newline or a backslash of a value;
``#`` fills the rest.
"""

from __future__ import annotations

import re

_SIGNATURE = "# GRUB Environment Block\n"


def parse_environment(text: str) -> dict[str, str]:
    """The variables in order; none where the signature is missing."""
    if not text.startswith(_SIGNATURE):
        return {}
    lines = re.findall(r"(?:[^\\\n]++|\\.)*+\n", text[len(_SIGNATURE) :], re.DOTALL)
    pairs = (line[:-1].partition("=") for line in lines if not line.startswith("#"))
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, equals, value in pairs if equals}
