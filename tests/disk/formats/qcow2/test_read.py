"""The bytes of the disk, for every kind of image, against qemu-img."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance import check_device
from guestctl.core.errors import InvalidFormat
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[..., bytes]


def _sha256(reader: DiskReader) -> str:
    digest = hashlib.sha256()
    for _, buffer in reader.chunks(0, reader.size):
        digest.update(buffer)
    return digest.hexdigest()


def test_whole_disk(image: Path, flat: Flat) -> None:
    expected = flat(image)
    with DiskReader.open(image) as reader:
        assert reader.format == "qcow2"
        assert _sha256(reader) == hashlib.sha256(expected).hexdigest()
        check_device(reader, expected, rounds=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_reads(data: st.DataObject, image: Path, flat: Flat) -> None:
    expected = _cached(image, flat)
    offset = data.draw(st.integers(0, len(expected)))
    length = data.draw(st.integers(0, min(len(expected) - offset, 300_000)))
    with DiskReader.open(image) as reader:
        # Twice: the second time L2 slices and decompressed clusters are at hand.
        for _ in range(2):
            assert bytes(reader.read(offset, length)) == expected[offset : offset + length]
        joined = b"".join(
            bytes(run.length) if run.source is None else bytes(run.source.read(run.source_offset, run.length))
            for run in reader.runs(offset, length)
        )
        assert joined == expected[offset : offset + length]


_flat_copies: dict[Path, bytes] = {}


def _cached(image: Path, flat: Flat) -> bytes:
    if image not in _flat_copies:
        _flat_copies.clear()
        _flat_copies[image] = flat(image)
    return _flat_copies[image]


def test_image_made_by_others(shared: Path, flat: Flat) -> None:
    path = shared / "images" / "dfvfs-ext2.qcow2"
    with DiskReader.open(path) as reader:
        check_device(reader, flat(path))


def test_neighbouring_compressed_clusters_are_one_run(run: Run, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "compressed.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", source, path)
    with DiskReader.open(path) as reader:
        runs = list(reader.runs(0, reader.size))
        computed = [one for one in runs if one.source is reader]
        assert max(one.length for one in computed) > 4 * 65536
        assert all(one.source_offset == one.offset for one in computed)
        assert all(first.source is not second.source for first, second in pairwise(runs))


def test_threads_share_a_reader(run: Run, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "compressed.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", source, path)
    expected = source.read_bytes()
    wrong: list[int] = []

    def read_all(reader: DiskReader, step: int) -> None:
        offsets = range(0, len(expected) - step, step)
        wrong.extend(at for at in offsets if bytes(reader.read(at, step)) != expected[at : at + step])

    with DiskReader.open(path) as reader:
        threads = [threading.Thread(target=read_all, args=(reader, step)) for step in (3000, 65536, 70000, 200_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(("options", "size"), [("cluster_size=64k", "2T"), ("cluster_size=2M", "64P")])
def test_cost_follows_what_is_asked(run: Run, tmp_path: Path, options: str, size: str) -> None:
    path = tmp_path / "sparse.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1T 64k", path)
    tracemalloc.start()
    try:
        with DiskReader.open(path) as reader:
            assert bytes(reader.read(1 << 40, 65536)) == b"\1" * 65536
            assert not any(reader.read(reader.size - 4096, 4096))
            runs = list(reader.runs(0, reader.size))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [run.source is None for run in runs] == [True, False, True]
    assert peak < 8 << 20


def test_l2_slices_are_bounded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.disk.formats.qcow2.clusters._CACHE_BYTES", 1 << 20)
    path = tmp_path / "many-tables.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "40G")
    with DiskReader.open(path) as reader:
        tracemalloc.start()
        try:
            for offset in range(0, reader.size, 512 << 20):
                assert not any(reader.read(offset, 512))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2 << 20


def test_last_cluster_ends_past_the_file(run: Run, tmp_path: Path, flat: Flat) -> None:
    path = tmp_path / "short.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 192k", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30_000])
    with DiskReader.open(path) as reader:
        check_device(reader, flat(path), rounds=30)
    path.write_bytes(whole[:-70_000])
    with DiskReader.open(path) as reader, pytest.raises(InvalidFormat) as caught:
        reader.read(0, 192 << 10)
    assert caught.value.structure == "data cluster"
    assert caught.value.offset == len(whole) - 65536
