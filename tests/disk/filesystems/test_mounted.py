"""Images and what a Linux kernel shows of them, from tools/make-mounted-images: exFAT, HFS Plus and UDF that it
filled, ISO 9660, and UDF of other tools."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import MemoryDevice
from guestctl.disk import FileSystem

_DATA = Path(__file__).parents[2] / "data" / "mounted"
# That of BFS is not complete, and has a test of its own.
_NAMES = sorted(path.stem for path in _DATA.glob("*.xz") if path.stem not in ("expected.json", "befs"))


def _opened(name: str) -> FileSystem[Any]:
    return FileSystem.detect(MemoryDevice(lzma.decompress((_DATA / f"{name}.xz").read_bytes())))


def _expected(name: str) -> dict[str, Any]:
    images = json.loads(lzma.decompress((_DATA / "expected.json.xz").read_bytes()))["images"]
    found: dict[str, Any] = images[name]
    return found


@pytest.mark.parametrize("name", _NAMES)
def test_tree(name: str) -> None:
    expected = _expected(name)
    files = {}
    with _opened(name) as filesystem:
        for path, node, status in filesystem.find("/"):
            content = None
            if status.is_symlink():
                content = filesystem.node_target(node)
            elif status.is_file():
                data = filesystem.node_data(node)
                content = hashlib.sha256(data.read(0, data.size)).hexdigest()
            files[path] = {
                **{
                    field: getattr(status, f"st_{field}")
                    for field in (
                        "ino",
                        "mode",
                        "nlink",
                        "uid",
                        "gid",
                        "size",
                        "blocks",
                        "atime_ns",
                        "mtime_ns",
                        "ctime_ns",
                        "rdev",
                    )
                },
                "content": content,
                "xattrs": {attribute: value.hex() for attribute, value in filesystem.node_xattrs(node).items()},
            }
        usage = filesystem.usage()
        assert filesystem.warnings == []
    if name == "exfat":  # inodes are numbered as they are met, and the root has the time of the mount
        for tree in (files, expected["files"]):
            tree["/"] |= {"atime_ns": 0, "mtime_ns": 0, "ctime_ns": 0}
            for facts in tree.values():
                del facts["ino"]
    assert files.keys() == expected["files"].keys()
    different = {path: (files[path], facts) for path, facts in expected["files"].items() if files[path] != facts}
    assert different == {}
    assert [usage.size, usage.used, usage.available] == expected["usage"]


def test_fragments_of_exfat() -> None:
    """The kernel's volume has what the tree is to be tested with: a file in many runs."""
    with _opened("exfat") as filesystem:
        device = filesystem.device("/fragmented")
        assert len(list(device.runs(0, device.size))) > 5
