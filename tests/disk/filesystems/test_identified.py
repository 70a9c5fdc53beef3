"""Filesystems that are told and not read, made by their own tools: what ``blkid -p`` says of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk import FileSystem

Run = Callable[..., str]

MAKERS = {
    "f2fs": ("mkfs.f2fs", "-q", "-l", "a label"),
    "nilfs2": ("mkfs.nilfs2", "-q", "-L", "label"),
    "reiserfs": ("mkreiserfs", "-q", "-f", "-l", "label"),
    "reiserfs-3.5": ("mkreiserfs", "-q", "-f", "--format", "3.5"),
    "jfs": ("mkfs.jfs", "-q", "-L", "label"),
    "swap": ("mkswap", "-L", "label"),
    "swap-64k": ("mkswap", "-p", "65536", "-L", "a label"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_identity_is_that_of_blkid(run: Run, tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(256 << 20)
    run(*MAKERS[name], image)
    lines = run("blkid", "-p", "-o", "export", image).splitlines()
    expected = {key: value.replace("\\", "") for key, _, value in (line.partition("=") for line in lines)}
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity is not None
        assert (identity.type, identity.usage, identity.version, identity.label, identity.uuid) == (
            expected["TYPE"],
            expected["USAGE"],
            expected.get("VERSION"),
            expected.get("LABEL"),
            expected.get("UUID"),
        )
        with pytest.raises(UnsupportedFeature) as refusal:
            FileSystem.detect(device)
        assert refusal.value.feature == expected["TYPE"]
