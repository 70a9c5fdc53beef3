"""Written images against qemu-img: their content, their metadata, their description."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from guestctl.block import Output
from guestctl.core.errors import ConversionError, UnsupportedFeature
from guestctl.disk.formats.qcow2.compression import compressor
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
MIB = 1 << 20

MATRIX = [
    "",
    "compat=0.10",
    "compat=v3",
    "lazy_refcounts=on",
    *(f"cluster_size={size}" for size in ("512", "1k", "4k", "16k", "256k", "2M")),
    *(f"refcount_bits={bits},cluster_size=512" for bits in (1, 2, 4, 8, 32, 64)),
    *(f"refcount_bits={bits}" for bits in (1, 8, 64)),
    *(f"extended_l2=on,cluster_size={size}" for size in ("16k", "64k", "2M")),
    *(f"preallocation={mode}" for mode in ("metadata", "falloc", "full")),
    "preallocation=metadata,cluster_size=512",
    "preallocation=metadata,cluster_size=2M",
    "preallocation=metadata,compat=0.10",
    "preallocation=metadata,extended_l2=on",
    "preallocation=full,extended_l2=on,cluster_size=16k",
    *(
        f"compress=on,compression_type={kind},cluster_size={size}"
        for kind, size in product(("zlib", "zstd"), ("512", "4k", "64k", "2M"))
    ),
    "compress=on,compat=0.10",
    "compress=on,compat=0.10,cluster_size=512",
    "compress=on,extended_l2=on",
    "compress=on,compression_type=zstd,extended_l2=on,cluster_size=16k",
    *(f"compress=on,refcount_bits={bits}" for bits in (2, 4, 8, 32, 64)),
    *(f"compress=on,compression_type=zstd,refcount_bits={bits},cluster_size=4k" for bits in (2, 4, 8)),
]


def parse(options: str) -> dict[str, str]:
    return dict(word.split("=") for word in options.split(",") if word)


def check(run: Run, image: Path) -> dict[str, Any]:
    """qemu-img's check, which exits 0: neither corruptions nor leaks."""
    result: dict[str, Any] = json.loads(run("qemu-img", "check", "--output=json", image))
    assert result["check-errors"] == 0
    assert result["image-end-offset"] == image.stat().st_size
    return result


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def content(source: Path) -> bytes:
    return source.read_bytes()


@pytest.mark.parametrize("options", MATRIX)
def test_matrix(run: Run, flat: Callable[[Path], bytes], content: bytes, tmp_path: Path, options: str) -> None:
    path = tmp_path / "disk.qcow2"
    write_image(path, "qcow2", content, parse(options))
    found = check(run, path)
    assert sha256(flat(path)) == sha256(content)
    with DiskReader.open(path) as reader:
        assert sha256(reader.read(0, reader.size)) == sha256(content)
        assert reader.check() == found | {"filename": str(path), "format": "qcow2"}
    compare_info(run, path, options)
    if "compress=on" in options:
        assert found["compressed-clusters"]
    if "preallocation" in options:
        assert found["allocated-clusters"] == found["total-clusters"]


def compare_info(run: Run, path: Path, options: str) -> None:
    """The options are in the header where ``qemu-img create`` puts them."""
    ours = json.loads(run("qemu-img", "info", "--output=json", path))
    theirs_path = path.with_name("theirs.qcow2")
    wanted = ",".join(word for word in options.split(",") if not word.startswith("compress="))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", wanted or "compat=1.1", theirs_path, str(ours["virtual-size"]))
    theirs = json.loads(run("qemu-img", "info", "--output=json", theirs_path))
    theirs_path.unlink()
    for key in ("cluster-size", "virtual-size", "format", "dirty-flag"):
        assert ours[key] == theirs[key]
    assert ours["format-specific"] == theirs["format-specific"]


@pytest.mark.parametrize("options", ["", "extended_l2=on", "preallocation=metadata", "compress=on", "cluster_size=4k"])
def test_map(run: Run, source: Path, content: bytes, tmp_path: Path, options: str) -> None:
    """The same ranges hold data as in an image that qemu-img makes, and all data lies where map says."""
    path, theirs_path = tmp_path / "disk.qcow2", tmp_path / "theirs.qcow2"
    write_image(path, "qcow2", content, parse(options))
    packs = "compress" in options
    more = ("-c",) if packs else ("-o", options) if options else ()
    run("qemu-img", "convert", "-O", "qcow2", *more, source, theirs_path)
    ours, theirs = (json.loads(run("qemu-img", "map", "--output=json", image)) for image in (path, theirs_path))
    assert ours[-1]["start"] + ours[-1]["length"] == len(content)
    if options != "preallocation=metadata" and not packs:
        assert _data_ranges(ours) == _data_ranges(theirs)
    stored = path.read_bytes()
    for entry in ours:
        if entry["data"] and "offset" in entry:
            place, start, length = entry["offset"], entry["start"], entry["length"]
            assert stored[place : place + length] == content[start : start + length]


def _data_ranges(entries: list[dict[str, Any]]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for entry in entries:
        start, end = entry["start"], entry["start"] + entry["length"]
        if not entry["data"]:
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1][1] = end
        else:
            ranges.append([start, end])
    return ranges


def test_space_is_reserved(content: bytes, tmp_path: Path) -> None:
    blocks = {}
    for mode in ("metadata", "falloc", "full"):
        path = tmp_path / f"{mode}.qcow2"
        write_image(path, "qcow2", content, {"preallocation": mode})
        blocks[mode] = os.stat(path).st_blocks * 512
    assert blocks["metadata"] < len(content) <= blocks["falloc"]
    assert blocks["full"] >= len(content)


@pytest.mark.parametrize("options", ["", "compress=on", "extended_l2=on", "preallocation=falloc"])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65536, 65537])
def test_sizes(run: Run, flat: Callable[[Path], bytes], tmp_path: Path, size: int, options: str) -> None:
    """The disk has whole sectors, as those of qemu-img have."""
    path = tmp_path / "disk.qcow2"
    write_image(path, "qcow2", b"\xaa" * size, parse(options))
    check(run, path)
    assert flat(path) == (b"\xaa" * size).ljust(-(-size // 512) * 512, b"\0")


def test_runs_are_one_placement(tmp_path: Path) -> None:
    """A run over many L2 tables lies in one piece, and so does what continues it."""
    output = Output(tmp_path / "disk.qcow2")
    writer = create_writer("qcow2", output, 3 << 40, {"cluster_size": "4k"})
    (first,) = writer.place(1 << 30, 700 * MIB)
    (second,) = writer.place((1 << 30) + 700 * MIB, 100 * MIB)
    assert (first.start, first.length) == (1 << 30, 700 * MIB)
    assert second.offset == first.offset + first.length
    output.discard()


@pytest.mark.parametrize("options", ["", "compress=on", "extended_l2=on", "cluster_size=4k", "preallocation=metadata"])
def test_same_calls_same_places(content: bytes, tmp_path: Path, options: str) -> None:
    images = []
    for name in ("one", "two"):
        write_image(tmp_path / name, "qcow2", content, parse(options))
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize("options", ["", "extended_l2=on", "cluster_size=2M", "cluster_size=64k,refcount_bits=1"])
def test_sparse_giant(run: Run, tmp_path: Path, options: str) -> None:
    """3 TiB with data at both ends, and nothing else."""
    path = tmp_path / "disk.qcow2"
    size = 3 << 40
    output = Output(path)
    writer = create_writer("qcow2", output, size, parse(options))
    for start in (0, size - writer.unit):
        for placement in writer.place(start, writer.unit):
            placement.file.write_at(placement.offset, b"\x77" * placement.length)
    writer.finish()
    output.publish()
    check(run, path)
    assert os.stat(path).st_blocks * 512 < 16 * MIB
    data = [entry for entry in json.loads(run("qemu-img", "map", "--output=json", path)) if entry["data"]]
    assert [(entry["start"], entry["length"]) for entry in data] == [
        (0, writer.unit),
        (size - writer.unit, writer.unit),
    ]
    pattern = f"read -P 0x77 {size - writer.unit} {writer.unit}"
    assert "failed" not in run("qemu-io", "-f", "qcow2", "-r", "-c", pattern, "-c", "read -P 0 1T 1M", path)


@pytest.mark.parametrize("version", ["0.10", "1.1"])
@pytest.mark.parametrize("more", ["", "cluster_size=4k", "compress=on", "extended_l2=on", "extended_l2=on,compress=on"])
def test_backing(
    run: Run, flat: Callable[[Path], bytes], content: bytes, tmp_path: Path, version: str, more: str
) -> None:
    """Zeros hide what the backing file has; what is not handed over does not."""
    if version == "0.10" and "extended_l2" in more:
        return  # version 2 has no extended L2 entries
    (tmp_path / "base.raw").write_bytes(b"\xee" * (4 * MIB))
    path = tmp_path / "overlay.qcow2"
    options = {"backing_file": "base.raw", "backing_fmt": "raw", "compat": version, **parse(more)}
    write_image(path, "qcow2", content, options)
    check(run, path)
    assert sha256(flat(path)) == sha256(content)
    info = json.loads(run("qemu-img", "info", "--output=json", path))
    assert (info["backing-filename"], info["backing-filename-format"]) == ("base.raw", "raw")
    with DiskReader.open(path) as reader:
        assert sha256(reader.read(0, reader.size)) == sha256(content)
        assert reader.info()["backing-filename"] == "base.raw"


def test_what_is_not_handed_over_is_the_backing_files(run: Run, flat: Callable[[Path], bytes], tmp_path: Path) -> None:
    base = bytes(range(256)) * 4096
    (tmp_path / "base.raw").write_bytes(base)
    for name, more in (
        ("plain", {}),
        ("sub", {"extended_l2": "on"}),
        ("all", {"extended_l2": "on", "preallocation": "metadata"}),
    ):
        path = tmp_path / f"{name}.qcow2"
        output = Output(path)
        writer = create_writer("qcow2", output, 2 * MIB, {"backing_file": "base.raw", "backing_fmt": "raw", **more})
        unit = writer.unit
        expected = bytearray(base + bytes(MIB))
        for start, length in ((unit, unit), (4 * unit, 40 * unit), (62 * unit, unit)):
            writer.zero(start, length) if start == 62 * unit else _store(writer.place(start, length), expected)
        expected[62 * unit : 63 * unit] = bytes(unit)
        writer.finish()
        output.publish()
        check(run, path)
        wanted = bytes(expected[: 2 * MIB])
        assert flat(path) == wanted
        with DiskReader.open(path) as reader:
            assert bytes(reader.read(0, reader.size)) == wanted


def _store(placements: Any, expected: bytearray) -> None:
    for start, length, file, offset in placements:
        file.write_at(offset, b"\x99" * length)
        expected.extend(bytes(max(0, start + length - len(expected))))
        expected[start : start + length] = b"\x99" * length


@pytest.mark.parametrize(
    "more", ["", "data_file_raw=on", "extended_l2=on", "preallocation=full", "data_file_raw=on,extended_l2=on"]
)
def test_data_file(run: Run, flat: Callable[[Path], bytes], content: bytes, tmp_path: Path, more: str) -> None:
    path, data = tmp_path / "disk.qcow2", tmp_path / "data.raw"
    write_image(path, "qcow2", content, {"data_file": str(data), **parse(more)})
    check(run, path)
    assert sha256(flat(path)) == sha256(content)
    assert data.stat().st_size == len(content)
    assert sha256(data.read_bytes()) == sha256(content)
    specific = json.loads(run("qemu-img", "info", "--output=json", path))["format-specific"]["data"]
    assert (specific["data-file"], specific["data-file-raw"]) == (str(data), "data_file_raw" in more)
    with DiskReader.open(path) as reader:
        assert sha256(reader.read(0, reader.size)) == sha256(content)


def test_data_file_beside_the_image(content: bytes, tmp_path: Path) -> None:
    write_image(tmp_path / "disk.qcow2", "qcow2", content, {"data_file": "data.raw"})
    assert (tmp_path / "data.raw").stat().st_size == len(content)
    with DiskReader.open(tmp_path / "disk.qcow2") as reader:
        assert sha256(reader.read(0, reader.size)) == sha256(content)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (MIB, "colour=red", "no option 'colour'"),
        (MIB, "cluster_size=3000", "cluster_size is 3000"),
        (MIB, "cluster_size=4M", "cluster_size is 4194304"),
        (MIB, "cluster_size=x", "invalid size"),
        (MIB, "compat=2.0", "expected one of"),
        (MIB, "refcount_bits=3", "refcount_bits is 3"),
        (MIB, "refcount_bits=128", "refcount_bits is 128"),
        (MIB, "compat=0.10,refcount_bits=8", "refcount_bits needs compat=1.1"),
        (MIB, "compat=0.10,lazy_refcounts=on", "lazy_refcounts needs"),
        (MIB, "compat=0.10,compression_type=zstd", "zstd needs"),
        (MIB, "compat=0.10,extended_l2=on", "extended_l2 needs"),
        (MIB, "compat=0.10,data_file=d", "data_file needs"),
        (MIB, "extended_l2=on,cluster_size=8k", "at least 16384"),
        (MIB, "data_file_raw=on", "needs data_file"),
        (MIB, "data_file=d,compress=on", "exclude each other"),
        (MIB, "data_file=disk.qcow2", "is the new image"),
        (MIB, "data_file=d,backing_file=d,backing_fmt=raw", "is backing_file"),
        (MIB, "data_file=d,data_file_raw=on,backing_file=b,backing_fmt=raw", "exclude each other"),
        (MIB, "backing_file=b", "needs backing_fmt"),
        (MIB, "backing_fmt=raw", "needs backing_file"),
        (MIB, "backing_file=disk.qcow2,backing_fmt=qcow2", "is the new image"),
        (MIB, "backing_file=b,backing_fmt=raw,preallocation=metadata", "only with extended_l2"),
        (MIB, "compress=on,preallocation=metadata", "exclude each other"),
        (MIB, "compress=on,refcount_bits=1", "refcount_bits=1"),
        (200 << 30, "cluster_size=512", "too many for cluster_size=512"),
        (3 << 60, "", "too many"),
        (3 << 60, "cluster_size=2M", "too many"),
    ],
)
def test_refusals(tmp_path: Path, size: int, options: str, message: str) -> None:
    output = Output(tmp_path / "disk.qcow2")
    with pytest.raises(ConversionError, match=message):
        create_writer("qcow2", output, size, parse(options))
    output.discard()
    assert not list(tmp_path.iterdir())


def test_preallocation_needs_a_file(tmp_path: Path) -> None:
    """What is not written to a block device does not read as zeros."""
    output = Output(tmp_path / "disk.qcow2")
    output.is_device = True
    with pytest.raises(ConversionError, match="block devices"):
        create_writer("qcow2", output, MIB, {"preallocation": "metadata"})
    output.is_device = False
    output.discard()


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    for name, size in (("b" * 1100, "64k"), ("b" * 450, "512")):
        output = Output(tmp_path / "disk.qcow2")
        writer = create_writer("qcow2", output, MIB, {"backing_file": name, "backing_fmt": "raw", "cluster_size": size})
        with pytest.raises(ConversionError, match="names"):
            writer.finish()
        output.discard()
    output = Output(tmp_path / "disk.qcow2")
    with pytest.raises(UnsupportedFeature, match="nbd"):
        create_writer("qcow2", output, MIB, {"backing_file": "nbd:host:1", "backing_fmt": "raw"})
    output.discard()


def test_giant_limits(run: Run, tmp_path: Path) -> None:
    """The largest disks that qemu-img makes."""
    for size, options in (((1 << 61), "cluster_size=2M"), (1 << 51, ""), (1 << 37, "cluster_size=512")):
        path = tmp_path / "disk.qcow2"
        output = Output(path, overwrite=True)
        create_writer("qcow2", output, size, parse(options)).finish()
        output.publish()
        check(run, path)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options or "compat=1.1", tmp_path / "theirs", str(size))
        output = Output(path, overwrite=True)
        with pytest.raises(ConversionError, match="too many"):
            create_writer("qcow2", output, size + 512, parse(options))
        output.discard()


def test_file_too_large_for_its_refcounts(tmp_path: Path) -> None:
    output = Output(tmp_path / "disk.qcow2")
    writer = create_writer("qcow2", output, 64 << 30, {"cluster_size": "512", "refcount_bits": "64"})
    with pytest.raises(ConversionError, match="too large"):
        writer.place(0, 33 << 30)
    output.discard()


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_deflate_keeps_to_qemus_window(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """qemu's decoder has a window of 4 KiB; zlib's with the same window refuses what reaches further back."""
    if library == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    compress = compressor(0)
    generator = random.Random(3)
    for period in (1, 100, 4000, 4096, 5000, 9000):
        content = (generator.randbytes(period) * 70_000)[:65536]
        assert _inflate(compress(content)) == content
    wide = zlib.compressobj(9, zlib.DEFLATED, -15)
    with pytest.raises(zlib.error, match="distance"):
        _inflate(wide.compress(content) + wide.flush())


def _inflate(data: bytes) -> bytes:
    """A little at a time, for zlib looks at the window only where its output was taken away."""
    decoder = zlib.decompressobj(-12)
    parts = []
    while not decoder.eof:
        parts.append(decoder.decompress(data, 256))
        data = decoder.unconsumed_tail
    return b"".join(parts)


def test_clusters_that_do_not_shrink_leave_no_gaps(run: Run, flat: Callable[[Path], bytes], tmp_path: Path) -> None:
    """Noise between text: the text stays byte to byte, so that the file is little more than its parts."""
    generator = random.Random(4)
    cluster = 65536
    content = b"".join(
        generator.randbytes(cluster) if generator.random() < 0.3 else (b"%d " % number * cluster)[:cluster]
        for number in range(64)
    )
    for batch in (1, 7, 64):
        path = tmp_path / f"{batch}.qcow2"
        write_image(path, "qcow2", content, {"compress": "on"}, batch=batch)
        found = check(run, path)
        stored = (found["allocated-clusters"] - found["compressed-clusters"]) * cluster
        assert os.stat(path).st_blocks * 512 < stored + 12 * cluster
        assert sha256(flat(path)) == sha256(content)
