"""LVM2's metadata as text: sections in braces, and keys with numbers, strings or lists of them."""

from __future__ import annotations

import re
from typing import TypeAlias

from guestctl.core.errors import InvalidFormat

Value: TypeAlias = "int | float | str | list[int | str] | Section"

_MAX_DEPTH = 16
_TOKEN = re.compile(
    r"""(?:[\s\0]++|\#[^\n]*+)*+
    (?: (?P<name>[A-Za-z0-9_.+-][A-Za-z0-9_.+/-]*+)
    | "(?P<string>(?:[^"\\]|\\.)*+)"
    | (?P<mark>[={}\[\],])
    | (?P<end>\Z) )""",
    re.VERBOSE | re.DOTALL,
)
_STRUCTURE = "LVM2 metadata"


class Section(dict[str, Value]):
    """A section; ``offset`` is where the whole text lies, for errors."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    @property
    def sequence(self) -> int:
        """``seqno`` of the one volume group in the text."""
        return self.group()[1].number("seqno")

    def group(self) -> tuple[str, Section]:
        """The volume group: its name and section."""
        for name, value in self.items():
            if isinstance(value, Section):
                return name, value
        raise self.bad("no volume group")

    def section(self, key: str) -> Section:
        value = self.get(key)
        if isinstance(value, Section):
            return value
        raise self.bad(f"no section {key}")

    def sections(self, key: str) -> dict[str, Section]:
        """The sections in a section, which may be missing."""
        inside = self.get(key)
        if not isinstance(inside, Section):
            return {}
        return {name: value for name, value in inside.items() if isinstance(value, Section)}

    def number(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, int) and 0 <= value < 1 << 63:
            return value
        raise self.bad(f"{key} is {value!r}")

    def text(self, key: str) -> str:
        value = self.get(key)
        if isinstance(value, str):
            return value
        raise self.bad(f"{key} is {value!r}")

    def list(self, key: str) -> list[int | str]:
        value = self.get(key)
        if isinstance(value, list):
            return value
        raise self.bad(f"{key} is {value!r}")

    def bad(self, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure=_STRUCTURE, offset=self.offset)


def parse_metadata(raw: bytes, offset: int) -> Section:
    """The text `raw`, which lies at `offset` on its device. Raises `InvalidFormat`."""
    text = raw.decode("utf-8", "surrogateescape")
    root = Section(offset)
    open_sections = [root]
    position = 0

    def token() -> tuple[str, str]:
        nonlocal position
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidFormat(f"unexpected {text[position : position + 20]!r}", structure=_STRUCTURE, offset=offset)
        position = match.end()
        kind = str(match.lastgroup)
        return kind, match[kind]

    def scalar(kind: str, value: str) -> int | str:
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        if kind == "name" and value.lstrip("-").isdigit() and len(value) < 20:
            return int(value)
        if kind == "name":
            return value
        raise root.bad(f"unexpected {value!r}")

    def values() -> list[int | str]:
        found = []
        while (item := token()) != ("mark", "]"):
            if item != ("mark", ","):
                found.append(scalar(*item))
        return found

    while True:
        kind, name = token()
        if kind == "end":
            if len(open_sections) > 1:
                raise root.bad("a section does not end")
            return root
        if (kind, name) == ("mark", "}") and len(open_sections) > 1:
            open_sections.pop()
            continue
        if kind != "name":
            raise root.bad(f"unexpected {name!r}")
        following = token()
        if following == ("mark", "{"):
            if len(open_sections) > _MAX_DEPTH:
                raise root.bad("sections nested too deep")
            section = Section(offset)
            open_sections[-1][name] = section
            open_sections.append(section)
        elif following == ("mark", "="):
            item = token()
            open_sections[-1][name] = values() if item == ("mark", "[") else scalar(*item)
        else:
            raise root.bad(f"unexpected {following[1]!r} after {name}")
