"""Volumes that the lvm tools and the kernel made in a virtual machine, whole and with physical volumes missing."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import islice

import pytest
from google_crc32c import value as crc32c

import volume_images
from conformance import check_device
from guestctl.block import MemoryDevice
from guestctl.disk import FileSystem
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.volumes.lvm2 import assemble
from guestctl.disk.volumes.lvm2.thin import ThinDevice
from guestctl.disk.volumes.raid.linear import Concatenation

CASES = [name for name in volume_images.names("lvm") if name not in ("lvm-on-md", "lvm-refused")]


def assembled(name: str, wanted: tuple[int, ...] | None = None) -> Assembly:
    return assemble(volume_images.members(name, wanted), Keys())


@pytest.mark.parametrize("name", CASES)
def test_as_the_kernel_reads_it(name: str) -> None:
    """What the lvm tools do not activate without some physical volume is either not assembled, or as it is with it."""
    reads = volume_images.reads(name)
    whole = next(iter(reads.values()))
    for wanted, expected in reads.items():
        assembly = assembled(name, wanted)
        found = {volume.name: volume_images.digest(volume.device) for volume in assembly.volumes}
        assert {volume: found.get(volume) for volume, read in expected.items() if read} == {
            volume: read for volume, read in expected.items() if read
        }
        assert {volume: whole[volume] for volume in found} == found
        for volume in whole.keys() - found.keys():
            assert any(warning.startswith(f"{volume}: ") for warning in assembly.warnings)


@pytest.mark.parametrize(
    ("name", "wanted", "volume"),
    [
        ("lvm-raid", (0, 2, 3), "raid6_nc"),
        ("lvm-raid", (0, 1, 3, 4), "raid5_ls"),
        ("lvm-raid", (1, 2, 3, 4), "raid10"),
        ("lvm-mirror", None, "snap"),
        ("lvm-thin", None, "grown"),
        ("lvm-cache", None, "volume"),
    ],
)
def test_as_a_device(name: str, wanted: tuple[int, ...] | None, volume: str) -> None:
    devices = {volume.name: volume.device for volume in assembled(name, wanted).volumes}
    device = devices[f"/dev/vg/{volume}"]
    flat = b"".join(bytes(device.read(at, 512)) for at in range(0, device.size, 512))
    assert (
        volume_images.digest(MemoryDevice(flat)) == next(iter(volume_images.reads(name).values()))[f"/dev/vg/{volume}"]
    )
    check_device(device, flat, rounds=40)


def test_what_is_said_of_legs() -> None:
    assert assembled("lvm-raid").warnings == []
    assert (
        "/dev/vg/raid6_nc: degraded: legs 1, 4 are missing or not in sync" in assembled("lvm-raid", (0, 2, 3)).warnings
    )
    assert list(assembled("lvm-stale").warnings) == [
        "/dev/vg/mirrored: degraded: legs 0 are missing or not in sync",
        "/dev/vg/parity: degraded: legs 0 are missing or not in sync",
    ]
    assert assembled("lvm-raid", (1, 2, 4)).warnings[0].startswith("/dev/vg/raid5_la: RAID5 cannot be read without")


def test_what_is_refused() -> None:
    assembly = assembled("lvm-refused")
    assert not assembly.volumes
    assert list(assembly.warnings) == [
        "/dev/vg/integrity: integrity segments",
        "/dev/vg/writecache: writecache segments",
    ]


def test_pools_are_no_volumes() -> None:
    names = {volume.name.rpartition("/")[2] for volume in assembled("lvm-thin").volumes}
    assert names == {"full", "holes", "empty", "files", "snap", "frozen", "external", "grown"}


def test_holes_of_thin_volumes_cost_nothing() -> None:
    devices = {volume.name: volume.device for volume in assembled("lvm-thin").volumes}
    assert [run.source for run in devices["/dev/vg/empty"].runs(0, 24 << 20)] == [None]
    holes = [
        (run.offset >> 16, run.length >> 16) for run in devices["/dev/vg/holes"].runs(0, 24 << 20) if run.source is None
    ]
    assert holes == [(1, 6), (10, 91), (102, 281)]  # 100 was discarded
    with FileSystem.detect(devices["/dev/vg/files"]) as filesystem:
        assert filesystem.readlink("/link") == "init"


def test_an_external_origin_that_ends_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {volume.name: volume.device for volume in assembled("lvm-thin").volumes}["/dev/vg/grown"]
    assert isinstance(device, ThinDevice)
    flat = bytes(device.read(0, device.size))
    end = (1 << 20) - 5000
    monkeypatch.setattr(device, "_origin", MemoryDevice(flat[:end]))
    check_device(device, flat[:end] + bytes(5000) + flat[1 << 20 :], rounds=20)


THIN, CACHE, NODE, ARRAY = 160774, 9031977, 121107, 595846735  # what the kernel combines checksums with


def checksum(block: bytes | bytearray, kind: int) -> bytes:
    return struct.pack("<I", crc32c(bytes(block[4:])) ^ 0xFFFFFFFF ^ kind)


@pytest.mark.parametrize(
    ("name", "number", "magic"),
    [("lvm-thin", 1, 27022010), ("lvm-cache", 1, 0o6142003), ("lvm-stale", 1, 0x64526D44)],
)
def test_mutants(
    fuzz: Callable[..., None], name: str, number: int, magic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata of pools, caches and legs: superblocks, and the nodes and arrays behind."""
    monkeypatch.setenv("GUESTCTL_FUZZ_SECONDS", str(float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 3))
    members = volume_images.members(name)
    image = volume_images.images(name)[number]
    start = image.index(magic.to_bytes(4, "little")) // 4096 * 4096
    part = image[start : start + (64 << 12)]
    before, after = MemoryDevice(image[:start]), MemoryDevice(image[start + len(part) :])
    blocks = {
        at: kind
        for at in range(0, len(part), 4096)
        for kind in (THIN, CACHE, NODE, ARRAY)
        if checksum(part[at : at + 4096], kind) == part[at : at + 4]
    }
    assert name == "lvm-stale" or len(blocks) > 3

    def seal(mutant: bytearray) -> None:
        for at, kind in blocks.items():
            mutant[at : at + 4] = checksum(mutant[at : at + 4096], kind)

    def look(mutant: bytearray) -> None:
        device = Concatenation([before, MemoryDevice(mutant[: len(part)]), after])
        changed = [*members[:number], Member(members[number].name, device), *members[number + 1 :]]
        for volume in assemble(changed, Keys()).volumes:
            for _ in islice(volume.device.runs(0, volume.device.size), 50):
                pass

    fuzz(part, look, places=[range(at, at + 400) for at in blocks or (0,)], seal=seal)
