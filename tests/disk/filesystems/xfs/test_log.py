"""Logs of dirty filesystems, replayed as the kernel replays them."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awkward_tree import from_guestctl, from_mount
from guestctl.block import FileDevice, Overlay
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options
from guestctl.disk.filesystems.xfs import recovery

Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
Tree = dict[str, tuple[Any, ...]]

# Logs as small as mkfs.xfs makes them, so that they wrap around soon. name -> arguments
KINDS = {
    "default": "-l size=1368b",
    "1k-blocks": "-b size=1024 -m rmapbt=1 -i nrext64=1 -l size=6m",
    "oldest": "-m reflink=0,finobt=0,inobtcount=0,bigtime=0 -i sparse=0 -b size=1024 -l size=5m -n size=8192",
    "large-records": "-s size=4096 -l size=2112b,su=64k -i size=1024",
}
_MAX_FILES = 300


def _make(run: Run, image: Path, arguments: str) -> None:
    with image.open("wb") as stream:
        stream.truncate(128 << 20)
    run("mkfs.xfs", "-q", "--unsupported", *arguments.split(), image)


def _commit(top: Path) -> None:
    descriptor = os.open(top, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _copy(run: Run, image: Path, name: str) -> Path:
    target = image.with_name(name)
    run("cp", "--sparse=always", image, target)
    return target


class _Work:
    """Random changes to a tree; the same for the same seed."""

    def __init__(self, top: Path, seed: str) -> None:
        self._random = random.Random(seed)
        self._files: list[Path] = []
        self._directories = [top]
        self._number = 0

    def do(self, count: int) -> None:
        """That many changes."""
        actions = (
            (40, self._create),
            (6, self._make_directory),
            (18, self._remove),
            (8, self._set_attribute),
            (8, self._rename),
            (6, self._link),
            (8, self._overwrite),
            (3, self._truncate),
            (3, self._clone),
        )
        names = [action for weight, action in actions for _ in range(weight)]
        for _ in range(count):
            self._number += 1
            self._random.choice(names)()
            while len(self._files) > _MAX_FILES:
                self._remove()
        directory = self._directories.pop()
        shutil.rmtree(directory)
        self._files = [file for file in self._files if directory not in file.parents]
        self._directories = [one for one in self._directories if directory not in one.parents]

    def _new(self, letter: str) -> Path:
        directory = self._random.choice(self._directories)
        return directory / (letter * self._random.randrange(1, 120) + str(self._number))

    def _file(self) -> Path:
        regular = [file for file in self._random.choices(self._files, k=5) if not file.is_symlink()]
        return regular[0] if regular else self._create()

    def _create(self) -> Path:
        path = self._new("f")
        path.write_bytes(bytes([self._number % 255 + 1]) * self._random.choice((0, 10, 5000, 50_000)))
        self._files.append(path)
        return path

    def _make_directory(self) -> None:
        self._directories.append(self._new("d"))
        self._directories[-1].mkdir()

    def _remove(self) -> None:
        if self._files:
            self._files.pop(self._random.randrange(len(self._files))).unlink()

    def _set_attribute(self) -> None:
        value = b"v" * self._random.choice((5, 100, 1000, 6000))
        os.setxattr(self._file() if self._files else self._create(), f"user.{self._random.randrange(8)}", value)

    def _rename(self) -> None:
        if self._files:
            number = self._random.randrange(len(self._files))
            self._files[number] = self._files[number].rename(self._new("r"))

    def _link(self) -> None:
        path = self._new("s")
        path.symlink_to("t" * self._random.choice((5, 200, 700)))
        self._files.append(path)

    def _overwrite(self) -> None:
        with (self._file() if self._files else self._create()).open("r+b") as stream:
            for _ in range(12):
                stream.seek(self._random.randrange(200) * 4096)
                stream.write(b"o" * 4096)

    def _truncate(self) -> None:
        if self._files:
            os.truncate(self._file(), self._random.randrange(50_000))

    def _clone(self) -> None:
        if self._files:
            path = self._new("c")
            subprocess.run(["cp", "--reflink=auto", self._file(), path], check=True)
            self._files.append(path)


def _ends(run: Run, image: Path) -> tuple[int, int, str]:
    """Tail, head and state of the log by xfs_logprint."""
    found = re.search(r"log tail: (\d+) head: (\d+) state: <(\w+)>", run("xfs_logprint", "-t", image))
    assert found
    return int(found[1]), int(found[2]), found[3]


def _kernels(mount: Mount, image: Path) -> Tree:
    """What a mount of the image shows, after the kernel's recovery."""
    with mount(image, "rw,loop") as top:
        return from_mount(top)


def _ours(image: Path) -> tuple[Tree, list[str]]:
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        tree = from_guestctl(filesystem)
        filesystem.usage()
        warnings = list(filesystem.warnings)
    return tree, warnings


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_as_the_kernel_recovers(run: Run, mount: Mount, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    _make(run, image, KINDS[kind])
    copies = []
    with mount(image, "rw,loop") as top:
        work = _Work(top, kind)
        work.do(300)
        _commit(top)
        copies.append(_copy(run, image, "first"))
        for _ in range(300):
            work.do(150)
            _commit(top)
            tail, head, _ = _ends(run, image)
            if head < tail:
                copies.append(_copy(run, image, "around"))
                break
        else:
            raise AssertionError("the log never wrapped around")
    for copy in copies:
        assert _ends(run, copy)[2] == "DIRTY"
        ours, warnings = _ours(copy)
        assert any(warning.startswith("log replayed: ") for warning in warnings)
        assert all(warning.startswith(("log replayed", "left unfinished")) for warning in warnings)
        expected = _kernels(mount, copy)
        assert len(expected) > 50
        assert ours.keys() == expected.keys()
        assert [path for path in expected if ours[path] != expected[path]] == []
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def dirty(run: Run, mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filesystem with a log of many records."""
    image = tmp_path_factory.mktemp("dirty") / "image"
    _make(run, image, "-l size=8m")
    with mount(image, "rw,loop") as top:
        for number in range(30):
            (top / f"directory-{number}").mkdir()
            (top / f"directory-{number}" / "file").write_bytes(b"%d" % number * 1000)
            _commit(top)
        return _copy(run, image, "dirty")


def _records(image: Path) -> list[int]:
    """Where the records of a log that never wrapped around are, in bytes; marks behind its head have no content."""
    with image.open("rb") as stream:
        superblock = stream.read(512)
        block_size, start = struct.unpack_from(">I", superblock, 4)[0], struct.unpack_from(">Q", superblock, 48)[0]
        group_blocks, blocks = struct.unpack_from(">I", superblock, 84)[0], struct.unpack_from(">I", superblock, 96)[0]
        group_log = superblock[124]
        offset = ((start >> group_log) * group_blocks + (start & (1 << group_log) - 1)) * block_size
        stream.seek(offset)
        log = stream.read(blocks * block_size)
    return [
        offset + at
        for at in range(0, len(log), 512)
        if log[at : at + 4] == b"\xfe\xed\xba\xbe" and any(log[at + 12 : at + 16])
    ]


def _patched(image: Path, offset: int, content: bytes) -> Overlay:
    overlay = Overlay(FileDevice.open(image))
    assert overlay.read(offset, len(content)) != content
    overlay.write(offset, content)
    return overlay


def _written(device: Overlay, image: Path, target: Path) -> Path:
    shutil.copyfile(image, target)
    with target.open("r+b") as stream:
        for run in device.runs(0, device.size):
            if isinstance(run.source, FileDevice):
                continue
            stream.seek(run.offset)
            stream.write(device.read(run.offset, run.length))
    return target


@pytest.mark.root
def test_record_that_was_not_written_to_its_end(mount: Mount, dirty: Path, tmp_path: Path) -> None:
    """The last record fails its checksum: what came before it is replayed, here and in the kernel."""
    last = _records(dirty)[-1]
    device = _patched(dirty, last + 512 + 100, b"torn")
    filesystem = FileSystem.detect(device)
    ours = from_guestctl(filesystem)
    assert any(warning.startswith("the end of the log is left out") for warning in filesystem.warnings)
    before = hashlib.sha256(dirty.read_bytes()).digest()
    whole, _ = _ours(dirty)
    assert hashlib.sha256(dirty.read_bytes()).digest() == before
    assert ours != whole
    assert ours == _kernels(mount, _written(device, dirty, tmp_path / "torn"))


@pytest.mark.root
def test_damaged_record(mount: Mount, dirty: Path, tmp_path: Path) -> None:
    """Further from the end the kernel refuses the mount, and so do we."""
    record = _records(dirty)[4]
    device = _patched(dirty, record + 512 + 100, b"torn")
    with pytest.raises(ChecksumMismatch) as caught:
        FileSystem.detect(device)
    assert (caught.value.structure, caught.value.offset) == ("log record", record)
    target = _written(device, dirty, tmp_path / "damaged")
    with pytest.raises(AssertionError, match="mount"), mount(target, "rw,loop"):
        pass
    filesystem = FileSystem.detect(device, options=Options(ignore_checksums=True))
    assert any(warning.startswith("the log was not replayed: ") for warning in filesystem.warnings)
    filesystem.listdir("/")


@pytest.mark.root
@pytest.mark.parametrize(("form", "name"), [(2, "log of big-endian Linux"), (9, "log of format 9")])
def test_log_of_another_machine(dirty: Path, form: int, name: str) -> None:
    device = _patched(dirty, _records(dirty)[-1] + 300, struct.pack(">I", form))
    with pytest.raises(UnsupportedFeature) as caught:
        FileSystem.detect(device)
    assert caught.value.feature == name


@pytest.mark.root
def test_log_of_another_filesystem(dirty: Path) -> None:
    records = _records(dirty)
    device = Overlay(FileDevice.open(dirty))
    for record in records:
        device.write(record + 304, b"another filesyst")
    with pytest.raises(InvalidFormat) as caught:
        FileSystem.detect(device)
    assert caught.value.structure == "log record"


@pytest.mark.root
@pytest.mark.parametrize("seed", range(3))
def test_mutants(dirty: Path, seed: int) -> None:
    """Records without their checksums, so that damage inside them is met."""
    generator = random.Random(seed)
    records = _records(dirty)
    base = Overlay(FileDevice.open(dirty))
    for record in records:
        base.write(record + 32, bytes(4))
    for _ in range(40):
        device = Overlay(base)
        for _ in range(generator.choice((1, 2, 5))):
            place = (
                generator.choice(records) + generator.randrange(324) + generator.choice((0, 512, 512, 700, 1000, 3000))
            )
            device.write(place, generator.choice((b"\0", b"\xff", b"\x7f", bytes([generator.randrange(256)]))))
        try:
            filesystem = FileSystem.detect(device)
            list(filesystem.find("/", onerror=lambda _: None))
        except (InvalidFormat, UnsupportedFeature):
            pass


# Version 4, which kernels that make tests no longer mount: a log built from the specification.

OPERATION = struct.Struct(">IIBBH")
TRANSACTION_ID = 0x1234


def _operation(flags: int, data: bytes = b"") -> bytes:
    return OPERATION.pack(TRANSACTION_ID, len(data), 0x69, flags, 0) + data


def _record(cycle: int, block: int, tail: int, operations: list[bytes], uuid: bytes, version: int) -> bytes:
    data = b"".join(operations)
    length = len(data)
    data = data.ljust(-(-length // 512) * 512, b"\0")
    words = [data[at : at + 4] for at in range(0, len(data), 512)]
    assert len(words) <= 64
    header = struct.pack(
        ">4I2QIII",
        0xFEEDBABE,
        cycle,
        version,
        length,
        cycle << 32 | block,
        cycle << 32 | tail,
        0,
        0xFFFFFFFF,
        len(operations),
    )
    header += b"".join(words).ljust(256, b"\0") + struct.pack(">I16sI", 1, uuid, 32768)
    stamped = b"".join(struct.pack(">I", cycle) + data[at + 4 : at + 512] for at in range(0, len(data), 512))
    return header.ljust(512, b"\0") + stamped


@pytest.mark.parametrize("version", [1, 2])
def test_version_4(run: Run, tmp_path: Path, version: int) -> None:
    """An inode gets another mode, owner, size and extent, and a block of a directory another name."""
    image, prototype, content = tmp_path / "image", tmp_path / "prototype", tmp_path / "content"
    content.write_bytes(b"old content" * 1000)
    names = "".join(f"name-{number:03}-{'n' * 40} ---644 0 0 {content}\n" for number in range(30))
    prototype.write_text(f"/x\n0 0\nd--755 0 0\nfile ---644 0 0 {content}\nsub d--755 0 0\n{names}$\n$\n")
    with image.open("wb") as stream:
        stream.truncate(320 << 20)
    run("mkfs.xfs", "-q", "-m", "crc=0", "-i", "size=256", "-l", f"version={version}", "-p", prototype, image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.warnings == []
        ino, sub = filesystem.stat("/file").st_ino, filesystem.stat("/sub").st_ino
    place = int(run("xfs_db", "-r", "-c", f"convert ino {ino} byte", image).split()[-1].strip("()"))
    daddr, offset = place // 4096 * 8, place % 4096
    listing = run("xfs_db", "-r", "-c", f"inode {sub}", "-c", "dblock 0", "-c", "daddr", image)
    directory = int(listing.split()[-1])
    log = int(run("xfs_db", "-r", "-c", "sb 0", "-c", "print logstart", image).split()[-1])
    log_offset = int(run("xfs_db", "-r", "-c", f"convert fsblock {log} byte", image).split()[-1].strip("()"))
    data = bytearray(image.read_bytes())
    block = data[directory * 512 : directory * 512 + 4096]
    at = block.index(b"name-007")
    block[at : at + 8] = b"gnome-07"
    chunk = at // 128
    inode = data[daddr * 512 + offset : daddr * 512 + offset + 256]
    assert inode[:2] == b"IN"
    extent = bytes(inode[100:116])
    core = bytearray(inode[:96])
    # The host's order, field by field.
    for start, size in ((0, 2), (2, 2), (6, 2), (8, 4), (12, 4), (16, 4), (20, 2), (22, 2), (30, 2), (82, 0), (90, 2)):
        core[start : start + size] = core[start : start + size][::-1]
    for start, size in (
        (32, 4),
        (36, 4),
        (40, 4),
        (44, 4),
        (48, 4),
        (52, 4),
        (56, 8),
        (64, 8),
        (72, 4),
        (76, 4),
        (80, 2),
    ):
        core[start : start + size] = core[start : start + size][::-1]
    core[92:96] = core[92:96][::-1]
    core[2:4] = struct.pack("<H", 0o100751)
    core[8:12] = struct.pack("<I", 4242)
    core[56:64] = struct.pack("<Q", 77)
    core[30:32] = struct.pack("<H", 100)
    uuid = bytes(data[32:48])
    regions = [
        struct.pack("<IIiI", 0x5452414E, 42, TRANSACTION_ID, 2),
        struct.pack("<2HI2HIQ16xqii", 0x123B, 3, 0x5, 0, 16, 0, ino, daddr, 8192 // 512, offset),
        bytes(core),
        extent,
        struct.pack("<4HqI", 0x123C, 2, 0, 8, directory, 1) + struct.pack("<I", 1 << chunk),
        bytes(block[chunk * 128 : chunk * 128 + 128]),
    ]
    operations = [_operation(1), *(_operation(0, region) for region in regions), _operation(2)]
    # Without its commit a transaction is not replayed.
    unfinished = [_operation(1), *(_operation(0, region.replace(b"gnome-07", b"wrong-07")) for region in regions)]
    first = _record(2, 0, 0, operations, uuid, version)
    second = _record(2, len(first) // 512, 0, unfinished, uuid, version)
    data[log_offset : log_offset + len(first + second)] = first + second
    count = int(run("xfs_db", "-r", "-c", "sb 0", "-c", "print logblocks", image).split()[-1]) * 8
    for sector in range(len(first + second) // 512, count):
        data[log_offset + sector * 512 : log_offset + sector * 512 + 4] = struct.pack(">I", 1)
    image.write_bytes(data)
    assert _ends(run, image) == (0, len(first + second) // 512, "DIRTY")
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert filesystem.warnings == ["log replayed: 1 transactions"]
        status = filesystem.stat("/file")
        assert (status.st_mode, status.st_uid, status.st_size) == (0o100751, 4242, 77)
        assert filesystem.read_bytes("/file") == (b"old content" * 1000)[:77]
        found = filesystem.listdir("/sub")
        assert f"gnome-07-{'n' * 40}" in found
        assert len(found) == 30


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)), max_size=8))
def test_changes_of_a_buffer(runs: list[tuple[int, list[int]]]) -> None:
    """Runs of bits, each after a gap, and filled by one region or several."""
    bits = position = 0
    expected = []
    for number, (gap, chunks) in enumerate(runs):
        position += gap
        for count in chunks:
            expected.append((position * 128, bytes([number + 1]) * (count * 128)))
            bits |= (1 << count) - 1 << position
            position += count
    bitmap = bits.to_bytes(-(-position // 32) * 4, "little")
    assert recovery._changes(bitmap, [content for _, content in expected], 0) == expected
