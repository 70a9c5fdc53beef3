"""Every format into every other, compared and checked by qemu-img."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Run
from guestctl.converters import DiskConverter
from guestctl.core.errors import ConversionError
from guestctl.disk import DiskReader
from guestctl.disk.compare import compare

MIB = 1 << 20


class Target(NamedTuple):
    """A kind of image that guestctl writes; the options are those of qemu-img."""

    name: str
    format: str
    options: Mapping[str, str] = {}
    compress: bool = False


TARGETS = [
    Target("raw", "raw"),
    Target("qcow2", "qcow2"),
    Target("qcow2-v2", "qcow2", {"compat": "0.10"}),
    Target("qcow2-zlib", "qcow2", compress=True),
    Target("qcow2-zstd", "qcow2", {"compression_type": "zstd"}, compress=True),
    Target("qcow2-subclusters", "qcow2", {"extended_l2": "on", "cluster_size": "128k"}),
    Target("vmdk", "vmdk"),
    Target("vmdk-flat", "vmdk", {"subformat": "monolithicFlat"}),
    Target("vmdk-split", "vmdk", {"subformat": "twoGbMaxExtentSparse"}),
    Target("vmdk-split-flat", "vmdk", {"subformat": "twoGbMaxExtentFlat"}),
    Target("vmdk-stream", "vmdk", {"subformat": "streamOptimized"}, compress=True),
    Target("vhd", "vpc", {"force_size": "on"}),
    Target("vhd-fixed", "vpc", {"subformat": "fixed", "force_size": "on"}),
    Target("vhdx", "vhdx"),
    Target("vhdx-fixed", "vhdx", {"subformat": "fixed"}),
    Target("vdi", "vdi"),
    Target("vdi-fixed", "vdi", {"static": "on"}),
]
# qemu-img checks no raw, VHD or flat image.
CHECKED = {"qcow2", "vhdx", "vdi"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 24 MiB: data that packs, data that does not, zeros that are stored, holes."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    source = random.Random(3)
    with open(path, "wb") as file:
        file.write(b"guest" * 200_000)
        file.seek(5 * MIB)
        file.write(source.randbytes(MIB + 70_000))
        file.write(bytes(2 * MIB))
        for _ in range(40):
            file.seek(source.randrange(8 * MIB, 23 * MIB))
            file.write(source.randbytes(source.choice((1, 512, 5000, 66_000))))
        file.truncate(24 * MIB)
        file.seek(24 * MIB - 512)
        file.write(b"the last sector".ljust(512))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, run: Run, disk: Path) -> dict[str, Path]:
    """The disk in every format, as qemu-img writes it."""
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for name, format, options, compress in TARGETS:
        words = ["-c"] if compress and name != "vmdk-stream" else []
        for key, value in options.items():
            words += ["-o", f"{key}={value}"]
        made[name] = folder / f"{name}.{format}"
        run("qemu-img", "convert", "-f", "raw", "-O", format, *words, disk, made[name])
    return made


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
@pytest.mark.parametrize("source", TARGETS, ids=[target.name for target in TARGETS])
def test_every_format_into_every_other(
    tmp_path: Path, run: Run, disk: Path, sources: dict[str, Path], source: Target, target: Target
) -> None:
    made = tmp_path / f"made.{target.format}"
    expected = hashlib.sha256(disk.read_bytes()).hexdigest()
    result = DiskConverter("native").convert(
        sources[source.name], made, target.format, compress=target.compress, options=target.options, digest="sha256"
    )
    assert result["digest"] == expected
    assert (result["source_format"], result["output_format"]) == (source.format, target.format)
    files = [tmp_path / name for name in os.listdir(tmp_path)]
    assert not [file for file in files if "partial" in file.name]
    assert result["output_size"] == sum(file.stat().st_blocks * 512 for file in files)
    run("qemu-img", "compare", "-f", "raw", "-F", target.format, disk, made)
    if target.format in CHECKED or target.name in ("vmdk", "vmdk-split", "vmdk-stream"):
        run("qemu-img", "check", "-f", target.format, made)


def _sizes(target: Target) -> list[int]:
    """The last is as large as the format can hold, or as a test can bear."""
    largest = {"vhd": 2040 << 30, "vhd-fixed": 2040 << 30, "vmdk-split": 5 << 30, "vmdk-split-flat": 5 << 30}
    return [512, 7 * MIB + 512, largest.get(target.name, 3 << 40)]


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize(
    ("target", "size"),
    [pytest.param(kind, size, id=f"{kind.name}-{size}") for kind in TARGETS for size in _sizes(kind)],
)
def test_awkward_disks(tmp_path: Path, run: Run, size: int, filled: bool, target: Target) -> None:
    source = tmp_path / "source.raw"
    with open(source, "wb") as file:
        file.truncate(size)
        if filled:
            file.seek(max(0, size - 512))
            file.write(b"\1" * 512)
            file.seek(0)
            file.write(b"\2" * 512)
    made = tmp_path / f"made.{target.format}"
    DiskConverter("native").convert(source, made, target.format, compress=target.compress, options=target.options)
    if size < 1 << 30:
        run("qemu-img", "compare", "-f", "raw", "-F", target.format, source, made)
    else:  # qemu-img would read all of a VHDX
        first, last = (2, 1) if filled else (0, 0)
        reads = [
            f"read -P {first} 0 512",
            "read -P 0 512 1M",
            f"read -P 0 {size // 2} 1M",
            f"read -P {last} {size - 512} 512",
        ]
        output = run("qemu-io", "-r", "-f", target.format, *(word for read in reads for word in ("-c", read)), made)
        assert "verification failed" not in output
    with DiskReader.open(made) as reader, DiskReader.open(source) as expected:
        assert reader.size >= size
        assert compare(expected, reader).identical


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_resumed_image_is_the_same(one_thread: None, tmp_path: Path, run: Run, disk: Path, target: Target) -> None:
    made = tmp_path / f"made.{target.format}"

    def convert(windows: int) -> bool:
        left = iter([False] * windows + [True] * 2)
        try:
            DiskConverter("native").convert(
                disk,
                made,
                target.format,
                compress=target.compress,
                options=target.options,
                resume=True,
                cancelled=lambda: next(left),
            )
        except ConversionError as error:
            assert "cancelled" in str(error)
            return False
        return True

    assert not convert(4)
    assert not convert(9)
    assert not made.exists()
    assert convert(1000)
    run("qemu-img", "compare", "-f", "raw", "-F", target.format, disk, made)
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


@pytest.mark.parametrize("source", TARGETS, ids=[target.name for target in TARGETS])
@pytest.mark.parametrize(("format", "tool"), [("gz", "gzip"), ("xz", "xz"), ("zst", "zstd")])
def test_every_format_into_a_compressed_raw_disk_and_back(
    tmp_path: Path, run: Run, disk: Path, sources: dict[str, Path], source: Target, format: str, tool: str
) -> None:
    made = tmp_path / f"made.raw.{format}"
    DiskConverter("native").convert(sources[source.name], made, format)
    back = tmp_path / "back"
    DiskConverter("native").convert(made, back, source.format, compress=source.compress, options=source.options)
    run("qemu-img", "compare", "-f", "raw", "-F", source.format, disk, back)
    run(tool, "-d", "-q", made)
    run("cmp", disk, made.with_suffix(""))


@pytest.mark.parametrize("source", TARGETS, ids=[target.name for target in TARGETS])
def test_every_format_into_an_ova_and_back(
    tmp_path: Path, run: Run, disk: Path, sources: dict[str, Path], source: Target
) -> None:
    made = tmp_path / "made.ova"
    DiskConverter("native").convert(sources[source.name], made, "ova")
    back = tmp_path / "back"
    DiskConverter("native").convert(made, back, source.format, compress=source.compress, options=source.options)
    run("qemu-img", "compare", "-f", "raw", "-F", source.format, disk, back)
    run("tar", "-C", tmp_path, "-xf", made)
    (vmdk,) = tmp_path.glob("*.vmdk")
    run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, vmdk)
