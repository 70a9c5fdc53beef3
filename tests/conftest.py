"""What tests share: the reference tools, kernel mounts, and test data made by other people."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "testdata"
# Tools of the system administrator, where the user's PATH leaves them out.
os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"

Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a reference tool and give its standard output; skips, by name, where it is missing."""

    def _run(*argv: str | os.PathLike[str], input: str | None = None) -> str:
        tool = os.fspath(argv[0])
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        done = subprocess.run([os.fspath(word) for word in argv], input=input, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    return _run


@pytest.fixture(scope="session")
def mount(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """Mount an image with the kernel, read-only unless told otherwise; needs root and a loop device."""

    @contextmanager
    def _mount(image: Path, options: str = "ro,loop") -> Iterator[Path]:
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("needs root")
        if not Path("/dev/loop-control").exists():
            pytest.skip("needs loop devices")
        target = tmp_path_factory.mktemp("mount")
        run("mount", "-o", options, image, target)
        try:
            yield target
        finally:
            run("umount", target)

    return _mount


@pytest.fixture(scope="session")
def shared() -> Path:
    """Images made by other people's tools."""
    if not _SHARED.is_dir():
        pytest.skip("needs the shared test data beside the repository")
    return _SHARED
