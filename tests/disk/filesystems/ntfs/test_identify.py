"""What a volume is, as blkid says."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.disk import FileSystem

Run = Callable[..., str]
Make = Callable[..., Path]


def _blkid(run: Run, image: Path) -> dict[str, str]:
    lines = run("blkid", "-p", "-o", "export", image).splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(
    "arguments",
    ["-c 512", "-c 1024", "-c 4096", "-c 65536", "-c 131072", "-c 2097152", "-c 4096 -s 4096", "-c 2048 -s 1024"],
)
def test_identity_is_that_of_blkid(run: Run, make: Make, arguments: str) -> None:
    image = make(*arguments.split(), "-L", "lab\u00e9l x")
    expected = _blkid(run, image)
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity is not None
        with FileSystem.detect(device) as filesystem:
            assert filesystem.listdir() == []
            assert filesystem.warnings == []
            assert (filesystem.label, filesystem.uuid) == (identity.label, identity.uuid)
    assert (identity.type, identity.label, identity.uuid, identity.usage, identity.version) == (
        expected["TYPE"],
        "lab\u00e9l x",
        expected["UUID"],
        expected["USAGE"],
        expected.get("VERSION"),
    )


def test_made_by_windows(shared: Path) -> None:
    image = lzma.decompress((shared / "blkid" / "images-fs" / "ntfs.img.xz").read_bytes())
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        assert filesystem.label == "Новый том"
        assert filesystem.uuid == "09CBB6DE30C87310"
        for _path, node, status in filesystem.find("/"):
            assert status.st_mtime_ns > 0
            filesystem.node_xattrs(node)
