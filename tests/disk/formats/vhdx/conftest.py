"""What the VHDX tests share: a source with every kind of content."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


@pytest.fixture(scope="session")
def content() -> bytes:
    """5 MiB and 3 sectors: noise and zeros in pieces from a sector to 700 KiB, the third MiB all zeros."""
    generator = random.Random(7)
    parts: list[bytes] = []
    size = 0
    while size < (5 << 20) + 1536:
        length = 512 * generator.choice((1, 3, 8, 129, 700, 1500))
        parts.append(generator.randbytes(length) if generator.randrange(2) else bytes(length))
        size += length
    disk = bytearray(b"".join(parts)[: (5 << 20) + 1536])
    disk[2 << 20 : 3 << 20] = bytes(1 << 20)
    return bytes(disk)


@pytest.fixture(scope="session")
def source(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.raw"
    path.write_bytes(content)
    return path


@pytest.fixture
def flat(run: Run, tmp_path: Path) -> Callable[[Path], bytes]:
    """The whole disk of an image as qemu-img reads it."""

    def _flat(path: Path) -> bytes:
        raw = tmp_path / "flat.raw"
        run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", path, raw)
        return raw.read_bytes()

    return _flat
