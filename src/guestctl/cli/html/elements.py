"""HTML from its parts. Whatever is no `Html` is a guest's text, and escaped."""

from __future__ import annotations

import html
import re

# What could hide text or turn it around: controls but the blanks, bidirectional formatting, surrogates.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_VOID = ("input", "meta")


class Html(str):
    """Markup."""

    __slots__ = ()


def visible(text: str) -> str:
    """`text` with escapes in the place of characters that do not show themselves."""
    return _INVISIBLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        number &= 0xFF
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def element(name: str, /, *children: str, **attributes: str | int | bool | None) -> Html:
    """An element; ``class_`` is the attribute class, ``aria_label`` is aria-label; None and False are left out."""
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{html.escape(visible(str(value)))}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in _VOID else f"{start}{joined(children)}</{name}>")


def joined(children: tuple[str, ...] | list[str]) -> Html:
    return Html("".join(child if isinstance(child, Html) else html.escape(visible(child)) for child in children))
