"""Compressed clusters one by one, with both deflate libraries and with zstd."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Callable

import pytest
import zstandard

from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.clusters import parse_compressed
from guestctl.disk.formats.qcow2.compression import DecompressionError, decompressor

SIZE = 65536
NOISE = random.Random(7).randbytes(20_000)
CONTENTS = [bytes(SIZE), (NOISE * 4)[:SIZE], (b"lorem ipsum " * SIZE)[:SIZE], random.Random(8).randbytes(SIZE)]


def deflate(content: bytes, window: int = -12) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, window)
    return engine.compress(content) + engine.flush()


def zstd(content: bytes) -> bytes:
    """As qemu writes it: without the content's size in the frame."""
    engine = zstandard.ZstdCompressor().compressobj()
    return engine.compress(content) + engine.flush()


@pytest.fixture(params=["isal", "zlib"])
def inflate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bytes]:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    return decompressor(layout.COMPRESSION_ZLIB, SIZE)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("window", [-12, -15])
@pytest.mark.parametrize("trailing", [b"", NOISE[:511]])
def test_deflate(inflate: Callable[[bytes], bytes], content: bytes, window: int, trailing: bytes) -> None:
    assert inflate(deflate(content, window) + trailing) == content


def test_deflate_that_goes_on_is_cut(inflate: Callable[[bytes], bytes]) -> None:
    assert inflate(deflate(bytes(10 * SIZE))) == bytes(SIZE)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, deflate(bytes(SIZE - 1)), deflate(CONTENTS[1])[:3000]])
def test_damaged_deflate(inflate: Callable[[bytes], bytes], data: bytes) -> None:
    with pytest.raises(DecompressionError):
        inflate(data)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("trailing", [b"", NOISE[:511]])
def test_zstd(content: bytes, trailing: bytes) -> None:
    decompress = decompressor(layout.COMPRESSION_ZSTD, SIZE)
    assert decompress(zstd(content) + trailing) == content
    assert decompress(zstandard.ZstdCompressor().compress(content) + trailing) == content


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        zstd(bytes(SIZE - 1)),
        zstd(bytes(SIZE + 1)),
        zstd(CONTENTS[1])[:3000],
        zstandard.ZstdCompressor().compress(bytes(1 << 26)),  # a frame that announces 64 MiB
    ],
)
def test_damaged_zstd(data: bytes) -> None:
    with pytest.raises(DecompressionError):
        decompressor(layout.COMPRESSION_ZSTD, SIZE)(data)


@pytest.mark.parametrize(
    ("entry", "bits", "offset", "length"),
    [
        (0x4000000000050000, 16, 0x50000, 512),
        (0x4000000000050001, 16, 0x50001, 511),
        (0x4040000000050010, 16, 0x50010, 1024 - 16),
        (0x7FFFFFFFFFFFFFFF, 16, (1 << 54) - 1, 256 * 512 - 511),
        (0x7FFFFFFFFFFFFFFF, 9, (1 << 61) - 1, 2 * 512 - 511),
        (0x7FFFFFFFFFFFFFFF, 21, (1 << 49) - 1, 8192 * 512 - 511),
    ],
)
def test_descriptor(entry: int, bits: int, offset: int, length: int) -> None:
    assert parse_compressed(entry, bits) == (offset, length)
