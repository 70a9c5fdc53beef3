"""The server beside qemu-img, qemu-io, nbdinfo and nbdcopy as its clients, and their view of the image itself."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from guestctl.block import FileDevice
from guestctl.disk import DiskReader
from nbd_client import serving

_SIZE = 8 << 20
# Arguments of qemu-img convert, and the format's name for guestctl and qemu.
_FORMATS = {
    "raw": ("-O", "raw"),
    "qcow2": ("-O", "qcow2"),
    "qcow2-compressed": ("-c", "-O", "qcow2"),
    "qcow2-zstd": ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    "qcow2-extended-l2": ("-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    "qcow2-512": ("-O", "qcow2", "-o", "cluster_size=512"),
    "qcow2-0.10": ("-O", "qcow2", "-o", "compat=0.10"),
    "vmdk": ("-O", "vmdk"),
    "vmdk-stream": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vmdk-flat": ("-O", "vmdk", "-o", "subformat=monolithicFlat"),
    "vdi": ("-O", "vdi"),
    "vhdx": ("-O", "vhdx"),
    "vpc": ("-O", "vpc", "-o", "force_size=on"),
    "vpc-fixed": ("-O", "vpc", "-o", "subformat=fixed,force_size=on"),
}
# Those of whose zeros qemu-img map tells nothing.
_WITHOUT_MAP = ("vhdx", "vpc", "vpc-fixed")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, holes, a single sector between holes, and zeros that are written out."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    noise = random.Random(1)
    with path.open("wb") as file:
        file.truncate(_SIZE)
        for start, length in ((0, 70_000), (1 << 20, 512), (2 << 20, 2_200_000), (_SIZE - 4096, 4096)):
            file.seek(start)
            file.write(noise.randbytes(length))
        file.seek(5 << 20)
        file.write(b"text " * 50_000 + bytes(300_000))
    return path


@pytest.fixture(params=_FORMATS)
def image(request: pytest.FixtureRequest, run: Run, disk: Path, tmp_path: Path) -> Path:
    path = tmp_path / "image"
    run("qemu-img", "convert", "-f", "raw", *_FORMATS[request.param], disk, path)
    return path


def test_every_format(request: pytest.FixtureRequest, run: Run, disk: Path, image: Path, tmp_path: Path) -> None:
    with DiskReader.open(image) as reader, serving(reader, tmp_path / "socket") as server:
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, disk)
        run("nbdcopy", server.uri, tmp_path / "copy")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, tmp_path / "converted")
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "converted").read_bytes() == disk.read_bytes()
        assert run("nbdinfo", "--size", server.uri).strip() == str(_SIZE)
        found = _map(run, "-f", "raw", server.uri)
        content = disk.read_bytes()
        for (start, _), (end, zero) in pairwise([(0, False), *found]):
            assert not zero or not any(content[start:end])
        if request.node.callspec.params["image"] not in _WITHOUT_MAP:
            assert found == _map(run, image)


def _map(run: Run, *image: Any) -> list[tuple[int, bool]]:
    """Where each range ends and whether it is known to be zeros, as qemu sees it."""
    ranges: list[tuple[int, bool]] = []
    for entry in json.loads(run("qemu-img", "map", "--output=json", *image)):
        end, zero = entry["start"] + entry["length"], entry["zero"]
        if ranges and ranges[-1][1] == zero:
            ranges.pop()
        ranges.append((end, zero))
    return ranges


def test_backing_file(run: Run, disk: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", tmp_path / "top")
    run("qemu-io", "-c", "write -P 7 100k 300k", "-c", "write -z 2M 1M", "-c", "discard 3M 64k", tmp_path / "top")
    with (
        DiskReader.open(tmp_path / "top", allow_dirs=[disk.parent]) as reader,
        serving(reader, tmp_path / "socket", export="the top/é") as server,
    ):
        assert server.uri == f"nbd+unix:///the%20top%2F%C3%A9?socket={tmp_path}/socket"
        run("qemu-img", "compare", "-f", "raw", server.uri, tmp_path / "top")
        assert _map(run, "-f", "raw", server.uri) == _map(run, tmp_path / "top")
        assert "read 307200/307200" in run("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 100k 300k", server.uri)
        listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix://?socket={tmp_path}/socket"))
        assert [export["export-name"] for export in listed["exports"]] == ["the top/é"]


def test_what_nbdinfo_tells(run: Run, disk: Path, tmp_path: Path) -> None:
    with DiskReader.open(disk, format="raw") as reader, serving(reader, tmp_path / "socket") as server:
        (export,) = json.loads(run("nbdinfo", "--json", server.uri))["exports"]
        assert export["is_read_only"] and export["can_multi_conn"] and export["can_cache"] and export["can_df"]
        assert not any(export[f"can_{what}"] for what in ("flush", "fua", "trim", "zero", "fast_zero"))
        assert export["contexts"] == ["base:allocation"]
        sizes = [export[f"block_size_{which}"] for which in ("minimum", "preferred", "maximum")]
        assert sizes == [1, 4096, 32 << 20]


@pytest.mark.parametrize("length", [1, 511, 3 << 20])
def test_sizes_that_are_no_sectors(run: Run, tmp_path: Path, length: int) -> None:
    content = random.Random(length).randbytes(length)
    (tmp_path / "odd").write_bytes(content)
    with FileDevice.open(tmp_path / "odd") as device, serving(device, tmp_path / "socket") as server:
        run("nbdcopy", "--request-size=32768", server.uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
