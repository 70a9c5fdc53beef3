"""Any byte may be wrong: a result or a typed error, never anything else, in bounded time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from disk.formats.vhdx.build import (
    BAT_OFFSET,
    DATA_OFFSET,
    LOG_BYTES,
    LOG_GUID,
    LOG_OFFSET,
    METADATA_OFFSET,
    MIB,
    PARTIAL,
    PRESENT,
    Disk,
    log_entry,
    with_crc,
)
from guestctl.core.errors import GuestctlError
from guestctl.disk.reader import DiskReader

VALUES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
ROUNDS = 120
LINKAGE = "{00000000-0000-0000-0000-000000000007}"
HEADERS, REGIONS = (65536, 131072), (196608, 262144)
Place = Callable[[random.Random], int]


def image_with_everything() -> bytes:
    blocks = {0: (PRESENT, b"\1" * MIB, ()), 1: (PARTIAL, b"\2" * MIB, (0, 5, 6, 2047))}
    size = DATA_OFFSET + 3 * MIB
    entries = b"".join(
        log_entry(n, 0, [(DATA_OFFSET + n * 4096, bytes([n]) * 4096), (DATA_OFFSET, 8192)], file_size=size)
        for n in (1, 2)
    )
    locator = {"parent_linkage": LINKAGE, "relative_path": ".\\parent.vhdx", "absolute_win32_path": "C:\\parent.vhdx"}
    return Disk(3 * MIB, blocks, locator=locator, log=entries, log_guid=LOG_GUID).build()


STRUCTURES: dict[str, Place] = {
    "headers": lambda generator: generator.choice(HEADERS) + generator.randrange(80),
    "regions": lambda generator: generator.choice(REGIONS) + generator.randrange(80),
    "log": lambda generator: LOG_OFFSET + generator.choice((0, 8192)) + generator.randrange(128),
    "table": lambda generator: BAT_OFFSET + generator.choice((0, 8192 * 8)) + generator.randrange(24),
    "metadata": lambda generator: METADATA_OFFSET + generator.randrange(32 * 7),
    "items": lambda generator: METADATA_OFFSET + 65536 + generator.randrange(300),
}


def use(path: Path) -> None:
    """Everything that a reader has."""
    try:
        with DiskReader.open(path, format="vhdx") as reader:
            for offset in (0, reader.size // 2, reader.size - 4096):
                reader.read(max(0, offset), min(4096, reader.size))
            for number, _ in enumerate(reader.runs(0, reader.size)):
                if number > 5000:
                    break
            for number, _ in enumerate(reader.map()):
                if number > 5000:
                    break
            reader.info()
            reader.check()
    except (GuestctlError, FileNotFoundError):
        pass


def repair_checksums(image: bytearray) -> None:
    for places, length in ((HEADERS, 4096), (REGIONS, 65536)):
        for place in places:
            image[place : place + length] = with_crc(bytes(image[place : place + length]))
    for position in (0, 8192):
        start = LOG_OFFSET + position
        length = int.from_bytes(image[start + 8 : start + 12], "little")
        if 4096 <= length <= LOG_BYTES - position:
            image[start : start + length] = with_crc(bytes(image[start : start + length]))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_mutations(tmp_path: Path, kind: str) -> None:
    (tmp_path / "parent.vhdx").write_bytes(Disk(3 * MIB, {1: (PRESENT, b"\3" * MIB, ())}).build())
    image, path = image_with_everything(), tmp_path / "mutant.vhdx"
    path.write_bytes(image)
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(2 * MIB - 512, 512) == b"\2" * 512
    generator = random.Random(kind)
    with path.open("r+b") as file:
        for _ in range(ROUNDS):
            changed = bytearray(image[:DATA_OFFSET])
            for _ in range(generator.choice((1, 1, 2, 4))):
                place = STRUCTURES[kind](generator)
                length = generator.choice((1, 2, 4, 8))
                changed[place : place + length] = bytes(generator.choice(VALUES) for _ in range(length))
            if generator.random() < 0.8:
                repair_checksums(changed)
            file.seek(0)
            file.write(changed)
            file.flush()
            use(path)
