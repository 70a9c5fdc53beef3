"""``compare`` against ``qemu-img compare``: its messages, its offsets, its exit codes."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from guestctl.disk.compare import compare
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
SIZE = 9 << 20


@pytest.fixture(scope="module")
def disks(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Disks that are equal or differ in one byte, and disks of zeros stored in every way."""
    folder = tmp_path_factory.mktemp("disks")
    noise = random.Random(3).randbytes(SIZE)
    noise = noise[: 2 << 20] + bytes(3 << 20) + noise[5 << 20 :]
    made: dict[str, Path] = {}

    def raw(name: str, content: bytes, size: int = SIZE) -> None:
        made[name] = folder / name
        with made[name].open("wb") as file:
            file.write(content)
            file.truncate(size)

    def change(name: str, offset: int, size: int = SIZE) -> None:
        content = bytearray(noise)
        content[offset] ^= 1
        raw(name, bytes(content), size)

    raw("noise", noise)
    change("first", 0)
    change("middle", (8 << 20) + 70_001)
    change("in zeros", (3 << 20) + 513)
    change("last", SIZE - 1)
    raw("longer", noise, SIZE + (5 << 20))
    raw("longer data", noise + bytes(70_000) + b"x", SIZE + (5 << 20))
    raw("hole", b"")
    raw("zeros", bytes(SIZE))
    for name, options in (("plain", ("-O", "qcow2")), ("compressed", ("-c", "-O", "qcow2"))):
        made[name] = folder / name
        run("qemu-img", "convert", *options, made["noise"], made[name])
    for name, command in (("empty", "write 0 0"), ("zero clusters", "write -z 0 64k"), ("written", "write -P 0 0 64k")):
        made[name] = folder / name
        run("qemu-img", "create", "-q", "-f", "qcow2", made[name], str(SIZE))
        run("qemu-io", "-f", "qcow2", "-c", command, made[name])
    made["overlay"] = folder / "overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", made["empty"], "-F", "qcow2", made["overlay"])
    return made


def qemu_compare(left: Path, right: Path, *options: str) -> tuple[int, str]:
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")
    done = subprocess.run(["qemu-img", "compare", *options, left, right], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


GROUPS = (
    ("noise", "first", "middle", "in zeros", "last", "longer", "longer data", "plain", "compressed", "hole"),
    ("hole", "zeros", "empty", "zero clusters", "written", "overlay"),
)
PAIRS = sorted({pair for group in GROUPS for pair in product(group, group)})


@pytest.mark.parametrize("strict", [False, True])
def test_every_pair(disks: dict[str, Path], strict: bool) -> None:
    for first, second in PAIRS:
        with DiskReader.open(disks[first]) as left, DiskReader.open(disks[second]) as right:
            result = compare(left, right, strict=strict)
        code, output = qemu_compare(disks[first], disks[second], *(("-s",) if strict else ()))
        assert code == (0 if result.identical else 1), (first, second)
        if "block status" in output and result.message != output:
            # qemu-img compares also whether a range is the last of its disk.
            assert result.offset is not None
            assert int(output.split()[3]) <= result.offset
        else:
            assert result.message == output, (first, second)
            assert result.offset is None or str(result.offset) in output


def test_holes_on_both_sides_are_not_read(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / "left.qcow2", tmp_path / "right.qcow2"]
    for path in paths:
        run("qemu-img", "create", "-q", "-f", "qcow2", path, "2T")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1T 64k", path)
    with DiskReader.open(paths[0]) as left, DiskReader.open(paths[1]) as right:
        assert compare(left, right).identical
        assert compare(left, right, strict=True).identical
