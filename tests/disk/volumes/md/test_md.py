"""Arrays that mdadm and the kernel made in a virtual machine, whole and with members missing."""

from __future__ import annotations

import itertools
import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

import volume_images
from conformance import check_device
from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.disk.filesystem import FileSystem
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.volumes.md import assemble
from guestctl.disk.volumes.md.superblock import find_superblock
from guestctl.machine import Machine

ARRAYS = volume_images.names("linear", "raid")
STATES = volume_images.names("stale", "spare", "rebuild", "replace", "reshape", "badblocks", "dirty", "behind", "ppl")
JOURNALS = volume_images.names("journal")
# The kernel reads these, and replays or goes on reshaping at once.
REFUSED = {("reshape-raid5", (0, 1, 2, 3)): "reshape", ("journal", (1, 2, 3)): "journal has entries"}


def assembled(name: str, wanted: tuple[int, ...] | None = None) -> Assembly:
    return assemble(volume_images.members(name, wanted), Keys())


def digest(assembly: Assembly) -> str | None:
    return volume_images.digest(assembly.volumes[0].device) if assembly.volumes else None


@pytest.mark.parametrize("name", ARRAYS + STATES + JOURNALS)
def test_as_the_kernel_reads_it(name: str) -> None:
    for wanted, expected in volume_images.reads(name).items():
        assembly = assembled(name, wanted)
        if (name, wanted) in REFUSED:
            assert not assembly.volumes
            assert REFUSED[name, wanted] in assembly.warnings[-1]
        else:
            assert (wanted, digest(assembly)) == (wanted, expected["/dev/md127"])
            assert assembly.volumes or assembly.warnings


@pytest.mark.parametrize("name", [name for name in ARRAYS if name.startswith(("raid4", "raid5", "raid6"))])
def test_every_set_of_members(name: str) -> None:
    """Members in sync hold the same array, whichever are missing."""
    count = len(volume_images.images(name))
    whole = volume_images.reads(name)[tuple(range(count))]["/dev/md127"]
    spare = 2 if name.startswith("raid6") else 1
    for wanted in itertools.combinations(range(count), count - spare):
        assert (wanted, digest(assembled(name, wanted))) == (wanted, whole)
    for wanted in itertools.combinations(range(count), count - spare - 1):
        assembly = assembled(name, wanted)
        assert not assembly.volumes
        assert "cannot be read without its members" in assembly.warnings[-1]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("linear", None),
        ("raid0-zones", None),
        ("raid0-zones-original", None),
        ("raid1-1.2", (1,)),
        ("raid5-left-symmetric", (0, 1, 3)),
        ("raid6-ddf-N-restart", (0, 2, 3)),
        ("raid10-o2-5", (0, 1, 2, 4)),
    ],
)
def test_as_a_device(name: str, wanted: tuple[int, ...] | None) -> None:
    device = assembled(name, wanted).volumes[0].device
    flat = b"".join(bytes(device.read(at, 512)) for at in range(0, device.size, 512))
    assert volume_images.digest(MemoryDevice(flat)) in {
        read["/dev/md127"] for read in volume_images.reads(name).values()
    }
    check_device(device, flat, rounds=40)


def test_what_is_said_of_members() -> None:
    def warnings(name: str, *wanted: int) -> list[str]:
        return list(assembled(name, wanted or None).warnings)

    assert warnings("raid5-left-symmetric") == []
    assert warnings("raid5-left-symmetric", 0, 1, 3) == ["/dev/md127: degraded: members 2 are missing"]
    assert warnings("spare-raid1") == []
    stale = warnings("stale-raid6")
    assert stale[0].startswith("/dev/sdb: not used for /dev/md127: it is stale, removed from the array ")
    assert stale[2] == "/dev/md127: degraded: members 1, 3 are missing"
    assert warnings("rebuild-raid5", 1, 2, 3)[0] == "/dev/sdd: not used for /dev/md127: it is being rebuilt"
    assert warnings("badblocks-raid1")[0] == "/dev/sda: not used for /dev/md127: it has bad blocks"
    assert "bad blocks" in warnings("badblocks-raid5", 0, 1)[0]
    assert not assembled("badblocks-raid5", (0, 1)).volumes
    assert "not stopped" in warnings("dirty-raid5", 1, 2)[-1]
    assert warnings("dirty-raid5") == []
    members = volume_images.members("raid1-1.0", (0, 1))
    twice = assemble([*members, Member("/dev/sdx", members[0].device)], Keys())
    assert twice.warnings[0] == "/dev/sdx: the same member of /dev/md127 as /dev/sda, and not used"


def test_a_member_left_far_behind_is_not_used() -> None:
    """Older copies of members that still count themselves in: the superblocks alone tell."""
    old = volume_images.members("stale-raid1", (1,))[0]
    image = bytearray(volume_images.images("stale-raid1")[0])
    roles = 4096 + 256
    assert image[roles : roles + 4] == b"\x00\x00\xfe\xff"
    image[roles : roles + 4] = b"\x00\x00\x01\x00"  # as if the newest one had not noticed
    checksum_1(image, 4096)
    assembly = assemble([Member("/dev/sda", MemoryDevice(bytes(image))), old], Keys())
    assert digest(assembly) == volume_images.reads("stale-raid1")[0,]["/dev/md127"]
    assert "it is stale, " in assembly.warnings[0]


def test_a_journal_with_data_that_was_not_written_yet() -> None:
    members = volume_images.members("journal-dirty")
    assert digest(assemble(members, Keys()))
    blank = [
        Member(name, MemoryDevice(bytes(device.read(0, 65536)) + bytes(device.size - 65536)))
        for name, device in members
    ]
    assembly = assemble([*blank[:3], members[3]], Keys())
    assert not assembly.volumes
    assert assembly.warnings == ["/dev/md127: the journal has data that was not written yet"]


@pytest.mark.parametrize("name", ["raid1-0.90", "raid1-1.0", "raid1-1.1", "raid1-1.2", "raid6-0.90", "raid10-f2-5"])
def test_identity_as_blkid_has_it(run: Run, tmp_path: Path, name: str) -> None:
    image = tmp_path / "member"
    image.write_bytes(volume_images.images(name)[0])
    check_identity(run, image)


@pytest.mark.parametrize("name", ["mdraid", "mdraid-1"])
def test_identity_of_other_images(run: Run, tmp_path: Path, shared: Path, name: str) -> None:
    import lzma

    image = tmp_path / "member"
    image.write_bytes(lzma.decompress((shared / f"blkid/images-fs/{name}.img.xz").read_bytes()))
    check_identity(run, image)


def check_identity(run: Run, image: Path) -> None:
    lines = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())
    identity = FileSystem.identify(MemoryDevice(image.read_bytes()))
    assert identity is not None
    assert identity._asdict() == {
        key: lines.get(f"ID_FS_{key.upper()}") for key in ("type", "usage", "version", "label", "uuid")
    }


def test_a_big_endian_superblock() -> None:
    """Version 0.90 is in the byte order of its machine: every word of 32 bits turned, and the halves of events."""
    swapped = []
    for name, device in volume_images.members("raid5-0.90"):
        image = bytearray(device.read(0, device.size))
        at = device.size // 65536 * 65536 - 65536
        words = array("I", image[at : at + 4096])
        words[39], words[40], words[41], words[42] = words[40], words[39], words[42], words[41]
        words.byteswap()
        image[at : at + 4096] = words.tobytes()
        swapped.append(Member(name, MemoryDevice(bytes(image))))
    assert FileSystem.identify(swapped[0].device) == FileSystem.identify(volume_images.members("raid5-0.90")[0].device)
    for wanted, read in volume_images.reads("raid5-0.90").items():
        assert digest(assemble([swapped[number] for number in wanted], Keys())) == read["/dev/md127"]


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("raid5-0.90", 2097152 + 4 * 7, b"\x06", "checksum"),
        ("raid1-1.0", -8192, None, "checksum"),
        ("raid1-1.2", 4096 + 8, struct.pack("<I", 1 << 13), "features 0x2000"),
        ("raid1-1.2", 4096 + 72, struct.pack("<i", -4), "multipath"),
        ("raid1-1.2", 4096 + 72, struct.pack("<i", 7), "level 7"),
        ("raid1-1.2", 4096 + 92, struct.pack("<I", 0), "raid_disks"),
        ("raid1-1.2", 4096 + 80, struct.pack("<Q", 1 << 50), "no 576460752303423488 bytes of data"),
        ("raid1-1.2", 4096 + 128, struct.pack("<Q", 1 << 40), "bytes of data at"),
        ("raid1-1.2", 4096 + 220, struct.pack("<I", 5000), "max_dev is 5000"),
        ("raid5-left-symmetric", 4096 + 88, struct.pack("<I", 0), "chunk_size is 0"),
        ("raid5-left-symmetric", 4096 + 88, struct.pack("<I", 24), "chunk_size is 12288"),
        ("raid5-left-symmetric", 4096 + 76, struct.pack("<I", 77), "layout 77 of RAID5"),
        ("raid10-n2-4", 4096 + 76, struct.pack("<I", 0x0701), "layout 0x701 for 4 members"),
        ("raid10-n2-4", 4096 + 76, struct.pack("<I", 0x80102), "layout 0x80102 of RAID10"),
        ("raid0-zones", 4096 + 8, struct.pack("<I", 0), "unknown layout"),
    ],
)
def test_superblocks_that_lie(name: str, at: int, value: bytes | None, message: str) -> None:
    changed = []
    for member, device in volume_images.members(name):
        image = bytearray(device.read(0, device.size))
        if value is None:
            image[device.size // 4096 * 4096 + at + 200] ^= 1
        else:
            image[at : at + len(value)] = value
            if at < 8192 and "max_dev" not in message:
                checksum_1(image, 4096)
        changed.append(Member(member, MemoryDevice(bytes(image))))
    assembly = assemble(changed, Keys())
    assert not assembly.volumes
    assert message in assembly.warnings[-1]


def checksum_1(image: bytearray, at: int) -> None:
    (max_dev,) = struct.unpack_from("<I", image, at + 220)
    image[at + 216 : at + 220] = bytes(4)
    covered = image[at : at + 256 + 2 * max_dev]
    total = sum(array("I", covered + bytes(len(covered) % 4)))
    struct.pack_into("<I", image, at + 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)


def test_two_arrays_in_a_machine(run: Run, tmp_path: Path) -> None:
    """Members of 0.90 and 1.0 begin with what their array holds, and are members all the same."""
    filesystem = tmp_path / "ext4"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("on an array\n")
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", filesystem, "1M")
    images = []
    for name in ("raid1-0.90", "raid1-1.0"):
        for number in (0, 1):
            images.append(tmp_path / f"{name}-{number}")
            images[-1].write_bytes(filesystem.read_bytes() + volume_images.images(name)[number][1 << 20 :])
    with Machine.open(*images) as machine:
        assert machine.parents("/dev/md127") == ("/dev/sda", "/dev/sdb")
        assert machine.parents("/dev/md126") == ("/dev/sdc", "/dev/sdd")
        for disk in ("/dev/sda", "/dev/sdd"):
            identity = machine.identity(disk)
            assert identity is not None
            assert identity.type == "linux_raid_member"
        for device in ("/dev/md127", "/dev/md126"):
            assert machine.filesystem(device).read_text("/file") == "on an array\n"
        assert machine.all_warnings() == ["/dev/md126: degraded: members 2 are missing"]


@pytest.mark.parametrize("name", ["raid5-0.90", "raid6-left-symmetric", "raid10-f2-4", "raid0-zones", "journal"])
def test_mutants(fuzz: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUESTCTL_FUZZ_SECONDS", str(float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 5))
    others = volume_images.members(name)
    image = volume_images.images(name)[-1]
    place = find_superblock(MemoryDevice(image))
    assert place is not None

    def look(mutant: bytearray) -> None:
        assembly = assemble([*others[:-2], Member("/dev/sdx", MemoryDevice(mutant))], Keys())
        assert assembly.volumes or assembly.warnings
        for volume in assembly.volumes:
            for offset in (0, max(0, volume.device.size - 70_000)):
                volume.device.read(offset, min(70_000, volume.device.size - offset))

    def seal(mutant: bytearray) -> None:
        if place.version == "0.90":
            words = array("I", mutant[place.offset : place.offset + 4096])
            words[38] = 0
            total = sum(words)
            struct.pack_into("<I", mutant, place.offset + 152, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
        elif struct.unpack_from("<I", mutant, place.offset + 220)[0] <= 1920:
            checksum_1(mutant, place.offset)

    starts = [place.offset, place.offset + 64, place.offset + 128, place.offset + 200]
    places = [range(start, start + 64) for start in starts]
    if name == "journal":
        tail = (
            struct.unpack_from("<Q", image, place.offset + 152)[0]
            + struct.unpack_from("<Q", image, place.offset + 128)[0]
        )
        places.append(range(tail * 512, tail * 512 + 300))
    fuzz(image, look, places=places, seal=seal)
