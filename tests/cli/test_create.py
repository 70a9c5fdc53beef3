"""``guestctl create`` beside ``qemu-img create``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_writing import write_image

Run = Callable[..., str]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run guestctl in an empty directory; gives its standard output, or its error where it is to fail."""
    monkeypatch.chdir(tmp_path)

    def _cli(*argv: str, code: int = 0) -> str:
        done = subprocess.run([sys.executable, "-m", "guestctl", *argv], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    return _cli


def described(run: Run, path: str) -> dict[str, Any]:
    """qemu-img's description, without what differs from file to file."""
    info: dict[str, Any] = json.loads(run("qemu-img", "info", "--output=json", path))
    for key in ("filename", "actual-size", "children", "full-backing-filename"):
        info.pop(key, None)
    return info


@pytest.mark.parametrize(
    "arguments",
    [
        ["FILE", "1M"],
        ["FILE", "1.5k"],
        ["FILE", "1000"],
        ["FILE", "0"],
        ["-f", "raw", "FILE", "3T"],
        ["-f", "qcow2", "FILE", "10G"],
        ["-f", "qcow2", "-o", "size=5M", "FILE"],
        ["-f", "qcow2", "-o", "cluster_size=4k,compat=0.10", "FILE", "1M"],
        ["-f", "qcow2", "-o", "cluster_size=2M", "-o", "lazy_refcounts=on,refcount_bits=8", "FILE", "1M"],
        ["-f", "qcow2", "-o", "extended_l2=on,compression_type=zstd", "FILE", "1M"],
        ["-f", "qcow2", "-o", "preallocation=metadata", "FILE", "64M"],
        ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "FILE"],
        ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "FILE", "7M"],
        ["-f", "qcow2", "-o", "backing_file=comma,,base.qcow2,backing_fmt=qcow2", "FILE"],
    ],
    ids=" ".join,
)
def test_as_qemu_img(cli: Callable[..., str], run: Run, arguments: list[str]) -> None:
    Path("base.raw").write_bytes(b"base" * (1 << 18))
    run("qemu-img", "create", "-q", "-f", "qcow2", "comma,base.qcow2", "3M")
    cli("create", *(word.replace("FILE", "ours") for word in arguments))
    run("qemu-img", "create", "-q", *(word.replace("FILE", "theirs") for word in arguments))
    ours, theirs = described(run, "ours"), described(run, "theirs")
    assert ours == theirs
    if ours["format"] == "qcow2":
        run("qemu-img", "check", "ours")
    run("qemu-img", "compare", "-f", ours["format"], "-F", ours["format"], "ours", "theirs")
    assert sorted(os.listdir()) == ["base.raw", "comma,base.qcow2", "ours", "theirs"]


def test_backing_file_is_relative_to_the_image(cli: Callable[..., str], run: Run) -> None:
    Path("sub").mkdir()
    cli("create", "base.raw", "2M")
    cli("create", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "sub/top.qcow2")
    info = json.loads(run("qemu-img", "info", "--output=json", "sub/top.qcow2"))
    assert (info["backing-filename"], info["virtual-size"]) == ("../base.raw", 2 << 20)
    cli("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "sub/other.qcow2", code=1)


def test_json(cli: Callable[..., str], run: Run) -> None:
    ours = json.loads(cli("create", "--json", "-f", "qcow2", "disk.qcow2", "1G"))
    theirs = json.loads(run("qemu-img", "info", "--output=json", "disk.qcow2"))
    theirs.pop("children", None)
    assert ours == theirs


def test_host_that_cannot_reserve_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    for format in ("raw", "qcow2"):
        with pytest.raises(OSError, match="reserve"):
            write_image(tmp_path / "disk", format, bytes(1024), {"preallocation": "falloc"})
    assert not list(tmp_path.iterdir())


def test_never_overwrites(cli: Callable[..., str]) -> None:
    Path("disk").write_bytes(b"precious")
    assert "exists" in cli("create", "disk", "1M", code=1)
    assert Path("disk").read_bytes() == b"precious"
    cli("create", "--force", "disk", "1M")
    assert Path("disk").read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["disk"], 2, "SIZE"),
        (["disk", "1x"], 2, "invalid size"),
        (["disk", "8E"], 2, "invalid size"),
        (["-o", "=nonsense", "disk", "1M"], 2, "key=value"),
        (["-f", "floppy", "disk", "1M"], 1, "floppy"),
        (["-o", "cluster_size=4k", "disk", "1M"], 1, "no option 'cluster_size'"),
        (["-f", "qcow2", "-o", "cluster_size=5k", "disk", "1M"], 1, "cluster_size"),
        (["-f", "qcow2", "-b", "base.qcow2", "disk"], 2, "-F FMT"),
        (["-f", "qcow2", "-b", "missing", "-F", "raw", "disk", "1M"], 1, "No such file"),
        (["-f", "qcow2", "-b", "disk.raw", "-F", "qcow2", "disk"], 1, "magic"),
        (["-f", "raw", "-b", "base.qcow2", "-F", "qcow2", "disk"], 1, "no option 'backing_file'"),
        (["-f", "qcow2", "-F", "raw", "disk", "1M"], 1, "backing_fmt needs backing_file"),
        (["--force", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "base.qcow2"], 1, "the backing file itself"),
        (["-f", "qcow2", "disk", "3E"], 1, "too many"),
        (["missing/disk", "1M"], 1, "No such file"),
    ],
)
def test_mistakes_leave_nothing(cli: Callable[..., str], arguments: list[str], code: int, message: str) -> None:
    cli("create", "-f", "qcow2", "base.qcow2", "1M")
    cli("create", "disk.raw", "1M")
    before = Path("base.qcow2").read_bytes()
    assert message in cli("create", *arguments, code=code)
    assert sorted(os.listdir()) == ["base.qcow2", "disk.raw"]
    assert Path("base.qcow2").read_bytes() == before
