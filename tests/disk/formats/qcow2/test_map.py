"""``DiskReader.map`` against ``qemu-img map``, joined by the same rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from guestctl.disk.reader import DiskReader, MapEntry

Run = Callable[..., str]
Row = tuple[int, int, int, bool, bool, bool, int | None]


def qemu_map(run: Run, path: Path) -> list[Row]:
    entries: list[dict[str, Any]] = json.loads(run("qemu-img", "map", "--output=json", path))
    return _joined(
        (e["start"], e["length"], e["depth"], e["present"], e["zero"], e["data"], e.get("offset")) for e in entries
    )


def our_map(entries: Iterable[MapEntry]) -> list[Row]:
    return [(e.start, e.length, e.depth, e.present, e.zero, e.data, e.offset) for e in entries]


def _joined(rows: Iterable[Row]) -> list[Row]:
    """qemu-img cuts where its own requests end; join what continues."""
    result: list[Row] = []
    for row in rows:
        if result:
            start, length, *status, offset = result[-1]
            if list(row[2:6]) == status and row[6] == (None if offset is None else offset + length):
                result[-1] = (start, length + row[1], *row[2:6], offset)
                continue
        result.append(row)
    return result


def test_every_kind(image: Path, run: Run) -> None:
    with DiskReader.open(image) as reader:
        entries = list(reader.map())
    assert our_map(entries) == qemu_map(run, image)
    assert all((entry.offset is None) == (entry.filename is None) for entry in entries)


def test_bytes_lie_where_the_map_says(image: Path) -> None:
    with DiskReader.open(image) as reader:
        for entry in reader.map():
            part = min(entry.length, 70_000)
            content = bytes(reader.read(entry.start, part))
            if entry.zero:
                assert content.count(0) == part
            elif entry.filename is not None and entry.offset is not None:
                with Path(entry.filename).open("rb") as file:
                    file.seek(entry.offset)
                    assert file.read(part).ljust(part, b"\0") == content
            else:
                assert entry.compressed


def test_compressed_clusters_are_marked(run: Run, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "compressed.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", source, path)
    with DiskReader.open(path) as reader:
        entries = list(reader.map())
    assert {(e.compressed, e.data, e.offset is None) for e in entries if e.data and not e.zero} >= {(True, True, True)}
    assert our_map(entries) == qemu_map(run, path)


def test_empty_disk(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "0")
    with DiskReader.open(path) as reader:
        assert list(reader.map()) == []
        assert list(reader.chunks(0, 0)) == []


def test_sparse_terabytes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sparse.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "2T")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1T 2k", path)
    with DiskReader.open(path) as reader:
        assert our_map(reader.map()) == qemu_map(run, path)
