"""An image in which any byte may be wrong, read by everything at once.

Mutants of the demo image, from fixed seeds: what a look at the whole image reads is recorded first,
and the damage goes there. Each mutant must end in a result or in a typed error, in bounded time and memory.
"""

from __future__ import annotations

import contextlib
import errno
import io
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from guestctl.block import FileDevice
from guestctl.cli.inspect_page import print_page
from guestctl.cli.inspect_xml import to_xml
from guestctl.cli.output import print_json, print_table
from guestctl.cli.records import file_json, long_line
from guestctl.core.errors import GuestctlError
from guestctl.detectors import inspect
from guestctl.disk.filesystem import FileSystem, Options
from guestctl.disk.reader import DiskReader
from guestctl.disk.tar import write_tar
from guestctl.machine import Machine

DEMO = Path(__file__).parent / "data" / "debian-12.qcow2"
_SECONDS = 5
_MEMORY_BYTES = 200 << 20
# One mutant may name terabytes; reading them is as slow as asked for, and asked for is this much.
_READ_BYTES = 4 << 20
_READ_FILES = 40
_PATH_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL}
_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_EXTREMES_64 = (*_EXTREMES, 1 << 32, 1 << 40, 1 << 48, (1 << 56) - 512, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def look_at_everything(image: Path, options: Options) -> None:
    """What the commands do with an image, up to the bytes they would print."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    with contextlib.redirect_stdout(out), tolerated(), Machine.open(image, options=options) as machine:
        report = inspect(machine)
        report.to_json()
        print(to_xml(report))
        print_page(report)
        for disk in machine.disks:
            look_at_image(disk.reader)
            if disk.table is not None:
                print_json([(item.number, item.start_lba, item.name, item.uuid) for item in disk.table.partitions])
        print_table(
            ("device", "label"), [(item.device, item.identity.label or "") for item in machine.found() if item.identity]
        )
        for device in machine.devices:
            with tolerated():
                look_at_files(machine.filesystem(device))
        for warning in machine.all_warnings():
            assert "\n" not in warning
        out.flush()


def look_at_image(reader: DiskReader) -> None:
    with tolerated():
        print_json(reader.info())
    with tolerated():
        print_json(reader.check())
    with tolerated():
        for _, entry in zip(range(10_000), reader.map(), strict=False):
            assert entry.length > 0


def look_at_files(filesystem: FileSystem[Any]) -> None:
    filesystem.usage()
    failures: list[Any] = []
    read = 0
    for path, node, status in filesystem.find("/", onerror=failures.append):
        print(file_json(path, status))
        print(long_line(status))
        with tolerated():
            filesystem.node_xattrs(node)
        if status.is_symlink():
            with tolerated():
                print(filesystem.node_target(node))
        elif status.is_file() and read < _READ_FILES:
            read += 1
            with tolerated():
                device = filesystem.node_data(node)
                device.read(0, min(device.size, _READ_BYTES))
                device.read(max(0, device.size - 4096), min(device.size, 4096))
    for failure in failures:
        check_error(failure.error)
    with tolerated():
        # A mutant's file may claim to have terabytes, and a tar of it would be as long.
        if all(status.st_size <= _READ_BYTES for _, _, status in filesystem.find("/etc", onerror=failures.append)):
            write_tar(filesystem, "/etc", io.BytesIO(), onerror=lambda failure: check_error(failure.error))


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    try:
        yield
    except (GuestctlError, OSError) as error:
        check_error(error)


def check_error(error: Exception) -> None:
    assert isinstance(error, (GuestctlError, OSError))
    assert not isinstance(error, OSError) or error.errno in _PATH_ERRORS, repr(error)
    assert str(error)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """At most `_SECONDS` of the processor, and `_MEMORY_BYTES` more than the process ever had."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {_SECONDS} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < _MEMORY_BYTES


class Victim:
    """An image file, and the ranges of it that a look at everything reads."""

    def __init__(self, path: Path, ranges: list[tuple[int, int]]) -> None:
        self.path = path
        self.ranges = ranges

    @contextlib.contextmanager
    def damaged(self, chance: random.Random) -> Iterator[list[str]]:
        """The file with one to four things wrong in it, put right afterwards."""
        undo: list[tuple[int, bytes]] = []
        story: list[str] = []
        with open(self.path, "r+b", buffering=0) as stream:
            for _ in range(chance.choice((1, 1, 2, 4))):
                start, length = chance.choice(self.ranges)
                offset, data = mutation(chance, stream, start, length)
                stream.seek(offset)
                undo.append((offset, stream.read(len(data))))
                stream.seek(offset)
                stream.write(data[: len(undo[-1][1])])
                story.append(f"{offset:#x}: {data[:16].hex()} ({len(data)})")
            try:
                yield story
            finally:
                for offset, old in reversed(undo):
                    stream.seek(offset)
                    stream.write(old)


def mutation(chance: random.Random, stream: io.FileIO, start: int, length: int) -> tuple[int, bytes]:
    """Where, and what is written there."""
    kind = chance.randrange(8)
    if kind < 2:
        return start + chance.randrange(length), bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
    order = chance.choice(("little", "big"))
    if kind < 6:
        size = chance.choice((2, 4, 4, 8))
        value = chance.choice(_EXTREMES_64) & ((1 << 8 * size) - 1)
        return start + chance.randrange(max(1, length // size)) * size, value.to_bytes(size, order)  # type: ignore[arg-type]
    block = min(length, chance.choice((16, 512, 1024, 4096)))
    offset = start + chance.randrange(max(1, length // block)) * block
    if kind == 6:
        return offset, bytes([chance.choice((0, 0xFF))]) * block
    other = stream.seek(chance.choice((start, offset + block, max(0, offset - block))))
    return (offset, stream.read(block)) if other != offset else (offset, bytes(block))


def make_victim(path: Path, landmarks: list[tuple[int, int]]) -> Victim:
    ranges: set[tuple[int, int]] = set()
    read = FileDevice.read

    def recording(self: FileDevice, offset: int, length: int) -> Any:
        if length:
            ranges.add((offset, length))
        return read(self, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileDevice, "read", recording)
        look_at_everything(path, Options())
    small = sorted(item for item in ranges if item[1] <= 65536)
    return Victim(path, small + landmarks * (len(small) // (2 * len(landmarks)) + 1))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    path = tmp_path_factory.mktemp("hostile") / "debian.raw"
    return make_raw(path)


def make_raw(path: Path) -> Victim:
    with DiskReader.open(DEMO) as reader, open(path, "wb") as stream:
        for run, buffer in reader.chunks(0, reader.size):
            if run.source is not None:
                stream.seek(run.offset)
                stream.write(buffer)
        stream.truncate(reader.size)
        table = Machine([reader]).partition
        esp, root = table("/dev/sda1"), table("/dev/sda2")
        assert esp is not None and root is not None
        landmarks = [
            (440, 72),
            (512, 92),
            (1024, 256),
            (esp.start_lba * 512, 96),
            (esp.start_lba * 512 + 512, 2048),
            (root.start_lba * 512 + 1024, 1024),
            (root.start_lba * 512 + 2048, 64),
            (root.start_lba * 512 + 4096, 64),
        ]
    return make_victim(path, landmarks)


def make_qcow2(path: Path) -> Victim:
    path.write_bytes(DEMO.read_bytes())
    return make_victim(path, [(0, 112), (112, 400), (65536, 512), (131072, 512), (196608, 512), (262144, 512)])


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return make_qcow2(tmp_path_factory.mktemp("hostile") / "debian.qcow2")


def attack(victim: Victim, seed: int) -> None:
    chance = random.Random(seed)
    with victim.damaged(chance) as story:
        try:
            with bounded():
                look_at_everything(victim.path, Options(ignore_checksums=bool(seed % 2)))
        except Exception as error:
            error.add_note(f"seed {seed}: {'; '.join(story)}")
            raise


@pytest.mark.parametrize("batch", range(4))
def test_raw_mutants(raw: Victim, batch: int) -> None:
    for seed in range(batch * 20, batch * 20 + 20):
        attack(raw, seed)


@pytest.mark.parametrize("batch", range(4))
def test_qcow2_mutants(qcow2: Victim, batch: int) -> None:
    for seed in range(batch * 20, batch * 20 + 20):
        attack(qcow2, seed)


def test_an_fstab_that_mounts_the_root_everywhere(run: Callable[..., str], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("etc", "bin", *(f"d{number}" for number in range(2000))):
        (tree / name).mkdir(parents=True)
    (tree / "etc" / "fstab").write_text("".join(f"LABEL=root /d{number} ext4 defaults 0 0\n" for number in range(2000)))
    image = tmp_path / "fstab.img"
    run("mke2fs", "-q", "-t", "ext4", "-N", "4096", "-L", "root", "-d", tree, image, "32M")
    with bounded(), Machine.open(image) as machine:
        (guest,) = machine.guests()
        assert len(guest.mountpoints) == 1001
        assert machine.warnings == ["/dev/sda: /etc/fstab: only the first 1000 entries are mounted"]
