"""Small configuration files of a guest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestctl.disk.filesystem import FileSystem

Tree = FileSystem[Any]

# No configuration file is larger; a larger one is an attack on memory or a mistake.
_MAX_CONFIG_BYTES = 4 << 20


def read_config(tree: Tree, path: str, *, limit: int = _MAX_CONFIG_BYTES) -> str | None:
    """The text of a file, or None where there is no such file."""
    if not tree.is_file(path):
        return None
    return tree.read_text(path, limit=limit)


def first_line(tree: Tree, path: str) -> str | None:
    """The first line that says something, stripped; None where there is none or no such file."""
    text = read_config(tree, path)
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def list_directory(tree: Tree, path: str) -> list[str]:
    """Sorted names in a directory; none where there is no such directory."""
    return sorted(tree.listdir(path)) if tree.is_dir(path) else []


def assignments(text: str) -> Iterator[tuple[str, str]]:
    """``KEY=value`` lines as the shell reads them, one level of quotes removed."""
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        yield key.removeprefix("export ").strip(), value


def sections(text: str) -> Iterator[tuple[str, str, str]]:
    """(section, key, value) of an INI-like file in order, repeated keys included."""
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            yield section, key.strip(), value.strip()
