"""Random options and random calls of the writer: qemu-img finds the bytes, and nothing to complain about."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import Output
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import ImageWriter, create_writer
from image_writing import fill

Run = Callable[..., str]


@pytest.mark.parametrize("seed", range(24))
def test_random_calls(
    run: Run, flat: Callable[[Path], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    source = random.Random(seed)
    options = random_options(source)
    cluster = int(options["cluster_size"])
    size = min(cluster * source.randrange(1, 200) + 512 * source.randrange(3), 12 << 20)
    base = b""
    if "backing_file" in options:
        base = source.randbytes(source.choice((size, size // 1024 * 512, size + 5120)))
        Path("base.raw").write_bytes(base)
    expected = bytearray(base[:size].ljust(size, b"\0"))
    path = Path("disk.qcow2")
    output = Output(path)
    writer = create_writer("qcow2", output, size, options)
    random_calls(source, writer, expected)
    writer.finish()
    output.publish()
    checked = json.loads(run("qemu-img", "check", "--output=json", path))
    assert checked["image-end-offset"] == os.path.getsize(path)
    assert flat(path) == bytes(expected)
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, size)) == bytes(expected)
        assert reader.check() == checked
    if "data_file_raw" in options:
        assert Path("data.raw").read_bytes() == expected


def random_options(source: random.Random) -> dict[str, str]:
    """Options that go together."""
    extended = source.random() < 0.4
    options = {"cluster_size": str(1 << source.randrange(14 if extended else 9, 19))}
    if not extended and source.random() < 0.3:
        options["compat"] = "0.10"
    else:
        options["extended_l2"] = "on" if extended else "off"
        options["refcount_bits"] = str(1 << source.randrange(1, 7))
    backing = {"backing_file": "base.raw", "backing_fmt": "raw"} if source.random() < 0.5 else {}
    kind = source.choice(("plain", "compress", "compress", "preallocation", "data_file"))
    if kind == "compress":
        options["compress"] = "on"
        if "compat" not in options:
            options["compression_type"] = source.choice(("zlib", "zstd"))
    elif kind == "preallocation":
        options["preallocation"] = source.choice(("metadata", "falloc", "full"))
        backing = backing if extended else {}
    elif kind == "data_file" and "compat" not in options:
        options["data_file"] = "data.raw"
        if not backing:
            options["data_file_raw"] = "on"
    return options | backing


def random_calls(source: random.Random, writer: ImageWriter, expected: bytearray) -> None:
    """Some ranges are zeros, some data that may shrink or not, and some are left out."""
    start = 0
    while start < writer.size:
        end = min(writer.size, start + writer.unit * source.choice((1, 1, 2, 3, 7, 31, 64, 200)))
        kind = source.choice(("nothing", "zero", "noise", "text"))
        if kind == "zero":
            writer.zero(start, end - start)
            expected[start:end] = bytes(end - start)
        elif kind != "nothing":
            noise = source.randbytes(end - start)
            data = noise if kind == "noise" else b"".join(b"%d " % number * 64 for number in range(end - start >> 6))
            expected[start:end] = data.ljust(end - start, b"x")[: end - start]
            with memoryview(expected) as view:
                fill(writer, view[start:end], source.choice((1, 5, 40)), start)
        start = end
