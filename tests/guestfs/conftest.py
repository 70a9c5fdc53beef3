"""The real guestfs package of Debian, in a virtual machine under emulation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guest_tree

_PEER = Path(__file__).with_name("peer.py")
_DEBIAN_PYTHON = "/usr/bin/python3"

# (drives, calls) -> (what libguestfs gives, what we give), in the order of the calls
BothHandles = Callable[[list[dict[str, Any]], list[Any]], list[tuple[dict[str, Any], dict[str, Any]]]]


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which libguestfs works without hardware acceleration."""
    if not shutil.which("qemu-system-x86_64") or not Path(_DEBIAN_PYTHON).exists():
        pytest.skip("needs qemu-system-x86_64 and Debian's python3")
    if subprocess.run([_DEBIAN_PYTHON, "-c", "import guestfs"], capture_output=True).returncode:
        pytest.skip("needs python3-guestfs")
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinuz-*")):
        pytest.skip("needs a kernel in /boot that may be read")
    return {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(tmp_path_factory.mktemp("appliance")),
    }


@pytest.fixture(scope="session")
def both_handles(emulated: dict[str, str]) -> BothHandles:
    """Make calls (name, arguments, keyword arguments) on libguestfs's handle and on ours."""

    def _perform(python: str, module: str, request: str, environment: dict[str, str]) -> list[dict[str, Any]]:
        environment = {**os.environ, **environment}
        words: list[str | Path] = [python, _PEER, module]
        done = subprocess.run(words, input=request, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def _both(drives: list[dict[str, Any]], calls: list[Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        request = json.dumps({"drives": drives, "calls": calls})
        theirs = _perform(_DEBIAN_PYTHON, "guestfs", request, emulated)
        ours = _perform(sys.executable, "guestctl.guestfs", request, {})
        return list(zip(theirs, ours, strict=True))

    return _both


@pytest.fixture(scope="session")
def guest_drive(
    run: Callable[..., str], mount: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A drive whose /dev/sda is an ext4 filesystem with what `guest_tree` makes."""
    image = tmp_path_factory.mktemp("guest") / "guest.img"
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-b", "4096", "-U", "11111111-2222-3333-4444-555555555555", image)
    with mount(image, "loop") as top:
        guest_tree.populate(top)
    return {"filename": str(image), "readonly": True, "format": "raw"}
