"""Internal snapshots as disks, against ``qemu-img convert -l``."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from guestctl.core.errors import DetectionError, InvalidFormat, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[..., bytes]


@pytest.fixture(scope="module")
def with_snapshots(run: Run, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ids 1, 2 and 3 are named first, 1 and third; the disk was 2 MiB at first and 3 MiB in the end."""
    path = tmp_path_factory.mktemp("snapshots") / "snapshots.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "2M")
    for name, commands in (("first", ("write -P 1 0 1M",)), ("1", ("write -P 2 512k 1M",)), ("third", ())):
        run("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), path)
        run("qemu-img", "snapshot", "-c", name, path)
    run("qemu-img", "resize", "-q", path, "3M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 2M 1M", "-c", "write -z 0 64k", path)
    return path


@pytest.mark.parametrize("wanted", ["1", "2", "3", "first", "third"])
def test_content(with_snapshots: Path, flat: Flat, wanted: str) -> None:
    expected = flat(with_snapshots, "-l", wanted)
    with DiskReader.open(with_snapshots, snapshot=wanted) as reader:
        assert reader.size == 2 << 20
        # qemu-img keeps the size of the current disk; the snapshot's own is shorter.
        assert not any(expected[reader.size :])
        check_device(reader, expected[: reader.size], rounds=30)


def test_current_state_is_not_a_snapshot(with_snapshots: Path, flat: Flat) -> None:
    with DiskReader.open(with_snapshots) as reader:
        check_device(reader, flat(with_snapshots), rounds=30)


def test_id_comes_before_name(with_snapshots: Path) -> None:
    with DiskReader.open(with_snapshots, snapshot="1") as reader:
        assert bytes(reader.read(512 << 10, 512)) == b"\1" * 512


def test_unknown_snapshot(with_snapshots: Path) -> None:
    with pytest.raises(DetectionError, match=r"'fourth'.*1 \(first\), 2 \(1\), 3 \(third\)"):
        DiskReader.open(with_snapshots, snapshot="fourth")


def test_image_without_snapshots(tmp_path: Path, small_image: bytes, source: Path) -> None:
    path = tmp_path / "plain.qcow2"
    path.write_bytes(small_image)
    with pytest.raises(DetectionError, match="none"):
        DiskReader.open(path, snapshot="1")
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(source, snapshot="1")


@pytest.mark.parametrize(
    ("field", "format", "value", "structure"),
    [
        (0, "Q", 0x1001, "L1 table"),  # l1_table_offset
        (0, "Q", 1 << 50, "L1 table"),
        (8, "I", 0xFFFFFFFF, "L1 table"),  # l1_size
        (36, "I", 0xFFFFFFFF, "snapshot table"),  # extra_data_size
        (36, "I", 1025, "snapshot table"),
        (12, "H", 0xFFFF, "snapshot table"),  # id_str_size
        (48, "Q", 1 << 63, "snapshot table"),  # disk size
    ],
)
def test_damaged_table(
    with_snapshots: Path, tmp_path: Path, field: int, format: str, value: int, structure: str
) -> None:
    content = bytearray(with_snapshots.read_bytes())
    (table,) = struct.unpack_from(">Q", content, 64)
    struct.pack_into(f">{format}", content, table + field, value)
    path = tmp_path / "damaged.qcow2"
    path.write_bytes(content)
    with pytest.raises((InvalidFormat, DetectionError)) as caught:
        DiskReader.open(path, snapshot="1")
    if isinstance(caught.value, InvalidFormat):
        assert caught.value.structure == structure
    else:
        assert field == 12  # the id swallowed the name and the next entries
