"""Any byte may be wrong: a result or a typed error, never anything else, in bounded time."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from disk.formats.vhd.build import BLOCK, differencing, footer, with_checksum
from guestctl.core.errors import GuestctlError
from guestctl.disk.reader import DiskReader

PARENT_ID = b"the parent's id."
VALUES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
ROUNDS = 250


def images() -> dict[str, bytes]:
    size = 2 * BLOCK + 512
    blocks = {0: (b"\xf0" * 512, b"\1" * 4096), 2: (b"\x80".ljust(512, b"\0"), b"\2" * 512)}
    names = [(b"W2ru", ".\\parent.vhd".encode("utf-16-le")), (b"MacX", b"file://localhost/parent.vhd")]
    return {
        "fixed": bytes(8192) + footer(8192, 2),
        "dynamic": differencing(size, blocks, parent_id=bytes(16), kind=3),
        "differencing": differencing(
            size, blocks, parent_id=PARENT_ID, parent_name="parent.vhd", locators=names, parent_time=5
        ),
    }


def use(path: Path) -> None:
    """Everything that a reader has."""
    try:
        with DiskReader.open(path, format="vpc") as reader:
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


def mutate(image: bytes, generator: random.Random) -> bytes:
    """Some fields of the structures overwritten, mostly with their checksums made right again."""
    changed = bytearray(image)
    dynamic = image.startswith(b"conectix")
    end = len(image) - 512
    for _ in range(generator.choice((1, 1, 2, 4))):
        if dynamic:
            place = generator.choice(
                (generator.randrange(88), 512 + generator.randrange(1024), 1536 + generator.randrange(2048))
            )
        else:
            place = end + generator.randrange(88)
        length = generator.choice((1, 2, 4, 8))
        value = bytes(generator.choice(VALUES) for _ in range(length))
        changed[place : place + length] = value
    if generator.random() < 0.8:
        if dynamic:
            changed[:512] = changed[-512:] = with_checksum(bytes(changed[:512]), 64)
            changed[512:1536] = with_checksum(bytes(changed[512:1536]), 36)
        else:
            changed[end:] = with_checksum(bytes(changed[end:]), 64)
    if generator.random() < 0.1:
        del changed[generator.randrange(len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "differencing"])
def test_mutations(tmp_path: Path, kind: str) -> None:
    parent_size = 2 * BLOCK
    (tmp_path / "parent.vhd").write_bytes(bytes(parent_size) + footer(parent_size, 2, unique_id=PARENT_ID))
    image, path = images()[kind], tmp_path / "mutant.vhd"
    path.write_bytes(image)
    use(path)
    generator = random.Random(kind)
    for _ in range(ROUNDS):
        path.write_bytes(mutate(image, generator))
        use(path)


def test_huge_claims_in_a_sparse_file(tmp_path: Path) -> None:
    """A table that fills a large sparse file, and points nowhere: no memory in proportion."""
    import tracemalloc

    path = tmp_path / "sparse.vhd"
    header = struct.pack(">8sQQIIII", b"cxsparse", (1 << 64) - 1, 1536, 0x10000, 0xFFFFFFFF, 4096, 0)
    with path.open("wb") as file:
        file.write(footer(2040 << 30, 3))
        file.write(with_checksum(header.ljust(1024, b"\0"), 36))
        file.truncate(1 << 35)
    tracemalloc.start()
    use(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
