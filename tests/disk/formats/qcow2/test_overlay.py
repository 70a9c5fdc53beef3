"""Overlays that are written in place: qemu reads the same bytes from them, and finds nothing to complain about."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from guestctl.block import OutputFile
from guestctl.core.errors import (
    ConversionError,
    EndOfDevice,
    GuestctlError,
    InvalidFormat,
    LocationRefused,
    UnsupportedFeature,
)
from guestctl.disk import DiskReader
from guestctl.disk.formats.qcow2.allocation import GrowingFile
from guestctl.disk.formats.qcow2.in_place import Qcow2Overlay
from guestctl.disk.formats.qcow2.overlay import open_overlay

Run = Callable[..., str]
Flat = Callable[[Path], bytes]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A backing file of 3 MiB, and the name of an overlay beside it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    noise = random.Random(3).randbytes(1 << 20)
    Path("base.raw").write_bytes(noise + bytes(1 << 20) + noise)
    return Path("base.raw"), Path("overlay.qcow2")


def checked(run: Run, path: Path) -> dict[str, Any]:
    run("qemu-img", "--version")
    argv = ["qemu-img", "check", "--force-share", "--output=json", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: leaks and nothing else
    found: dict[str, Any] = json.loads(done.stdout)
    assert not found["check-errors"] and "corruptions" not in found, found
    return found


def create(run: Run, path: Path, base: Path, options: str) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", "-o", options, path)


def test_what_is_made(run: Run, flat: Flat, paths: tuple[Path, Path]) -> None:
    base, path = paths
    with open_overlay(path, base) as overlay:
        check_device(overlay, base.read_bytes(), rounds=20)
    found = json.loads(run("qemu-img", "info", "--output=json", path))
    assert (found["backing-filename"], found["backing-filename-format"]) == ("base.raw", "raw")
    assert found["format-specific"]["data"]["compat"] == "1.1" and found["virtual-size"] == 3 << 20
    assert "leaks" not in checked(run, path)
    Path("below").mkdir()
    for name, expected in (("below/one", "../base.raw"), ("two", str(base.absolute())), ("below/a:b", "../base.raw")):
        source = expected if os.path.isabs(expected) else base
        with open_overlay(name, source) as overlay:
            overlay.write(0, b"new")
        assert json.loads(run("qemu-img", "info", "--output=json", name))["backing-filename"] == expected
        assert flat(Path(name)) == b"new" + base.read_bytes()[3:]
    shutil.copy(base, "x:y")
    with open_overlay("three", "x:y") as overlay:
        overlay.write(9, b"new")
    assert flat(Path("three"))[9:12] == b"new"


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vpc", "vdi", "vhdx"])
def test_other_formats_below(run: Run, flat: Flat, paths: tuple[Path, Path], format: str) -> None:
    base, path = paths
    run("qemu-img", "convert", "-f", "raw", "-O", format, base, "source")
    expected = bytearray(flat(Path("source")))
    with open_overlay(path, "source") as overlay:
        overlay.write(70_000, b"x" * 100_000)
    expected[70_000:170_000] = b"x" * 100_000
    assert flat(path) == expected


@pytest.mark.parametrize("bits", range(9, 22))
def test_random_writes(run: Run, flat: Flat, paths: tuple[Path, Path], bits: int) -> None:
    """Alternating with qemu's, in images that qemu made, with compressed clusters and snapshots."""
    base, path = paths
    for seed in (bits, bits + 100):
        source = random.Random(seed)
        path.unlink(missing_ok=True)
        size = min((1 << bits) * source.randrange(2, 300), 8 << 20) + 512 * source.randrange(2)
        content = bytearray(source.randbytes(size))
        content[size // 4 : size // 2] = bytes(size // 2 - size // 4)
        base.write_bytes(content)
        order = source.randrange(7)
        options = "compat=0.10" if seed % 4 == 1 else f"refcount_bits={1 << order}"
        create(run, path, base, f"cluster_size={1 << bits},{options}")
        snapshot = None
        if seed % 4 == 1 or order > 2:
            run("qemu-io", "-c", f"write -c -P 7 0 {1 << bits}", "-c", f"write -P 8 {1 << bits} {1 << bits - 1}", path)
            content[: 1 << bits] = b"\7" * (1 << bits)
            content[1 << bits : 3 << bits - 1] = b"\x08" * (1 << bits - 1)
            run("qemu-img", "snapshot", "-c", "before", path)
            snapshot = bytes(content)
        for _ in range(2):
            with open_overlay(path, base) as overlay:
                random_calls(source, overlay, content)
                overlay.flush()
                assert "leaks" not in checked(run, path)
            assert "leaks" not in checked(run, path)
            assert flat(path) == content
            start = source.randrange(size // 512) * 512
            run("qemu-io", "-c", f"write -P 9 {start} 512", path)
            content[start : start + 512] = b"\x09" * 512
        if snapshot is not None:
            run("qemu-img", "snapshot", "-a", "before", path)
            assert flat(path) == snapshot
            assert "leaks" not in checked(run, path)


def random_calls(source: random.Random, overlay: Qcow2Overlay, content: bytearray) -> None:
    size = len(content)
    for _ in range(25):
        start = source.randrange(size)
        length = min(size - start, source.choice((1, 512, 5000, 65536, source.randrange(1, size + 1))))
        kind = source.choice(("write", "write", "write", "discard", "read", "flush"))
        if kind == "write":
            data = source.randbytes(length)
            overlay.write(start, data)
            content[start : start + length] = data
        elif kind == "discard":
            overlay.discard(start, length)
            content[start : start + length] = bytes(length)
        elif kind == "read":
            assert bytes(overlay.read(start, length)) == content[start : start + length]
        else:
            overlay.flush()
    check_device(overlay, bytes(content), rounds=10)


def test_refcount_table_grows(run: Run, flat: Flat, paths: tuple[Path, Path]) -> None:
    base, path = paths
    os.truncate(base, 24 << 20)
    create(run, path, base, "cluster_size=512,refcount_bits=64")
    data = random.Random(0).randbytes(20 << 20)
    with open_overlay(path, base) as overlay:
        for start in range(0, len(data), 1 << 20):
            overlay.write(start, data[start : start + (1 << 20)])
    assert "leaks" not in checked(run, path)
    assert flat(path)[: len(data)] == data


def test_zeros_over_zeros_take_no_space(run: Run, paths: tuple[Path, Path]) -> None:
    base, path = paths
    os.truncate(base, 1 << 40)
    with open_overlay(path, base) as overlay:
        before = os.path.getsize(path)
        overlay.discard(4 << 20, (1 << 40) - (4 << 20))
        overlay.flush()
        assert os.path.getsize(path) == before
        overlay.discard(0, 4 << 20)
        assert [run[2] for run in overlay.runs(0, 1 << 40)] == [None]
    assert json.loads(run("qemu-img", "map", "--output=json", path))[0]["zero"]
    assert "leaks" not in checked(run, path)


def test_what_is_discarded_is_used_again(run: Run, paths: tuple[Path, Path]) -> None:
    base, path = paths
    with open_overlay(path, base) as overlay:
        sizes = set()
        for number in range(4):
            overlay.write(0, bytes([number + 1]) * (3 << 20))
            overlay.flush()
            sizes.add(os.path.getsize(path))
            overlay.discard(0, 3 << 20)
            overlay.flush()
            if sys.platform == "linux":
                assert os.stat(path).st_blocks * 512 < 1 << 20
        assert len(sizes) == 1
    assert "leaks" not in checked(run, path)


_VICTIM = """
import random, sys
from guestctl.disk.formats.qcow2.allocation import GrowingFile
from guestctl.disk.formats.qcow2.overlay import open_overlay
overlay = open_overlay("overlay.qcow2", "base.raw")
source = random.Random(int(sys.argv[1]))
for number in range(1, 1000000):
    block = number % 6144
    overlay.write(block * 512, number.to_bytes(512, "big"))
    start = source.randrange(2560) * 4096  # behind the blocks
    if number % 5:
        overlay.write((4 << 20) + start, source.randbytes(source.randrange(1, 300000)))
    else:
        overlay.discard((4 << 20) + start, source.randrange(1, 300000))
    if number % 3 == 0:
        overlay.flush()
        print(number, flush=True)
"""


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=64k"])
def test_killed_at_any_moment(run: Run, flat: Flat, paths: tuple[Path, Path], options: str) -> None:
    base, path = paths
    os.truncate(base, 16 << 20)
    create(run, path, base, options)
    source = random.Random(options)
    for seed in range(5):
        argv = [sys.executable, "-c", _VICTIM, str(seed)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            victim.stdout.readline()
            time.sleep(source.random() * 0.4)
            victim.send_signal(signal.SIGKILL)
            numbers = victim.stdout.read().split()
        checked(run, path)
        content = flat(path)
        last = int(numbers[-1]) if numbers else 3
        for number in range(max(1, last - 6000), last + 1):
            block = content[number % 6144 * 512 :][:512]
            assert block == number.to_bytes(512, "big")
    run("qemu-img", "check", "-q", "-r", "leaks", path)


@pytest.mark.parametrize(
    "options", ["cluster_size=512,refcount_bits=64", "cluster_size=4k", "cluster_size=4k,compat=0.10"]
)
def test_power_lost_at_any_moment(
    run: Run, paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """Of what was written since the last barrier, any part may be on the disk."""
    base, path = paths
    os.truncate(base, 8 << 20)
    create(run, path, base, options)
    run("qemu-img", "snapshot", "-c", "before", path)
    image = bytearray(path.read_bytes())
    events: list[tuple[int, bytes] | None] = []  # a write, or a barrier
    write, sync = GrowingFile.write, GrowingFile.sync

    def logged_write(file: GrowingFile, offset: int, *buffers: bytes | memoryview) -> None:
        events.append((offset, b"".join(buffers)))
        write(file, offset, *buffers)

    def logged_sync(file: GrowingFile) -> None:
        events.append(None)
        sync(file)

    monkeypatch.setattr(GrowingFile, "write", logged_write)
    monkeypatch.setattr(GrowingFile, "sync", logged_sync)
    source = random.Random(options)
    with open_overlay(path, base) as overlay:
        for _ in range(150):
            start = source.randrange(8 << 20)
            length = min((8 << 20) - start, source.randrange(1, 60_000))
            kind = source.choice((overlay.write, overlay.write, overlay.discard, overlay.flush))
            if kind == overlay.flush:
                overlay.flush()
            elif kind == overlay.discard:
                overlay.discard(start, length)
            else:
                overlay.write(start, source.randbytes(length))
    assert events.count(None) > 40
    pending: list[tuple[int, bytes]] = []
    for number, event in enumerate(events):
        if number % (len(events) // 30) == 0 and pending:
            lost = bytearray(image)
            for offset, data in source.sample(pending, source.randrange(len(pending) + 1)):
                _put(lost, offset, data)
            Path("lost.qcow2").write_bytes(lost)
            checked(run, Path("lost.qcow2"))
        if event is not None:
            pending.append(event)
            continue
        for offset, data in pending:
            _put(image, offset, data)
        pending.clear()


def _put(image: bytearray, offset: int, data: bytes) -> None:
    image.extend(bytes(max(0, offset + len(data) - len(image))))
    image[offset : offset + len(data)] = data


def test_two_writers(run: Run, paths: tuple[Path, Path]) -> None:
    base, path = paths
    with open_overlay(path, base) as overlay:
        overlay.write(0, b"first")
        with pytest.raises(BlockingIOError, match="Another process is using it"):
            open_overlay(path, base)
        if sys.platform == "linux":
            done = subprocess.run(["qemu-io", "-c", "write 0 512", path], capture_output=True, text=True)
            assert "Failed to lock byte 101" in done.stderr
    qemu = subprocess.Popen(["qemu-io", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with qemu:
        assert qemu.stdin is not None and qemu.stdout is not None
        qemu.stdin.write(b"read 0 512\n")
        qemu.stdin.flush()
        qemu.stdout.readline()
        if sys.platform == "linux":
            with pytest.raises(BlockingIOError):
                open_overlay(path, base)
        qemu.stdin.close()
    with open_overlay(path, base) as overlay:
        assert overlay.read(0, 5) == b"first"


def test_threads(run: Run, flat: Flat, paths: tuple[Path, Path]) -> None:
    base, path = paths
    create(run, path, base, "cluster_size=4k")

    def work(number: int) -> None:
        """Write to bytes of this thread, in clusters that all share, and read them back."""
        source = random.Random(number)
        for _ in range(150):
            start = source.randrange(300) * 8192 + number * 2048
            data = source.randbytes(2048)
            overlay.write(start, data)
            assert overlay.read(start, 2048) == data
            if not source.randrange(10):
                overlay.flush()

    with open_overlay(path, base) as overlay:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        content = bytes(overlay.read(0, overlay.size))
    assert flat(path) == content
    assert "leaks" not in checked(run, path)


def test_a_full_host(run: Run, flat: Flat, paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, path = paths
    expected = base.read_bytes()
    with open_overlay(path, base) as overlay:
        overlay.write(0, b"a" * 70_000)
        with monkeypatch.context() as patch:
            patch.setattr(OutputFile, "write_all_at", _no_space)
            with pytest.raises(OSError, match="No space left"):
                overlay.write(1 << 20, b"b" * 70_000)
            with pytest.raises(OSError, match="No space left"):
                overlay.flush()
            assert overlay.read(1 << 20, 70_000) == expected[1 << 20 :][:70_000]
        overlay.write(2 << 20, b"c" * 10)
        overlay.flush()
    expected = b"a" * 70_000 + expected[70_000 : 2 << 20] + b"c" * 10 + expected[(2 << 20) + 10 :]
    assert flat(path) == expected
    assert "leaks" not in checked(run, path)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_ends_of_the_disk(paths: tuple[Path, Path]) -> None:
    base, path = paths
    with open_overlay(path, base) as overlay:
        for offset, length in ((3 << 20, 1), (-1, 1), ((3 << 20) - 1, 2)):
            with pytest.raises(EndOfDevice):
                overlay.write(offset, bytes(length))
            with pytest.raises(EndOfDevice):
                overlay.discard(offset, length)
        overlay.write(3 << 20, b"")
        overlay.discard(0, 0)


def test_what_is_refused(run: Run, paths: tuple[Path, Path]) -> None:
    base, path = paths
    create(run, path, base, "extended_l2=on")
    with pytest.raises(UnsupportedFeature, match="extended L2"):
        open_overlay(path, base)
    path.unlink()
    create(run, path, base, "cluster_size=64k")
    content = bytearray(path.read_bytes())
    for bit in (1, 2):
        content[79] = bit
        path.write_bytes(content)
        with pytest.raises(UnsupportedFeature, match="was not closed"):
            open_overlay(path, base)
    path.unlink()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data", path, "1M")
    with pytest.raises(ConversionError, match="is no overlay of"):
        open_overlay(path, base)
    with pytest.raises(UnsupportedFeature, match="external data file"):
        Qcow2Overlay.open_writable(path)
    shutil.copy(base, "other")
    path.unlink()
    open_overlay(path, base).close()
    with pytest.raises(ConversionError, match="is no overlay of"):
        open_overlay(path, "other")
    with pytest.raises(ConversionError, match="in format qcow2"):
        open_overlay(path, base, format="qcow2")
    with pytest.raises(InvalidFormat, match="magic"):
        open_overlay(base, "other")
    run("gzip", "-k", base)
    with pytest.raises(UnsupportedFeature, match="no overlays on gz"):
        open_overlay("new", "base.raw.gz")
    with pytest.raises(FileNotFoundError):
        open_overlay("new", "nothing")
    assert not Path("new").exists() and base.read_bytes() == Path("other").read_bytes()


def test_files_beside_the_source_alone(run: Run, paths: tuple[Path, Path]) -> None:
    base, _ = paths
    for directory in ("images", "images/below", "overlays"):
        Path(directory).mkdir()
    shutil.copy(base, "images/base.raw")
    shutil.copy(base, "images/below/base.raw")
    for name, backing in (("beside", "base.raw"), ("top", "below/base.raw")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", f"images/{name}")
    with open_overlay("overlays/one", "images/beside") as overlay:
        assert overlay.read(0, 512) == base.read_bytes()[:512]
    with pytest.raises(LocationRefused):
        open_overlay("overlays/two", "images/top")
    open_overlay("overlays/two", "images/top", allow_dirs=["images"]).close()


def test_bitmaps_are_marked_as_inconsistent(run: Run, paths: tuple[Path, Path]) -> None:
    base, path = paths
    for change in ("in place", "new", "discard"):
        path.unlink(missing_ok=True)
        create(run, path, base, "cluster_size=64k")
        run("qemu-io", "-c", "write 0 64k", path)
        run("qemu-img", "bitmap", "--add", path, "dirty")
        open_overlay(path, base).close()
        with DiskReader.open(path) as reader:
            assert not reader.warnings
        with open_overlay(path, base) as overlay:
            if change == "discard":
                overlay.discard(0, 64 << 10)
            else:
                overlay.write(0 if change == "in place" else 1 << 20, b"x")
        with DiskReader.open(path) as reader:
            assert "inconsistent" in reader.warnings[0]
        assert "corruptions" not in checked(run, path)


def test_changed_bytes(run: Run, paths: tuple[Path, Path]) -> None:
    """Damaged tables: writing ends in success or in a typed error, and never touches the backing file."""
    base, path = paths
    create(run, path, base, "cluster_size=512")
    run("qemu-io", "-c", "write -P 1 0 40k", "-c", "write -c -P 2 64k 512", path)
    image, below = path.read_bytes(), base.read_bytes()
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    outcomes = {True: 0, False: 0}
    seed = 0
    while time.monotonic() < end:
        source = random.Random(seed)
        data = bytearray(image)
        for _ in range(source.choice((1, 1, 3))):
            size = source.choice((1, 2, 8))
            start = source.randrange(0, source.choice((112, 8192)) - size)
            data[start : start + size] = source.choice((source.randbytes(size), bytes(size), b"\xff" * size))
        path.write_bytes(data)
        try:
            with open_overlay(path, base) as overlay:
                for _ in range(10):
                    offset = source.randrange(max(1, min(overlay.size, 8 << 20)))
                    length = min(overlay.size - offset, source.randrange(1, 20_000))
                    overlay.write(offset, source.randbytes(length))
                    overlay.discard(offset // 2, min(length, overlay.size - offset // 2))
                overlay.flush()
            outcomes[True] += 1
        except (GuestctlError, OSError) as error:
            assert not isinstance(error, OSError) or error.errno in (errno.ENOENT, errno.EFBIG), (seed, error)
            outcomes[False] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        assert os.path.getsize(path) < 1 << 30
        seed += 1
    assert outcomes[True] > seed // 10 and outcomes[False]
    assert base.read_bytes() == below
