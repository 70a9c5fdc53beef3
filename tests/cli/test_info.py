"""``info`` and ``check`` of images whose backing files are missing, refused or asked for, beside qemu-img."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., str]


def guestctl(*argv: str | os.PathLike[str], code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "guestctl", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def without_children(info: Any) -> Any:
    """What qemu 8 and later say of the nodes below is left out."""
    for image in info if isinstance(info, list) else [info]:
        image.pop("children", None)
        if image["format"] == "raw":
            image.pop("format-specific", None)
    return info


@pytest.mark.parametrize("backing", ["missing.qcow2", "/etc/passwd", "nbd://host/export"])
def test_backing_file_that_cannot_be_opened(run: Run, tmp_path: Path, backing: str) -> None:
    path = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", path, "1M")
    guestctl("info", "--backing-chain", path, code=1)
    guestctl("map", path, code=1)
    theirs = json.loads(run("qemu-img", "info", "--output=json", path))
    assert json.loads(guestctl("info", "--json", path)) == without_children(theirs)
    checked = json.loads(guestctl("check", "--json", path))
    run("qemu-img", "rebase", "-u", "-b", "", path)  # qemu-img check wants the backing file, which plays no part
    assert checked == json.loads(run("qemu-img", "check", "--output=json", path))


def test_backing_chain(run: Run, tmp_path: Path) -> None:
    base, middle, top = (tmp_path / name for name in ("base.raw", "middle.qcow2", "top.qcow2"))
    base.write_bytes(bytes(1 << 20))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", middle)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", middle.name, "-F", "qcow2", top, "2M")
    theirs = json.loads(run("qemu-img", "info", "--backing-chain", "--output=json", top))
    ours = json.loads(guestctl("info", "--backing-chain", "--json", top))
    assert ours == without_children(theirs)
    assert [image["format"] for image in ours] == ["qcow2", "qcow2", "raw"]
    page = guestctl("info", "--backing-chain", top)
    assert [line for line in page.splitlines() if line.startswith("image: ")] == [
        f"image: {path}" for path in (top, middle, base)
    ]
    alone = json.loads(guestctl("info", "--backing-chain", "--json", base))
    assert len(alone) == 1
