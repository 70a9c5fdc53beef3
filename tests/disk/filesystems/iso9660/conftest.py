"""Trees of what ISO 9660 can hold, with Rock Ridge and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from awkward_tree import populate


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward tree, but for what the format or its writers cannot hold.

    There are no holes, so that several GiB would be as many bytes; years end in 2155; genisoimage
    writes a damaged entry for a link of 1000 bytes (isoinfo says so too); xorriso takes the
    permissions of an ACL for those of the group, and writes device numbers as Linux did in 1999.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    top = tmp_path_factory.mktemp("iso9660") / "tree"
    top.mkdir()
    populate(top, 2048, large_values=False, many_files=300)
    for path in ("sparse/several-gib", "times/7", "links/to-1000", "attributes/few"):
        (top / path).unlink()
    for kind in ("char", "block"):
        (top / "special" / f"{kind}-new").unlink()
    return top


@pytest.fixture(scope="session")
def plain_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that survive without Rock Ridge, in a tree of eight levels."""
    top = tmp_path_factory.mktemp("iso9660-plain") / "tree"
    folder = top
    for level in range(8):
        folder.mkdir()
        for name in ("Readme.txt", "NOEXT", "a-long-name.with.dots", "UPPER.TXT", "mixed Case.Txt"):
            (folder / name).write_bytes(f"{level} {name}".encode() * (level * 300))
        folder = folder / f"dir{level}"
    for number in range(500):
        (top / f"file{number:03}.dat").write_bytes(b"%d" % number)
    return top
