"""Conversions from any format to any other: contents, safety, resuming, both engines."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from guestctl.cli import main
from guestctl.converters import DiskConverter
from guestctl.core.errors import CommandFailed, ConversionError, EndOfDevice, LocationRefused

MIB = 1 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 24 MiB and a sector: data that packs, data that does not, zeros that are stored, holes."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    source = random.Random(0)
    with open(path, "wb") as file:
        file.write(b"guest" * 200_000)
        file.seek(5 * MIB)
        file.write(source.randbytes(MIB + 70_000))
        file.write(bytes(2 * MIB))
        for _ in range(40):
            file.seek(source.randrange(8 * MIB, 23 * MIB))
            file.write(source.randbytes(source.choice((1, 512, 5000, 66_000))))
        file.seek(24 * MIB)
        file.write(b"the last sector".ljust(512))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


TARGETS: list[tuple[str, dict[str, Any]]] = [
    ("raw", {}),
    ("qcow2", {}),
    ("qcow2", {"compress": True}),
    ("qcow2", {"compress": True, "options": {"compression_type": "zstd"}}),
    ("qcow2", {"options": {"compat": "0.10", "cluster_size": "4k"}}),
    ("qcow2", {"options": {"extended_l2": "on", "cluster_size": "128k"}}),
]


@pytest.mark.parametrize(("format", "how"), TARGETS, ids=str)
def test_equal_by_qemu_img(tmp_path: Path, run: Run, disk: Path, format: str, how: dict[str, Any]) -> None:
    target = tmp_path / "made"
    result = DiskConverter("native").convert(disk, target, format, digest="sha256", verify=True, **how)
    assert result["success"]
    assert result["digest"] == sha256(disk)
    assert (result["source_format"], result["output_format"]) == ("raw", format)
    assert result["virtual_size"] == disk.stat().st_size
    assert result["output_size"] == target.stat().st_blocks * 512
    assert result["source_path"] == str(disk)
    assert result["output_path"] == str(target)
    assert result["duration_secs"] > 0
    run("qemu-img", "compare", "-f", "raw", "-F", format, disk, target)
    if format != "raw":
        run("qemu-img", "check", "-f", format, target)
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize("size", [0, 512, 1024 * 1024 + 512])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_small_disks(tmp_path: Path, run: Run, size: int, filled: bool, format: str) -> None:
    source = tmp_path / "source"
    source.write_bytes((b"\1" if filled else b"\0") * size)
    DiskConverter("native").convert(source, tmp_path / "made", format)
    run("qemu-img", "compare", "-f", "raw", "-F", format, source, tmp_path / "made")


def test_raw_target_is_sparse(tmp_path: Path, run: Run, disk: Path) -> None:
    DiskConverter("native").convert(disk, tmp_path / "ours", "raw")
    run("qemu-img", "convert", "-O", "raw", disk, tmp_path / "theirs")
    assert (tmp_path / "ours").stat().st_blocks <= (tmp_path / "theirs").stat().st_blocks * 1.02


def test_overlay_is_flattened_or_kept(tmp_path: Path, run: Run, disk: Path) -> None:
    base = tmp_path / "base.qcow2"
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", disk, base)
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", overlay)
    run("qemu-io", "-c", "write -P 7 1M 100k", "-c", "write -z 5M 64k", overlay)
    flat, kept, raw = tmp_path / "flat.qcow2", tmp_path / "kept.qcow2", tmp_path / "flat.raw"
    DiskConverter().convert(overlay, flat, "qcow2")
    DiskConverter().convert(overlay, kept, "qcow2", flatten=False)
    DiskConverter().convert(overlay, raw, "raw")
    assert "backing file" not in run("qemu-img", "info", flat)
    assert "backing file: base.qcow2" in run("qemu-img", "info", kept)
    assert kept.stat().st_size < MIB
    for made in (flat, kept, raw):
        run("qemu-img", "compare", overlay, made)
    with pytest.raises(ConversionError, match="backing"):
        DiskConverter().convert(overlay, tmp_path / "no.raw", "raw", flatten=False)


def test_rebase_onto_another_backing_file(tmp_path: Path, run: Run, disk: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(disk.read_bytes()[: 20 * MIB])
    with open(base, "r+b") as file:
        file.seek(10 * MIB)
        file.write(b"x" * 70_000)
    made = tmp_path / "made.qcow2"
    DiskConverter().convert(disk, made, "qcow2", backing_file="base.raw", backing_format="raw")
    run("qemu-img", "compare", disk, made)
    run("qemu-img", "check", made)
    assert made.stat().st_size < 6 * MIB


def test_snapshot(tmp_path: Path, run: Run, disk: Path) -> None:
    image = tmp_path / "image.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", disk, image)
    run("qemu-img", "snapshot", "-c", "before", image)
    run("qemu-io", "-c", "write -P 9 0 1M", image)
    DiskConverter().convert(image, tmp_path / "made", "raw", snapshot="before")
    assert sha256(tmp_path / "made") == sha256(disk)


def test_resize(tmp_path: Path, run: Run, disk: Path) -> None:
    DiskConverter().convert(disk, tmp_path / "larger", "qcow2", size=40 * MIB)
    run("qemu-img", "resize", "-f", "raw", _copy(disk, tmp_path / "expected"), "40M")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "expected", tmp_path / "larger")
    with pytest.raises(ConversionError, match="fewer"):
        DiskConverter().convert(disk, tmp_path / "smaller", "raw", size=MIB)
    DiskConverter().convert(disk, tmp_path / "smaller", "raw", size=MIB, shrink=True)
    assert (tmp_path / "smaller").read_bytes() == disk.read_bytes()[:MIB]


def _copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def test_nothing_is_overwritten_unless_forced(tmp_path: Path, disk: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    with pytest.raises(FileExistsError):
        DiskConverter().convert(disk, target, "raw")
    assert target.read_text() == "precious"
    DiskConverter().convert(disk, target, "raw", overwrite=True)
    assert sha256(target) == sha256(disk)


@pytest.mark.parametrize("engine", ["native", "qemu-img"])
@pytest.mark.parametrize("link", ["same", "symlink", "hard link", "backing file"])
def test_never_onto_its_own_source(tmp_path: Path, run: Run, disk: Path, engine: str, link: str) -> None:
    source = _copy(disk, tmp_path / "source.raw")
    target = tmp_path / "target"
    image = source
    if link == "same":
        target = source
    elif link == "symlink":
        target.symlink_to(source)
    elif link == "hard link":
        target.hardlink_to(source)
    else:
        image = tmp_path / "overlay.qcow2"
        run("qemu-img", "create", "-f", "qcow2", "-b", "source.raw", "-F", "raw", image)
        target = source
    with pytest.raises(ConversionError, match="being read"):
        DiskConverter(engine).convert(image, target, "raw", overwrite=True)
    assert sha256(source) == sha256(disk)


@pytest.mark.parametrize("engine", ["native", "qemu-img"])
def test_never_onto_its_own_source_by_the_name_of_an_extent(tmp_path: Path, run: Run, disk: Path, engine: str) -> None:
    run("qemu-img", "--version")
    source = _copy(disk, tmp_path / "vm-flat.vmdk")
    how: dict[str, Any] = {"options": {"subformat": "monolithicFlat"}, "source_format": "raw"}
    for overwrite in (True, False):
        with pytest.raises((ConversionError, FileExistsError)):
            DiskConverter(engine).convert(source, tmp_path / "vm.vmdk", "vmdk", overwrite=overwrite, **how)
    assert os.listdir(tmp_path) == ["vm-flat.vmdk"]
    assert sha256(source) == sha256(disk)


def test_what_fails_verification_is_removed(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.disk.compare.first_mismatch", lambda left, right: 4096)
    with pytest.raises(ConversionError, match="differs"):
        DiskConverter().convert(
            disk, tmp_path / "vm.vmdk", "vmdk", verify=True, options={"subformat": "twoGbMaxExtentFlat"}
        )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("engine", ["native", "qemu-img"])
def test_backing_file_elsewhere_is_refused(tmp_path: Path, run: Run, engine: str) -> None:
    run("qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", tmp_path / "evil.qcow2", "1M")
    with pytest.raises(LocationRefused):
        DiskConverter(engine).convert(tmp_path / "evil.qcow2", tmp_path / "made", "raw")
    assert os.listdir(tmp_path) == ["evil.qcow2"]


def test_source_that_changes_is_an_error(tmp_path: Path, disk: Path) -> None:
    source = _copy(disk, tmp_path / "source")

    class Meddler:
        def update(self, done: int, total: int | None) -> None:
            os.utime(source, (1, 1))

    with pytest.raises(ConversionError, match="changed"):
        DiskConverter().convert(source, tmp_path / "made", "qcow2", progress=Meddler())
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_source_truncated_during_the_run(tmp_path: Path, run: Run, disk: Path, format: str) -> None:
    source = tmp_path / "source"
    run("qemu-img", "convert", "-O", format, disk, source)

    class Meddler:
        def update(self, done: int, total: int | None) -> None:
            os.truncate(source, 300_000)

    with pytest.raises((EndOfDevice, ConversionError)):
        DiskConverter().convert(source, tmp_path / "made", "qcow2", progress=Meddler())
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.root
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_full_disk(tmp_path: Path, run: Run, disk: Path, format: str) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
    try:
        with pytest.raises((OSError, ConversionError)):
            DiskConverter().convert(disk, small / "made", format)
        with pytest.raises(OSError, match="No space left"):
            DiskConverter().convert(disk, small / "made", format, compress=format == "qcow2", resume=format == "raw")
        assert not (small / "made").exists()
    finally:
        run("umount", small)


def test_interrupted_leaves_nothing(tmp_path: Path, disk: Path) -> None:
    class CtrlC:
        def update(self, done: int, total: int | None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DiskConverter().convert(disk, tmp_path / "made", "qcow2", compress=True, progress=CtrlC())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("format", "how"), TARGETS, ids=str)
def test_resume(one_thread: None, tmp_path: Path, disk: Path, format: str, how: dict[str, Any]) -> None:
    stops = iter([3, 0, 5, 7, 100])

    def convert() -> bool:
        left = next(stops)

        def cancelled() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        try:
            DiskConverter().convert(
                disk, tmp_path / "made", format, resume=True, cancelled=cancelled, digest="sha256", **how
            )
        except ConversionError:
            return False
        return True

    assert not convert()
    assert sorted(os.listdir(tmp_path)) == ["made.partial", "made.partial.record"]
    while not convert():
        assert not (tmp_path / "made").exists()
    assert os.listdir(tmp_path) == ["made"]
    DiskConverter().convert(disk, tmp_path / "whole", format, **how)
    assert sha256(tmp_path / "made") == sha256(tmp_path / "whole")


def test_resume_finds_damage(one_thread: None, tmp_path: Path, disk: Path) -> None:
    calls = iter([False] * 6 + [True])
    with pytest.raises(ConversionError):
        DiskConverter().convert(disk, tmp_path / "made", "qcow2", resume=True, cancelled=lambda: next(calls))
    with open(tmp_path / "made.partial", "r+b") as file:
        file.seek(MIB)
        file.write(b"damage")
    DiskConverter().convert(disk, tmp_path / "made", "qcow2", resume=True, verify=True)


@pytest.mark.parametrize("name", ["no-such-digest", "shake_128"])
def test_unknown_digest(tmp_path: Path, disk: Path, name: str) -> None:
    with pytest.raises(ConversionError, match=name):
        DiskConverter().convert(disk, tmp_path / "made", "raw", digest=name)
    assert not os.listdir(tmp_path)


def test_record_is_never_written_through_a_link(tmp_path: Path, disk: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "made.partial.record").symlink_to(precious)
    with pytest.raises(OSError):
        DiskConverter().convert(disk, tmp_path / "made", "raw", resume=True)
    assert precious.read_text() == "precious"


def test_resume_of_another_source_starts_over(one_thread: None, tmp_path: Path, disk: Path) -> None:
    calls = iter([False] * 6 + [True])
    with pytest.raises(ConversionError):
        DiskConverter().convert(disk, tmp_path / "made", "raw", resume=True, cancelled=lambda: next(calls))
    other = tmp_path / "other"
    other.write_bytes(bytes(2 * MIB) + b"other".ljust(512))
    DiskConverter().convert(other, tmp_path / "made", "raw", resume=True)
    assert sha256(tmp_path / "made") == sha256(other)


def _killed(disk: Path, target: Path, rounds: int) -> int:
    """Convert with --resume, killing at random moments; the number of rounds that were killed."""
    words = [sys.executable, "-m", "guestctl", "convert", "-O", "qcow2", "-c", "--resume", str(disk), str(target)]
    moments = random.Random(1)
    killed = 0
    for _ in range(rounds):
        process = subprocess.Popen(words)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0 or target.exists():
            break  # it was done, and is compared by the caller
        killed += 1
    return killed


@pytest.mark.long
def test_killed_at_random_moments(tmp_path: Path, run: Run, disk: Path) -> None:
    source = tmp_path / "source.raw"
    content = disk.read_bytes().ljust(25 * MIB, b"\0") * 6
    source.write_bytes(content)
    before = (sha256(source), source.stat().st_mtime_ns)
    killed = 0
    target = tmp_path / "target.qcow2"
    while killed < 50:
        killed += _killed(source, target, 50 - killed)
        if not target.exists():
            DiskConverter().convert(source, target, "qcow2", compress=True, resume=True)
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)
        target.unlink()
    assert (sha256(source), source.stat().st_mtime_ns) == before
    assert os.listdir(tmp_path) == ["source.raw"]


@pytest.mark.parametrize("format", ["raw", "qcow2", "qed"])
def test_qemu_img_engine(tmp_path: Path, run: Run, disk: Path, format: str) -> None:
    seen: list[int] = []

    class Log:
        def update(self, done: int, total: int | None) -> None:
            seen.append(done)

    run("qemu-img", "--version")
    result = DiskConverter("qemu-img" if format != "qed" else "auto").convert(
        disk, tmp_path / "ma,de:x", format, progress=Log()
    )
    assert result["output_size"] == (tmp_path / "ma,de:x").stat().st_blocks * 512
    assert seen[-1] == 10_000
    run("qemu-img", "compare", "-f", "raw", "-F", format, disk, f"{tmp_path}/ma,de:x")
    assert os.listdir(tmp_path) == ["ma,de:x"]


def test_qemu_img_engine_reports_its_message(tmp_path: Path, run: Run, disk: Path) -> None:
    run("qemu-img", "--version")
    with pytest.raises(CommandFailed, match="no-such-option"):
        DiskConverter("qemu-img").convert(disk, tmp_path / "made", "qcow2", options={"no-such-option": "1"})
    assert not os.listdir(tmp_path)


def test_command_line(tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def guestctl(*words: str | Path) -> int:
        with pytest.raises(SystemExit) as exit:
            main([str(word) for word in words])
        return int(str(exit.value.code))

    target = tmp_path / "made.qcow2"
    assert guestctl("convert", "--digest", "-O", "qcow2", "-o", "cluster_size=32k", disk, target) == 0
    assert capsys.readouterr().out == f"{sha256(disk)}  {target}\n"
    assert guestctl("convert", "-O", "qcow2", disk, target) == 1
    assert "File exists" in capsys.readouterr().err
    assert guestctl("convert", "-O", "qcow2", disk, disk, target) == 2
    assert guestctl("convert", "-O", "qcow2", "-o", "color=blue", disk, tmp_path / "x") == 1
    assert "no option 'color'" in capsys.readouterr().err
    assert guestctl("convert", "--progress=json", "--json", target, tmp_path / "back.raw") == 0
    captured = capsys.readouterr()
    assert '"success": true' in captured.out
    assert f'"total": {disk.stat().st_size}' in captured.err
    assert sha256(tmp_path / "back.raw") == sha256(disk)
    (tmp_path / "all").mkdir()
    assert guestctl("convert", "-O", "qcow2", target, tmp_path / "back.raw", tmp_path / "all") == 0
    assert sorted(os.listdir(tmp_path / "all")) == ["back.qcow2", "made.qcow2"]


def test_standard_output(disk: Path) -> None:
    words = [sys.executable, "-m", "guestctl", "convert", str(disk), "-"]
    made = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    assert made == disk.read_bytes()


@pytest.mark.root
def test_block_device(tmp_path: Path, run: Run, disk: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * (25 * MIB))
    device = run("losetup", "--show", "-f", backing).strip()
    try:
        with pytest.raises(FileExistsError):
            DiskConverter().convert(disk, device, "raw")
        DiskConverter().convert(disk, device, "raw", overwrite=True)
        with pytest.raises(ConversionError, match="raw"):
            DiskConverter().convert(disk, device, "qcow2", overwrite=True)
    finally:
        run("losetup", "-d", device)
    size = disk.stat().st_size
    assert backing.read_bytes()[:size] == disk.read_bytes()
    os.truncate(backing, MIB)
    device = run("losetup", "--show", "-f", backing).strip()
    try:
        with pytest.raises(ConversionError, match="device"):
            DiskConverter().convert(disk, device, "raw", overwrite=True)
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("suffix", [".partial", ".partial.record"])
def test_a_source_with_the_name_of_an_unfinished_image(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"disk.raw{suffix}"
    source.write_bytes(b"content!" * 1024)
    with pytest.raises(ConversionError, match="being read"):
        DiskConverter().convert(source, tmp_path / "disk.raw", "raw", source_format="raw", resume=True)
    assert source.read_bytes() == b"content!" * 1024
    assert list(tmp_path.iterdir()) == [source]
