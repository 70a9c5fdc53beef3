"""Names: UTF-16 in decomposed form on the volume, composed here; and how they compare in any case."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_MARKS = re.compile("[\u0300-\U0010ffff]")
_SHOWN = str.maketrans({"/": ":", "\0": "\u2400"})
_SURROGATE = re.compile("[\ud800-\udfff]")
# FastUnicodeCompare (TN1150) skips these.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def shown_name(data: bytes) -> str:
    """The name as Linux shows it, composed of its parts."""
    text = _SURROGATE.sub("?", data.decode("utf-16-be", "surrogatepass")).translate(_SHOWN)
    return text if text.isascii() else compose(text)


def compose(text: str) -> str:
    """Each character with the marks, or parts of a Hangul syllable, that directly follow it, as far as there is one
    character for them."""
    if not _MARKS.search(text):
        return text
    found = [""]
    for character in text:
        whole = unicodedata.normalize("NFC", found[-1] + character) if found[-1] else ""
        if len(whole) == 1:
            found[-1] = whole
        else:
            found.append(character)
    return "".join(found)


def folded(name: str) -> str:
    """Names that are equal in any case have this in common."""
    if name.isascii():
        return name.lower()
    return "".join(map(_lower, unicodedata.normalize("NFD", _IGNORED.sub("", name))))


@lru_cache(4096)
def _lower(character: str) -> str:
    """Of one character into one other. Some letters have a lower case now that they had not yet in TN1150's table."""
    lower = character.lower()
    return lower if len(lower) == 1 else character
