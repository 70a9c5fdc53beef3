"""``DiskReader.check`` against ``qemu-img check --output=json``."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
COPIED, COMPRESSED = 1 << 63, 1 << 62
OUTSIDE = 1 << 30


def qemu_check(path: Path) -> dict[str, Any]:
    """qemu-img's exit code is 0 for a clean image, 2 for corruptions, 3 for leaks."""
    done = subprocess.run(["qemu-img", "check", "--output=json", path], capture_output=True, text=True)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def our_check(path: Path) -> dict[str, Any]:
    with DiskReader.open(path) as reader:
        return reader.check()


def test_clean_images_of_every_kind(image: Path, run: Run) -> None:
    run("qemu-img", "check", image)  # exits 0
    assert our_check(image) == qemu_check(image)


def test_compressed_images(run: Run, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "compressed.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", source, path)
    result = our_check(path)
    assert result == qemu_check(path)
    assert result["compressed-clusters"] > 20


def test_bitmaps_and_snapshots_of_another_size(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rich.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "40M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", path)
    run("qemu-img", "snapshot", "-c", "one", path)
    run("qemu-img", "resize", "-q", path, "80M")
    run("qemu-img", "bitmap", "--add", "-g", "512", path, "fine")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 512k 1M", path)
    run("qemu-img", "bitmap", "--add", path, "coarse")
    assert our_check(path) == qemu_check(path)


def test_encrypted_image(tmp_path: Path, encrypted: Callable[[Path, str], None]) -> None:
    path = tmp_path / "encrypted.qcow2"
    encrypted(path, "luks")
    result = our_check(path)
    # qemu-img wants the key for this; an image it made itself is clean.
    assert "leaks" not in result and "corruptions" not in result and result["check-errors"] == 0


def test_image_that_was_not_closed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "dirty.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "10M")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "flush", "-c", "abort", path], capture_output=True
    )
    assert struct.unpack_from(">Q", path.read_bytes(), 72)[0] & 1, "qemu-io left the image clean"
    assert our_check(path) == qemu_check(path)
    with DiskReader.open(path) as reader:
        assert reader.warnings
        assert bytes(reader.read(0, 4096)) == b"\1" * 4096


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32, 64])
def test_counts_of_every_width(run: Run, tmp_path: Path, bits: int) -> None:
    """Counts one too high are leaks, too low are corruptions, wherever they lie in their byte."""
    path = tmp_path / "counts.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"refcount_bits={bits},cluster_size=4k", path, "2M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 200k", path)
    content = path.read_bytes()
    (table,) = struct.unpack_from(">Q", content, 48)
    (block,) = struct.unpack_from(">Q", content, table)
    for value in (0x00, 0x01, 0x5A, 0xFF):
        for index in (0, 1, 7, 9):
            changed = bytearray(content)
            changed[block + index] = value
            path.write_bytes(changed)
            assert our_check(path) == qemu_check(path)


DAMAGE: dict[str, Callable[[Any], list[tuple[int, str, int]]]] = {
    "count too low": lambda p: [(p.refcount_block + 10, "H", 0)],
    "count too high": lambda p: [(p.refcount_block + 10, "H", 7)],
    "two guest clusters on one": lambda p: [(p.l2 + 8, "Q", COPIED | 0x50000)],
    "cluster over the header": lambda p: [(p.l2, "Q", COPIED)],
    "cluster over the L2 table": lambda p: [(p.l2, "Q", COPIED | p.l2)],
    "cluster outside": lambda p: [(p.l2, "Q", COPIED | OUTSIDE)],
    "cluster not aligned": lambda p: [(p.l2, "Q", COPIED | 0x50200)],
    "reserved bits in L2": lambda p: [(p.l2, "Q", COPIED | 0x50000 | 1 << 60), (p.l2 + 80, "Q", 4)],
    "flag missing": lambda p: [(p.l2, "Q", 0x50000)],
    "flag on L2 missing": lambda p: [(p.l1, "Q", p.l2)],
    "flag on compressed": lambda p: [(p.l2 + 64, "B", 0xC0)],
    "compressed outside": lambda p: [(p.l2 + 64, "Q", COMPRESSED | OUTSIDE)],
    "L2 outside": lambda p: [(p.l1, "Q", COPIED | OUTSIDE)],
    "L2 not aligned": lambda p: [(p.l1, "Q", COPIED | p.l2 + 512)],
    "L2 over the refcounts": lambda p: [(p.l1, "Q", COPIED | p.refcount_block)],
    "reserved bits in L1": lambda p: [(p.l1, "Q", COPIED | p.l2 | 1 << 56)],
    "no refcount block": lambda p: [(p.refcount_table, "Q", 0)],
    "refcount block outside": lambda p: [(p.refcount_table, "Q", 1 << 40)],
    "refcount block not aligned": lambda p: [(p.refcount_table, "Q", p.refcount_block + 512)],
    "reserved bits in refcount table": lambda p: [(p.refcount_table, "Q", p.refcount_block | 1)],
    "refcount block twice": lambda p: [(p.refcount_table + 8, "Q", p.refcount_block)],
    "zero cluster in version 2": lambda p: [(4, "I", 2), (p.l2 + 8, "Q", 1)],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(tmp_path: Path, patch: Any, damage: str) -> None:
    path = tmp_path / "damaged.qcow2"
    path.write_bytes(patch.with_(*DAMAGE[damage](patch)))
    result = our_check(path)
    assert result == qemu_check(path)
    assert result.get("leaks") or result.get("corruptions") or result["check-errors"]


@pytest.mark.parametrize(
    "options",
    [
        "cluster_size=64k",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=2k,refcount_bits=4",
        "extended_l2=on,cluster_size=16k",
        "compat=0.10,cluster_size=4k",
    ],
)
def test_random_damage(run: Run, tmp_path: Path, options: str) -> None:
    """Words of the tables replaced by others that look like them."""
    path = tmp_path / "original.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 256k", "-c", "write -c 512k 128k", path)
    if "refcount_bits" not in options:  # counts that a snapshot would overflow
        run("qemu-img", "snapshot", "-c", "one", path)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 9 64k 128k", path)
    original = path.read_bytes()
    generator = random.Random(options)
    cluster = 1 << struct.unpack_from(">I", original, 20)[0]
    (l1,) = struct.unpack_from(">Q", original, 40)
    (table,) = struct.unpack_from(">Q", original, 48)
    (l2,) = struct.unpack_from(">Q", original, l1)
    (block,) = struct.unpack_from(">Q", original, table)
    places = [l1, l1 + 8, table, table + 8, *range(l2 & ~COPIED, (l2 & ~COPIED) + 512, 8), *range(block, block + 64, 8)]
    for _ in range(40):
        changed = bytearray(original)
        for place in generator.sample(places, generator.choice((1, 1, 3))):
            (word,) = struct.unpack_from(">Q", original, place)
            near = generator.randrange(len(original) // cluster + 3) * cluster
            choices = (0, near, near | COPIED, word ^ COPIED, word + cluster, word ^ 1 << generator.randrange(64))
            struct.pack_into(">Q", changed, place, generator.choice(choices) & (1 << 64) - 1)
        path.write_bytes(changed)
        theirs, ours = qemu_check(path), our_check(path)
        if theirs["check-errors"]:  # a refcount block is unreadable: qemu stops comparing flags at the first use of it
            del theirs["corruptions"], ours["corruptions"]
        assert ours == theirs


def test_damage_that_ends_the_check(tmp_path: Path, patch: Any) -> None:
    for changes, structure in (
        ([(56, "I", 0)], "refcount table"),
        ([(56, "I", 1 << 20)], "refcount table"),
        ([(48, "Q", 0x10200)], "refcount table"),
        ([(60, "I", 70_000), (64, "Q", 0x30000)], "snapshot table"),
        ([(60, "I", 1), (64, "Q", OUTSIDE)], "snapshot table"),
    ):
        path = tmp_path / "damaged.qcow2"
        path.write_bytes(patch.with_(*changes))
        with pytest.raises(InvalidFormat) as caught:
            our_check(path)
        assert caught.value.structure == structure


def test_file_of_too_many_clusters(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnsupportedFeature):
        our_check(path)


def test_raw_images_have_nothing_to_check(source: Path) -> None:
    with pytest.raises(GuestctlError, match="nothing to check"):
        our_check(source)
