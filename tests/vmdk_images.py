"""VMDK images made by qemu-img and by hand, and what qemu-img says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from guestctl.disk.reader import MapEntry

Run = Callable[..., str]
Row = tuple[int, int, int, bool, bool, bool, int | None]


def descriptor(*extents: str, create_type: str = "custom", cid: str = "12345678", more: str = "") -> str:
    """A descriptor file with these extent lines."""
    return (
        f'# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID=ffffffff\ncreateType="{create_type}"\n{more}\n'
        "# Extent description\n" + "\n".join(extents) + '\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = "ide"\n'
    )


def convert(run: Run, source: Path, path: Path, subformat: str, *options: str) -> None:
    run("qemu-img", "convert", "-O", "vmdk", "-o", ",".join((f"subformat={subformat}", *options)), source, path)


def qemu_io(run: Run, path: Path, *commands: str) -> None:
    arguments = [argument for command in commands for argument in ("-c", command)]
    run("qemu-io", "-f", "vmdk", *arguments, path)


def qemu_map(run: Run, path: Path) -> list[Row]:
    entries: list[dict[str, Any]] = json.loads(run("qemu-img", "map", "--output=json", path))
    return _joined(
        (e["start"], e["length"], e["depth"], e["present"], e["zero"], e["data"], e.get("offset")) for e in entries
    )


def _joined(rows: Iterable[Row]) -> list[Row]:
    """qemu-img cuts where its own requests end; join what continues."""
    result: list[Row] = []
    for row in rows:
        if result:
            start, length, *status, offset = result[-1]
            if list(row[2:6]) == status and row[6] == (None if offset is None else offset + length):
                result[-1] = (start, length + row[1], *row[2:6], offset)
                continue
        result.append(row)
    return result


def our_map(entries: Iterable[MapEntry]) -> list[Row]:
    return [(e.start, e.length, e.depth, e.present, e.zero, e.data, e.offset) for e in entries]


def qemu_info(run: Run, path: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(run("qemu-img", "info", "--output=json", path))
    info.pop("children", None)
    return info
