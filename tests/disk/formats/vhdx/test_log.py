"""Logs built from the specification, replayed by us in memory and by ``qemu-img check -r all`` in a copy."""

from __future__ import annotations

import random
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from conformance import check_device
from disk.formats.vhdx.build import (
    BAT_OFFSET,
    DATA_OFFSET,
    LOG_BYTES,
    LOG_GUID,
    LOG_OFFSET,
    MIB,
    PRESENT,
    Disk,
    log_entry,
    with_crc,
)
from guestctl.core.errors import InvalidFormat
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
FILE = DATA_OFFSET + 2 * MIB
SIZE = 4 * MIB


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(4096)


def image_with(*placed: tuple[int, bytes], **options: object) -> bytes:
    """A disk of two blocks, and log entries at their positions; what passes the end of the log goes round."""
    log = bytearray(LOG_BYTES)
    for position, entry in placed:
        for offset in range(0, len(entry), 4096):
            at = (position + offset) % LOG_BYTES
            log[at : at + 4096] = entry[offset : offset + 4096]
    blocks = {0: (PRESENT, b"\1" * MIB, ()), 1: (PRESENT, b"\2" * MIB, ())}
    return Disk(SIZE, blocks, log=bytes(log), log_guid=LOG_GUID).build()


def in_a_row(
    position: int, sequences: Sequence[tuple[int, int, list[tuple[int, bytes | int]]]]
) -> list[tuple[int, bytes]]:
    """(sequence number, tail, changes) as entries that follow one another from `position` on."""
    placed = []
    for number, tail, changes in sequences:
        entry = log_entry(number, tail, changes, file_size=FILE)
        placed.append((position % LOG_BYTES, entry))
        position += len(entry)
    return placed


def first_block(sector: int) -> int:
    return DATA_OFFSET + sector * 4096


CASES: dict[str, list[tuple[int, bytes]]] = {
    "one": in_a_row(0, [(5, 0, [(first_block(0), noise(1))])]),
    "zeros": in_a_row(0, [(5, 0, [(first_block(3), 4096 * 7), (first_block(4), noise(2))])]),
    "zeros after data": in_a_row(0, [(5, 0, [(first_block(4), noise(2)), (first_block(3), 4096 * 7)])]),
    "three": in_a_row(
        8192, [(n, 8192, [(first_block(n), noise(n)), (first_block(9), noise(9 * n))]) for n in (7, 8, 9)]
    ),
    "large numbers": in_a_row(0, [((5 << 32) + 7, 0, [(first_block(0), noise(3))])]),
    "older sequence behind": [
        *in_a_row(0, [(50, 0, [(first_block(0), noise(1))])]),
        *in_a_row(65536, [(30, 65536, [(first_block(0), noise(2))]), (31, 65536, [(first_block(1), noise(3))])]),
    ],
    "newer sequence behind": [
        *in_a_row(0, [(30, 0, [(first_block(0), noise(1))])]),
        *in_a_row(65536, [(50, 65536, [(first_block(0), noise(2))])]),
    ],
    "another log's entry": [
        *in_a_row(0, [(30, 0, [(first_block(0), noise(1))])]),
        (65536, log_entry(99, 65536, [(first_block(0), noise(2))], file_size=FILE, log_guid=uuid.UUID(int=5))),
    ],
    "block moved": in_a_row(
        0, [(3, 0, [(BAT_OFFSET, struct.pack("<2Q", DATA_OFFSET + MIB | 6, DATA_OFFSET | 6).ljust(4096, b"\0"))])]
    ),
}


def torn(image: list[tuple[int, bytes]], at: int) -> list[tuple[int, bytes]]:
    position, entry = image[-1]
    return [*image[:-1], (position, entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :])]


CASES["torn head"] = torn(in_a_row(0, [(n, 0, [(first_block(n), noise(n))]) for n in (7, 8, 9)]), 4096 + 100)


# Where qemu-img 7.2 is wrong: it looks for sequences from the start of the log only, applies what is before the tail,
# and refuses descriptors in a second sector and torn ones. Which of the first block's sectors change, and to what.
SPECIFIED: dict[str, tuple[list[tuple[int, bytes]], dict[int, int]]] = {
    "tail in the middle": (
        in_a_row(0, [(7, 0, [(first_block(1), noise(1))]), (8, 8192, [(first_block(2), noise(2))]), (9, 8192, [])]),
        {2: 2},
    ),
    "round the end": (
        in_a_row(LOG_BYTES - 12288, [(n, LOG_BYTES - 12288, [(first_block(n), noise(n))]) for n in (20, 21, 22)]),
        {20: 20, 21: 21, 22: 22},
    ),
    "many descriptors": (
        in_a_row(0, [(1, 0, [(first_block(n), noise(n)) for n in range(130)])]),
        {n: n for n in range(130)},
    ),
    "torn descriptor": (
        torn(in_a_row(0, [(n, 0, [(first_block(n), noise(n))]) for n in (7, 8)]), 64 + 17),
        {7: 7},
    ),
}


@pytest.mark.parametrize("name", SPECIFIED)
def test_replay_as_specified(tmp_path: Path, name: str) -> None:
    placed, changed = SPECIFIED[name]
    expected = bytearray(b"\1" * MIB + b"\2" * MIB).ljust(SIZE, b"\0")
    for sector, seed in changed.items():
        expected[sector * 4096 : sector * 4096 + 4096] = noise(seed)
    path = tmp_path / "log.vhdx"
    path.write_bytes(image_with(*placed))
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, SIZE) == expected


@pytest.mark.parametrize("name", CASES)
def test_replay(run: Run, tmp_path: Path, name: str) -> None:
    path, replayed, raw = tmp_path / "log.vhdx", tmp_path / "replayed.vhdx", tmp_path / "flat.raw"
    path.write_bytes(image_with(*CASES[name]))
    before = path.read_bytes()
    shutil.copy(path, replayed)
    run("qemu-img", "check", "-q", "-r", "all", replayed)
    run("qemu-img", "convert", "-O", "raw", replayed, raw)
    with DiskReader.open(path) as reader:
        check_device(reader, raw.read_bytes(), rounds=50)
        assert any("log was replayed" in warning for warning in reader.warnings)
        assert all(entry.offset is None for entry in reader.map())
    assert path.read_bytes() == before


def test_the_cases_change_something(tmp_path: Path) -> None:
    path = tmp_path / "log.vhdx"
    for name, placed in CASES.items():
        path.write_bytes(image_with(*placed))
        with DiskReader.open(path) as reader:
            assert reader.read_exact_at(0, 2 * MIB) != b"\1" * MIB + b"\2" * MIB, name


def test_no_valid_entry(tmp_path: Path, run: Run) -> None:
    path, raw = tmp_path / "log.vhdx", tmp_path / "flat.raw"
    for placed in ([], torn(CASES["one"], 200)):
        path.write_bytes(image_with(*placed))
        run("qemu-img", "convert", "-O", "raw", path, raw)
        with DiskReader.open(path) as reader:
            assert reader.read_exact_at(0, SIZE) == raw.read_bytes()
            assert "no valid entries" in reader.warnings[0]


def test_the_file_grows(tmp_path: Path) -> None:
    """A block allocated behind the end of a file that was not extended before the crash: zeros."""
    bat = struct.pack("<3Q", DATA_OFFSET | 6, DATA_OFFSET + 2 * MIB | 6, DATA_OFFSET + MIB | 6).ljust(4096, b"\0")
    changes: list[tuple[int, bytes | int]] = [(BAT_OFFSET, bat), (DATA_OFFSET + 2 * MIB, noise(4))]
    entry = log_entry(3, 0, changes, file_size=FILE, last=FILE + MIB)
    path = tmp_path / "log.vhdx"
    path.write_bytes(image_with((0, entry)))
    with DiskReader.open(path) as reader:
        check_device(reader, b"\1" * MIB + noise(4).ljust(MIB, b"\0") + b"\2" * MIB + bytes(MIB), rounds=50)


@pytest.mark.parametrize(
    "entry",
    [
        log_entry(3, 0, [(DATA_OFFSET, noise(1))], file_size=FILE + MIB),  # the file was truncated since
        log_entry(3, 0, [(FILE, noise(1))], file_size=FILE),
        log_entry(3, 0, [(DATA_OFFSET + 512, noise(1))], file_size=FILE),
        log_entry(3, 0, [(DATA_OFFSET, (1 << 64) - 4096)], file_size=FILE),
        log_entry(3, 0, [(DATA_OFFSET, 4095)], file_size=FILE),
        log_entry(3, 0, [], file_size=FILE, last=1 << 63),
    ],
)
def test_impossible_changes(tmp_path: Path, entry: bytes) -> None:
    path = tmp_path / "log.vhdx"
    path.write_bytes(image_with((0, entry)))
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(path)
    assert (caught.value.structure, caught.value.offset) == ("log entry", LOG_OFFSET)


def test_log_outside_the_file(tmp_path: Path) -> None:
    for field, value in ((68, 1 << 31), (68, 4096), (72, 1 << 62), (72, 0), (72, 512)):
        image = bytearray(image_with())
        for start in (65536, 131072):
            struct.pack_into("<I" if field == 68 else "<Q", image, start + field, value)
            image[start : start + 4096] = with_crc(bytes(image[start : start + 4096]))
        path = tmp_path / "log.vhdx"
        path.write_bytes(image)
        with pytest.raises(InvalidFormat) as caught:
            DiskReader.open(path)
        assert caught.value.structure == "log"


def test_huge_sparse_log_of_false_entries(tmp_path: Path) -> None:
    """Each sector claims to begin an entry as long as the log: bounded time and memory."""
    length = 1 << 30
    image = bytearray(Disk(SIZE, log_guid=LOG_GUID).build())
    for start in (65536, 131072):
        struct.pack_into("<IQ", image, start + 68, length, 4 * MIB)
        image[start : start + 4096] = with_crc(bytes(image[start : start + 4096]))
    entry = bytearray(log_entry(3, 0, [], file_size=MIB))
    path = tmp_path / "log.vhdx"
    for claimed in (32 << 20, length):
        struct.pack_into("<I", entry, 8, claimed)
        with path.open("wb") as file:
            file.write(image)
            file.truncate(4 * MIB + length)
            for sector in range(0, 64 << 20, 65536):
                file.seek(4 * MIB + sector)
                file.write(entry[:64])
        start_time = time.monotonic()
        with pytest.raises(InvalidFormat) as caught:
            DiskReader.open(path)
        assert caught.value.structure == "log"
        assert time.monotonic() - start_time < 10
