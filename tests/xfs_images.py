"""XFS images with a tree that mkfs.xfs itself writes, from a protofile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Run = Callable[..., str]


class Item(NamedTuple):
    """What a name is to be."""

    mode: int
    uid: int
    gid: int
    value: Any = None  # content, link target or device number


def protofile(items: dict[str, Item], directory: Path) -> str:
    lines = ["/stand/diag", "0 0", "d--755 0 0"]
    letters = {stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    opened: list[str] = []
    contents: dict[bytes, Path] = {}
    for path, item in items.items():
        parent, _, name = path.rpartition("/")
        while opened and opened[-1] != parent:
            opened.pop()
            lines.append("$")
        letter = letters.get(stat.S_IFMT(item.mode), "p")
        bits = ("u" if item.mode & 0o4000 else "-") + ("g" if item.mode & 0o2000 else "-")
        line = f"{name} {letter}{bits}{item.mode & 0o777:03o} {item.uid} {item.gid}"
        if letter == "-":
            if item.value not in contents:
                contents[item.value] = directory / f"content-{len(contents)}"
                contents[item.value].write_bytes(item.value)
            line += f" {contents[item.value]}"
        elif letter == "l":
            line += f" {item.value}"
        elif letter in "cb":
            line += f" {os.major(item.value)} {os.minor(item.value)}"
        elif letter == "d":
            opened.append(path)
        lines.append(line)
    return "\n".join([*lines, *("$" for _ in opened), "$", ""])


def make(run: Run, directory: Path, arguments: str, items: dict[str, Item]) -> Path:
    image, prototype = directory / "image", directory / "prototype"
    prototype.write_text(protofile(items, directory))
    with image.open("wb") as stream:
        stream.truncate(320 << 20)
    run("mkfs.xfs", "-q", *arguments.split(), "-p", prototype, image)
    return image


def set_attributes(run: Run, image: Path, wanted: dict[str, dict[str, int]]) -> None:
    """Give files in the root directory attributes of so many letters v each.

    Version 6.1 of xfs_db crashes where a file's first attribute is not a short one.
    """
    flags = {"user": "-u", "trusted": "-r", "security": "-s"}
    lines = []
    for file, attributes in wanted.items():
        lines.append(f"path /{file}")
        for name, size in attributes.items():
            namespace, _, rest = name.partition(".")
            lines.append(f"attr_set {flags[namespace]} -v {size} {rest}")
    run("xfs_db", "-x", image, input="\n".join([*lines, "quit", ""]))
