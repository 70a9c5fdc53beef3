"""Files of tools that are JSON or header fields."""

from __future__ import annotations

import json
import re
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree

_MAX_BYTES = 16 << 20
_FIELD = re.compile(r"^([A-Za-z][\w-]*): ?(.*(?:\n[ \t].*)*)", re.MULTILINE)


def read_json(tree: Tree, path: str) -> Any:
    """The value in a JSON file. Raises `InvalidFormat`."""
    return parse_json(tree.read_bytes(path, limit=_MAX_BYTES))


def parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidFormat(f"no JSON: {error}", structure="file", offset=0) from None


def members(value: Any, *keys: str) -> dict[str, str]:
    """Those of `keys` that an object has a text for; the others are empty."""
    found = value if isinstance(value, dict) else {}
    return {key: found[key] if isinstance(found.get(key), str) else "" for key in keys}


def fields(text: str) -> list[tuple[str, str]]:
    """``Name: value`` lines up to an empty one; a line that begins with white space goes on with the one before."""
    header = text.replace("\r\n", "\n").partition("\n\n")[0]
    return [(name.lower(), value.strip()) for name, value in _FIELD.findall(header)]


def words(value: Any) -> list[str]:
    """A text, or an array of them, as a list."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]
