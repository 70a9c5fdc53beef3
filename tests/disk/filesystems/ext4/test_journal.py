"""Journals of real dirty filesystems, replayed as the kernel and e2fsck replay them."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl.block.device import BlockDevice, MemoryDevice
from guestctl.block.file import FileDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.ext4 import journal
from guestctl.disk.filesystems.ext4.journal import Replay

Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
MAGIC = 0xC03B3998
UUID = bytes(16)

# What recovery changes in the superblock besides the log's content: (offset, length).
EXEMPT = (
    (0x0C, 8),  # s_free_blocks_count_lo, s_free_inodes_count: brought up to date at mount
    (0x2C, 10),  # s_mtime, s_wtime, s_mnt_count
    (0x3A, 2),  # s_state, where the journal records an error
    (0x60, 4),  # s_feature_incompat: needs_recovery
    (0x178, 8),  # s_kbytes_written
    (0x3FC, 4),  # s_checksum
)


class Image:
    """An image of a filesystem, with its journal in a file of its own."""

    def __init__(self, path: Path, run: Run, block_size: int) -> None:
        self.path = path
        self.run = run
        self.block_size = block_size
        self.journal = path.with_name(path.name + ".journal")
        self.debugfs(f"dump <8> {self.journal}")

    def debugfs(self, command: str) -> str:
        return self.run("debugfs", "-R", command, self.path)

    def features(self) -> str:
        found = re.search(r"^Journal features: *(.*)$", self.run("dumpe2fs", "-h", self.path), re.MULTILINE)
        assert found
        return found[1]

    def log(self) -> str:
        return self.debugfs("logdump -a")

    def copy(self, name: str) -> Path:
        target = self.path.with_suffix(name)
        self.run("cp", "--sparse=always", self.path, target)
        return target

    def patched(self, patches: list[tuple[int, int, bytes]]) -> Image:
        """A copy in which (block of the journal, offset, bytes) are different."""
        target = self.copy(".patched")
        with target.open("r+b") as file:
            for block, offset, change in patches:
                file.seek(int(self.debugfs(f"bmap <8> {block}")) * self.block_size + offset)
                file.write(change)
        return Image(target, self.run, self.block_size)

    def replay(self) -> Replay | None:
        with FileDevice.open(self.journal) as log:
            return journal.replay(FileDevice.open(self.path), log, block_size=self.block_size, uuid=UUID)

    def journal_blocks(self) -> set[int]:
        return set(map(int, self.debugfs("blocks <8>").split()))


def e2fsck(image: Image) -> Path:
    """The image after recovery by e2fsck."""
    target = image.copy(".e2fsck")
    image.run("e2fsck", "-E", "journal_only", "-p", target)
    return target


def differing(image: Image, one: bytes, other: bytes) -> set[int]:
    """Blocks that differ, without the journal and the exempt fields of the superblock."""
    assert len(one) == len(other)
    size = image.block_size
    blocks = set()
    for start in range(0, len(one), 1 << 20):
        if one[start : start + (1 << 20)] != other[start : start + (1 << 20)]:
            for at in range(start, min(start + (1 << 20), len(one)), size):
                if one[at : at + size] != other[at : at + size]:
                    blocks.add(at // size)
    blocks -= image.journal_blocks()
    first = 1024 // size
    if first in blocks and without_exempt(one) == without_exempt(other):
        blocks.remove(first)
    return blocks


def without_exempt(data: bytes) -> bytes:
    superblock = bytearray(data[1024:2048])
    for offset, length in EXEMPT:
        superblock[offset : offset + length] = bytes(length)
    return bytes(superblock)


def same_as(image: Image, replayed: Replay, truth: Path) -> set[int]:
    """Blocks that recovery changed, after checking that ours are the same."""
    expected = truth.read_bytes()
    overlay = replayed.overlay
    assert differing(image, bytes(overlay.read(0, overlay.size)), expected) == set()
    return differing(image, image.path.read_bytes(), expected)


# Dirty filesystems made by the kernel


class Variant(NamedTuple):
    format: tuple[str, ...]
    mount: str = ""
    features: str = ""


VARIANTS = {
    "ext3": Variant(("-t", "ext3", "-b", "1024")),
    "ext3 with data": Variant(("-t", "ext3", "-b", "1024"), ",data=journal"),
    "ext4": Variant(("-t", "ext4", "-b", "1024"), "", "journal_64bit journal_checksum_v3"),
    "ext4 with data": Variant(("-t", "ext4", "-b", "1024"), ",data=journal", "journal_checksum_v3"),
    "no checksums": Variant(("-t", "ext4", "-b", "1024", "-O", "^metadata_csum"), "", "journal_64bit"),
    "32 bits": Variant(("-t", "ext4", "-b", "1024", "-O", "^64bit"), "", "journal_checksum_v3"),
    "checksums v1": Variant(
        ("-t", "ext4", "-b", "1024", "-O", "^metadata_csum"), ",journal_checksum", "journal_checksum "
    ),
    "asynchronous": Variant(
        ("-t", "ext4", "-b", "1024", "-O", "^metadata_csum"),
        ",journal_async_commit,journal_checksum,data=writeback",
        "journal_async_commit",
    ),
}


def wraps(log: str) -> bool:
    blocks = list(map(int, re.findall(r"(?:at|journal) block (\d+)", log)))
    return any(after < before for before, after in itertools.pairwise(blocks))


def live(root: Path, snapshot: Callable[[], bool]) -> None:
    """Work that fills the log again and again: until `snapshot` has what it wants."""

    def commit() -> None:
        descriptor = os.open(root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    for turn in range(40):
        (root / "directories").mkdir()
        for number in range(60):
            (root / "directories" / str(number)).mkdir()
        (root / "directories" / "name").write_bytes(b"x")
        os.setxattr(root / "directories" / "name", "user.attribute", b"value" * 60)
        commit()
        shutil.rmtree(root / "directories")
        commit()
        # The blocks of those directories come back as data, which must not be overwritten.
        with (root / f"data-{turn}").open("wb") as file:
            file.write(struct.pack(">I", MAGIC) * (256 * 120))
            os.fsync(file.fileno())
        if turn >= 8:
            (root / f"data-{turn - 8}").unlink()
        (root / f"data-{turn}").rename(root / f"data-{turn}").chmod(0o600)
        commit()
        if snapshot():
            return
    raise AssertionError("the log never became what the test needs")


@pytest.mark.root
@pytest.mark.parametrize("name", VARIANTS)
def test_as_the_kernel_recovers(name: str, run: Run, mount: Mount, tmp_path: Path) -> None:
    """A log that wraps around, with revocations; with escaped blocks instead where all data is in it."""
    variant = VARIANTS[name]
    wanted = r"flags 0x[139b]\b" if "data=journal" in variant.mount else "Revoke FS"
    disk, image = tmp_path / "disk", tmp_path / "image"
    with disk.open("wb") as file:
        file.truncate(24 << 20)
    run("mke2fs", "-q", "-F", *variant.format, "-J", "size=1", disk)
    with mount(disk, "rw,loop" + variant.mount) as root:

        def snapshot() -> bool:
            run("cp", "--sparse=always", disk, image)
            log = run("debugfs", "-R", "logdump -a", image)
            return wraps(log) and re.search(wanted, log) is not None

        live(root, snapshot)
    dirty = Image(image, run, 1024)
    assert variant.features in dirty.features() + " "
    log = dirty.log()
    replayed = dirty.replay()
    assert replayed is not None
    assert replayed.warnings == []
    assert replayed.transactions == log.count("commit block)")
    target = dirty.copy(".kernel")
    with mount(target, "rw,loop"):
        pass
    assert len(same_as(dirty, replayed, target)) > 10
    same_as(dirty, replayed, e2fsck(dirty))
    logged = set(map(int, re.findall(r"FS block (\d+) logged", log)))
    if wanted == "Revoke FS":
        assert logged & set(map(int, re.findall(r"Revoke FS block (\d+)", log)))
        assert replayed.blocks < len(logged)
    else:
        assert replayed.blocks == len(logged)


# Journals written by debugfs


def scattered(count: int, seed: int, size: int = 1024, start: bytes = b"") -> bytes:
    """Blocks that carry their own number."""
    blocks = (struct.pack("<HH", seed, number) * (size // 4) for number in range(count))
    return b"".join(start + block[len(start) :] for block in blocks)


def numbers(first: int, count: int) -> str:
    return ",".join(str(first + number) for number in range(count))


def written(run: Run, path: Path, features: str = "", checksums: str = "", size: int = 1024) -> Image:
    """Four transactions and one without a commit: many blocks, escaped ones, a revocation, a revoked block again."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(size), *(("-O", features) if features else ()), path)
    data = {
        "many": scattered(80, 1, size),
        "escaped": scattered(10, 2, size, struct.pack(">I", MAGIC)),
        "three": scattered(3, 3, size),
    }
    for name, content in data.items():
        path.with_suffix("." + name).write_bytes(content)
    commands = [
        f"journal_open {checksums}",
        f"journal_write -b {numbers(3000, 80)} {path.with_suffix('.many')}",
        f"journal_write -b {numbers(3005, 10)} {path.with_suffix('.escaped')}",
        "journal_write -r 3007,3030,3031,2999",
        f"journal_write -b 3007,3040,3500 {path.with_suffix('.three')}",
        f"journal_write -b 3050,3051,3052 -c {path.with_suffix('.three')}",
        "journal_close",
    ]
    run("debugfs", "-w", path, input="\n".join(commands) + "\n")
    return Image(path, run, size)


class Written(NamedTuple):
    features: str
    checksums: str = ""
    block_size: int = 1024
    journal: str = ""


WRITTEN = {
    "64 bits": Written("64bit,metadata_csum", journal="journal_64bit"),
    "64 bits, blocks of 4 KiB": Written("64bit,metadata_csum", block_size=4096, journal="journal_64bit"),
    "32 bits": Written("^64bit,^metadata_csum"),
    "32 bits, v2": Written("^64bit,metadata_csum", "-c -v 2", journal="journal_checksum_v2"),
    "64 bits, v2": Written("64bit,metadata_csum", "-c -v 2", journal="journal_64bit journal_checksum_v2"),
    "32 bits, v3": Written("^64bit,metadata_csum", "-c -v 3", journal="journal_checksum_v3"),
    "64 bits, v3": Written("64bit,metadata_csum", "-c -v 3", journal="journal_64bit journal_checksum_v3"),
    "32 bits, v3, blocks of 4 KiB": Written("^64bit,metadata_csum", "-c -v 3", 4096, "journal_checksum_v3"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_as_e2fsck_recovers(name: str, run: Run, tmp_path: Path) -> None:
    variant = WRITTEN[name]
    image = written(run, tmp_path / "image", *variant[:3])
    assert image.features() == f"journal_incompat_revoke {variant.journal}".strip()
    replayed = image.replay()
    assert replayed is not None
    assert (replayed.transactions, replayed.blocks, replayed.warnings) == (4, 79, [])
    changed = same_as(image, replayed, e2fsck(image))
    assert changed == {*range(3000, 3080), 3500} - {3030, 3031}
    size = image.block_size
    assert replayed.overlay.read(3005 * size, 4) == struct.pack(">I", MAGIC)
    assert replayed.overlay.read(3007 * size, size) == scattered(1, 3, size)


def test_checksum_v1_of_a_revocation(run: Run, tmp_path: Path) -> None:
    """debugfs counts the revocation block in, which the kernel does not: the log ends before it, there as here."""
    image = written(run, tmp_path / "image", "^64bit,^metadata_csum", "-c -v 1")
    assert image.features() == "journal_checksum journal_incompat_revoke"
    replayed = image.replay()
    assert replayed is not None
    assert replayed.transactions == 2
    assert replayed.warnings == ["the commit block of transaction 3 has a bad checksum: the log ends before it"]
    assert len(same_as(image, replayed, e2fsck(image))) == 80


def test_nothing_to_replay(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", path)
    assert Image(path, run, 4096).replay() is None


# Damage. In the journals without checksums of blocks, transactions begin at blocks 1, 83, 95 and 97
# and have their commit blocks at 82, 94, 96 and 101. In the one with checksums they begin at 1 (with
# a second descriptor at 64), 84, 96 and 98 and have their commit blocks at 83, 95, 97 and 102.


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return written(run, tmp_path_factory.mktemp("plain") / "image", "^64bit,^metadata_csum")


@pytest.fixture(scope="module")
def checked(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return written(run, tmp_path_factory.mktemp("checked") / "image", "64bit,metadata_csum", "-c -v 3")


@pytest.fixture(scope="module")
def wide(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return written(run, tmp_path_factory.mktemp("wide") / "image", "64bit,^metadata_csum")


@pytest.fixture(scope="module")
def summed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return written(run, tmp_path_factory.mktemp("summed") / "image", "^64bit,^metadata_csum", "-c -v 1")


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


# Every sequence number up by this much: the log passes 0.
SHIFT = 0xFFFFFFFD
SHIFTED = [(1, 1), (82, 1), (83, 2), (94, 2), (95, 3), (96, 3), (97, 4), (101, 4), (102, 5)]


class Damage(NamedTuple):
    """``transactions`` and ``blocks`` that are replayed, or None where the journal is refused."""

    patches: list[tuple[int, int, bytes]]
    transactions: int | None
    blocks: int = 0
    mounts: bool = True  # the kernel mounts it
    warning: str | None = None


REFUSED = Damage([], None, mounts=False)
PLAIN = {
    "none": Damage([], 4, 79),
    "s_blocksize": REFUSED._replace(patches=[(0, 0x0C, u32(4096))]),
    "s_maxlen": REFUSED._replace(patches=[(0, 0x10, u32(1025))]),
    "s_first zero": REFUSED._replace(patches=[(0, 0x14, u32(0))]),
    "s_first at the end": REFUSED._replace(patches=[(0, 0x14, u32(1024))]),
    "s_start at the end": REFUSED._replace(patches=[(0, 0x1C, u32(1024))]),
    "s_start past the end": REFUSED._replace(patches=[(0, 0x1C, u32(0xFFFFFFFF))]),
    "s_start in the middle": Damage([(0, 0x18, u32(2, 83))], 3, 12),
    "s_start of nothing": Damage([(0, 0x1C, u32(500))], 0),
    "s_sequence": Damage([(0, 0x18, u32(9))], 0),
    "s_errno": Damage([(0, 0x20, u32(5))], 4, 79, warning="the journal records error 5 of the filesystem"),
    "compat unknown": Damage([(0, 0x24, u32(0x80))], 4, 79),
    "incompat unknown": REFUSED._replace(patches=[(0, 0x28, u32(0x40))]),
    "ro_compat unknown": REFUSED._replace(patches=[(0, 0x2C, u32(1))]),
    "superblock v1": Damage([(0, 4, u32(3)), (0, 0x24, bytes(12))], 4, 79),
    "superblock v5": REFUSED._replace(patches=[(0, 4, u32(5))]),
    "superblock without magic": REFUSED._replace(patches=[(0, 0, b"\0")]),
    "other UUID": Damage([(0, 0x30, u32(1, 2, 3, 4))], 4, 79),
    "many users": Damage([(0, 0x40, u32(9999))], 4, 79),
    "descriptor without magic": Damage([(83, 0, b"\0")], 1, 80),
    "descriptor with other sequence": Damage([(83, 8, u32(3))], 1, 80),
    "descriptor of unknown type": Damage([(83, 4, u32(7))], 1, 80),
    "commit with other sequence": Damage([(94, 8, u32(9))], 1, 80),
    "commit of unknown type": Damage([(94, 4, u32(4))], 1, 80),
    "commit from the future": Damage([(94, 0x34, b"\x7f")], 4, 79),
    "tag deleted": Damage([(1, 0x12, b"\0\4")], 4, 79),
    "tag not escaped": Damage([(83, 0x12, b"\0\0")], 4, 79),
    "tag last too early": Damage([(1, 36 + 6, b"\0\x0a")], 0),
    "tag with another UUID": Damage([(83, 12, u32(3005, 1, 9, 9, 9, 9))], 4, 79),
    "tag just past the end": REFUSED._replace(patches=[(1, 12, u32(16384))]),
    "tag far past the end": REFUSED._replace(patches=[(1, 12, u32(0xFFFFFFFF))]),
    "tag at the end": Damage([(1, 12, u32(16383))], 4, 79),
    "past the end, but revoked": Damage([(1, 12, u32(99999)), (95, 16, u32(99999))], 4, 78),
    "past the end, not committed": Damage([(102, 12, u32(99999))], 4, 79),
    "r_count small": Damage([(95, 12, u32(3))], 4, 81),
    "r_count of one": Damage([(95, 12, u32(20))], 4, 81),
    "r_count ends in a record": Damage([(95, 12, u32(27))], 4, 80),
    "r_count too large": REFUSED._replace(patches=[(95, 12, u32(1025))]),
    "revocation of the transaction's own block": Damage([(94, 4, u32(5, 2, 20, 3005)), (95, 4, u32(2, 2))], 4, 80),
    "revocation in the last transaction": Damage([(102, 4, u32(5, 5, 20, 3500)), (103, 0, u32(MAGIC, 2, 5))], 5, 78),
    "sequence wraps around": Damage(
        [(0, 0x18, u32(1 + SHIFT)), *((block, 8, u32(tid + SHIFT & 0xFFFFFFFF)) for block, tid in SHIFTED)], 4, 79
    ),
}
COMMIT_2 = "the commit block of transaction 2 has a bad checksum: the log ends before it"
CHECKED = {
    "none": Damage([], 4, 79),
    "superblock": REFUSED._replace(patches=[(0, 0x20, u32(5))]),
    "checksum type": REFUSED._replace(patches=[(0, 0x50, b"\1")]),
    "two versions": REFUSED._replace(patches=[(0, 0x2B, b"\x1b")]),
    "descriptor": REFUSED._replace(patches=[(64, 700, b"\x55")]),
    "first descriptor": REFUSED._replace(patches=[(1, 12, b"\x55")]),
    "revocation": REFUSED._replace(patches=[(96, 500, b"\x55")]),
    "descriptor without a commit": Damage([(103, 500, b"\x55")], 4, 79),
    "older than the transaction before": Damage([(84, 500, b"\x55"), (95, 0x30, bytes(8))], 1, 80),
    "data": Damage([(2, 300, b"\x55")], 4, 78, False, "1 blocks of the journal have a bad checksum and are left out"),
    "newest data": Damage([(99, 9, b"\x55")], 4, 78, False, "first is for block 3007"),
    "data of a copy that is not the newest": Damage([(42, 9, b"\x55")], 4, 79, False, "first is for block 3040"),
    "revoked data": Damage([(32, 9, b"\x55")], 4, 79),
    "commit": Damage([(95, 30, b"\x55")], 1, 80, False, COMMIT_2),
    "commit older than the one before": Damage([(95, 0x30, bytes(8))], 1, 80),
    "commit of which one sector was written": Damage([(95, 512, b"\x55" * 512)], 4, 79),
    "last commit": Damage([(102, 30, b"\x55")], 3, 77, False, "transaction 4 has a bad checksum"),
}


WIDE = {
    "tag of a block past 32 bits": REFUSED._replace(patches=[(97, 20, u32(1))]),
    "revocation of a block past 32 bits": Damage([(95, 24, u32(1))], 4, 80),
}
COMMIT_1 = "the commit block of transaction 1 has a bad checksum: the log ends before it"
SUMMED = {
    "data": Damage([(50, 9, b"\x55")], 0, 0, False, COMMIT_1),
    "descriptor": Damage([(1, 1000, b"\x55")], 0, 0, False, COMMIT_1),
    "commit": Damage([(82, 0x10, b"\x55")], 0, 0, False, COMMIT_1),
    "checksum type": Damage([(82, 0x0C, b"\4")], 0, 0, False, COMMIT_1),
    "checksum not used": Damage([(50, 9, b"\x55"), (82, 0x0C, bytes(8)), (96, 0x0C, bytes(8))], 4, 79),
}
SOURCES = {"plain": PLAIN, "checked": CHECKED, "wide": WIDE, "summed": SUMMED}


@pytest.mark.root
@pytest.mark.parametrize(("source", "case"), [(source, case) for source in SOURCES for case in SOURCES[source]])
def test_damage_as_the_kernel_meets_it(
    source: str, case: str, request: pytest.FixtureRequest, run: Run, mount: Mount, tmp_path: Path
) -> None:
    damage = SOURCES[source][case]
    image = request.getfixturevalue(source).patched(damage.patches)
    target = image.copy(".kernel")
    try:
        with mount(target, "rw,loop"):
            mounts = True
    except AssertionError:
        mounts = False
    assert mounts == damage.mounts
    if damage.transactions is None:
        with pytest.raises((InvalidFormat, UnsupportedFeature)):
            image.replay()
        return
    replayed = image.replay()
    assert replayed is not None
    assert (replayed.transactions, replayed.blocks) == (damage.transactions, damage.blocks)
    assert len(replayed.warnings) == (damage.warning is not None)
    assert damage.warning is None or damage.warning in replayed.warnings[0]
    same_as(image, replayed, target)


def read(image: Image) -> bytearray:
    return bytearray(image.journal.read_bytes())


def replay(log: bytes | bytearray, *, size: int = 1024, blocks: int = 16384, uuid: bytes = UUID) -> Replay | None:
    """Over a device of zeros."""
    return journal.replay(MemoryDevice(bytes(blocks * size)), MemoryDevice(log), block_size=size, uuid=uuid)


@pytest.mark.parametrize(
    ("source", "block", "offset", "change", "kind", "structure"),
    [
        ("plain", 0, 0x00, b"\0", InvalidFormat, "journal superblock"),
        ("plain", 0, 0x07, b"\2", InvalidFormat, "journal superblock"),
        ("plain", 0, 0x0E, b"\x10", InvalidFormat, "journal superblock"),
        ("plain", 0, 0x12, b"\5", InvalidFormat, "journal superblock"),
        ("plain", 0, 0x17, b"\0", InvalidFormat, "journal superblock"),
        ("plain", 0, 0x1E, b"\4", InvalidFormat, "journal superblock"),
        ("checked", 0, 0x23, b"\1", ChecksumMismatch, "journal superblock"),
        ("checked", 64, 0x80, b"\1", ChecksumMismatch, "journal descriptor block"),
        ("checked", 96, 0x80, b"\1", ChecksumMismatch, "journal revocation block"),
        ("plain", 95, 0x0E, b"\5", InvalidFormat, "journal revocation block"),
        ("plain", 97, 0x0D, b"\1", InvalidFormat, "journal data block"),
    ],
)
def test_one_byte_changed(
    source: str,
    block: int,
    offset: int,
    change: bytes,
    kind: type[InvalidFormat],
    structure: str,
    request: pytest.FixtureRequest,
) -> None:
    log = read(request.getfixturevalue(source))
    assert replay(log) is not None
    log[block * 1024 + offset : block * 1024 + offset + 1] = change
    with pytest.raises(kind) as caught:
        replay(log)
    at = block + 1 if structure == "journal data block" else block
    assert (type(caught.value), caught.value.structure, caught.value.offset) == (kind, structure, at * 1024)


@pytest.mark.parametrize("bit", range(6, 32))
def test_unknown_features_are_named(plain: Image, bit: int) -> None:
    log = read(plain)
    log[0x28:0x2C] = u32(1 << bit)
    with pytest.raises(UnsupportedFeature) as caught:
        replay(log)
    assert caught.value.feature == f"incompat {1 << bit:#x}"


def test_cut_off(plain: Image) -> None:
    log = read(plain)
    for length in (0, 1, 4, 1023, 1024, 2048, len(log) - 1):
        with pytest.raises(InvalidFormat, match="journal superblock"):
            replay(log[:length])


def test_log_without_an_end(plain: Image) -> None:
    """A descriptor whose blocks fill the ring leads back to itself."""
    log = read(plain)
    log[0x10:0x18] = u32(82, 1)
    replayed = replay(log)
    assert replayed is not None
    assert (replayed.transactions, replayed.blocks) == (0, 0)
    assert replayed.warnings == ["transaction 1 of the journal goes round in circles and is left out"]


class Endless(BlockDevice):
    """The same unit again and again behind the first block, as a journal inode can map it."""

    def __init__(self, superblock: bytes, block: bytes, blocks: int) -> None:
        self.size = blocks * 1024
        self._superblock = superblock
        self._unit = block * 1024

    def read(self, offset: int, length: int) -> bytes:
        data = self._unit[:length]
        return self._superblock[:length] + data[len(self._superblock) :] if not offset else data


@pytest.mark.parametrize("kind", [1, 5])
def test_logs_of_any_length_are_refused_in_time(kind: int) -> None:
    blocks = 1 << 31
    superblock = (u32(MAGIC, 4, 0, 1024, blocks, 1, 1, 1)).ljust(1024, b"\0")
    block = u32(MAGIC, kind, 1, 1024) + u32(*range(252)) if kind == 5 else u32(MAGIC, kind, 1) + u32(7, 2) * 126
    begin = time.monotonic()
    with pytest.raises(UnsupportedFeature, match="journal to replay"):
        journal.replay(
            MemoryDevice(b""), Endless(superblock, block.ljust(1024, b"\0"), blocks), block_size=1024, uuid=UUID
        )
    assert time.monotonic() - begin < 20


def test_revocations_without_end_are_refused(plain: Image) -> None:
    """65,536 blocks of 250 records."""
    superblock = u32(MAGIC, 4, 0, 1024, 70000, 1, 1, 1).ljust(1024, b"\0")
    unit = u32(MAGIC, 5, 1, 1016, *range(250)).ljust(1024, b"\0")
    log = superblock + unit * 65536 + u32(MAGIC, 2, 1).ljust(1024, b"\0")
    with pytest.raises(UnsupportedFeature, match="revocation records"):
        replay(log.ljust(70000 * 1024, b"\0"))


@pytest.mark.root
@pytest.mark.parametrize("size", [1024, 4096])
def test_external_journal(size: int, run: Run, mount: Mount, tmp_path: Path) -> None:
    log, disk, dirty_log, dirty = (tmp_path / name for name in ("log", "disk", "dirty-log", "image"))
    for path, length in ((log, 8 << 20), (disk, 32 << 20)):
        with path.open("wb") as file:
            file.truncate(length)
    if os.geteuid():
        pytest.skip("needs root")
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", str(size), log)
    device = run("losetup", "-f", "--show", log).strip()
    try:
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(size), "-J", f"device={device}", disk)
        with mount(disk, "rw,loop") as root:
            (root / "directory").mkdir()
            for number in range(300):
                (root / "directory" / f"file-{number}").write_bytes(b"x")
            with (root / "directory" / "last").open("wb") as file:
                os.fsync(file.fileno())
            run("cp", "--sparse=always", log, dirty_log)
            run("cp", "--sparse=always", disk, dirty)
    finally:
        run("losetup", "-d", device)
    image = Image(dirty, run, size)
    image.journal = dirty_log
    found = re.search(r"UUID:\s*(\S+)", run("dumpe2fs", "-h", dirty))
    assert found
    uuid = bytes.fromhex(found[1].replace("-", ""))
    with FileDevice.open(dirty_log) as journal_device:
        replayed = journal.replay(FileDevice.open(dirty), journal_device, block_size=size, uuid=uuid)
        with pytest.raises(InvalidFormat, match="another filesystem"):
            journal.replay(FileDevice.open(dirty), journal_device, block_size=size, uuid=UUID)
    assert replayed is not None
    assert replayed.warnings == []
    target = image.copy(".kernel")
    device = run("losetup", "-f", "--show", dirty_log).strip()
    try:
        with mount(target, f"rw,loop,journal_path={device}"):
            pass
    finally:
        run("losetup", "-d", device)
    assert len(same_as(image, replayed, target)) > 10


def fast_commits(log: str) -> tuple[int, Counter[str]]:
    """What debugfs finds: complete fast commits and the changes in them."""
    names = {"CREAT_DENTRY": "CREAT", "ADD_ENTRY": "LINK", "DEL_ENTRY": "UNLINK"}
    tags = re.findall(r"^tag (\w+),", log.partition("Fast Commit Area")[2], re.MULTILINE)
    return tags.count("TAIL"), Counter(names.get(tag, tag) for tag in tags if tag not in ("HEAD", "TAIL", "PAD"))


def check_fast_commits(image: Image) -> Replay:
    replayed = image.replay()
    assert replayed is not None
    commits, changes = fast_commits(image.log())
    assert commits
    [warning] = replayed.warnings
    assert warning.startswith(f"{commits} fast commits of transaction ")
    found = re.search(r"\((.*)\)", warning)
    assert found
    assert {name: int(count) for count, name in map(str.split, found[1].split(", "))} == changes
    return replayed


@pytest.mark.root
def test_fast_commits(run: Run, mount: Mount, tmp_path: Path) -> None:
    """They are named, and what they are deltas of is as the log has it."""
    disk, path = tmp_path / "disk", tmp_path / "image"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "fast_commit", disk)
    with mount(disk, "rw,loop") as root:
        (root / "directory").mkdir()
        run("sync", "-f", root)
        for number in range(5):
            with (root / "directory" / f"file-{number}").open("wb") as file:
                file.write(b"x" * number * 5000)
                file.flush()
                os.fsync(file.fileno())
        (root / "directory" / "file-1").rename(root / "directory" / "renamed")
        with (root / "directory" / "renamed").open("r+b") as file:
            file.truncate(100)
            os.fsync(file.fileno())
        run("cp", "--sparse=always", disk, path)
    image = Image(path, run, 1024)
    assert check_fast_commits(image).transactions == image.log().count("commit block)")


def unpacked(shared: Path, name: str, path: Path) -> Path:
    with gzip.open(shared / "ext-damaged" / f"{name}-image.gz") as source, path.open("wb") as target:
        while data := source.read(1 << 20):
            # Some of these are large and sparse.
            target.seek(len(data), os.SEEK_CUR) if not any(data) else target.write(data)
        target.truncate()
    return path


def test_fast_commits_of_others(shared: Path, run: Run, tmp_path: Path) -> None:
    image = Image(unpacked(shared, "j_recover_fast_commit", tmp_path / "image"), run, 1024)
    replayed = check_fast_commits(image)
    assert (replayed.transactions, replayed.blocks) == (1, 8)


def test_many_blocks_of_others(shared: Path, run: Run, tmp_path: Path) -> None:
    image = Image(unpacked(shared, "f_jnl_64bit", tmp_path / "image"), run, 1024)
    replayed = image.replay()
    assert replayed is not None
    assert (replayed.transactions, replayed.warnings) == (image.log().count("commit block)"), [])
    assert len(same_as(image, replayed, e2fsck(image))) > 100


@pytest.mark.parametrize("name", ["j_corrupt_descr_tid", "j_corrupt_revoke_block"])
def test_damage_of_others(name: str, shared: Path, run: Run, tmp_path: Path) -> None:
    image = Image(unpacked(shared, name, tmp_path / "image"), run, 1024)
    replayed = image.replay()
    assert replayed is not None
    same_as(image, replayed, e2fsck(image))


def test_revocation_block_of_others(shared: Path, run: Run, tmp_path: Path) -> None:
    image = Image(unpacked(shared, "j_corrupt_revoke_rcount", tmp_path / "image"), run, 4096)
    with pytest.raises(InvalidFormat, match="r_count") as caught:
        image.replay()
    assert (caught.value.offset, caught.value.actual) == (4096, 65535)


DAMAGED = [
    "d_corrupt_journal_nr_users",
    "f_jnl_64bit",
    "f_jnl_errno",
    "j_corrupt_descr_tid",
    "j_corrupt_revoke_block",
    "j_corrupt_revoke_rcount",
    "j_recover_fast_commit",
]


@pytest.mark.parametrize("name", DAMAGED)
def test_an_outcome_for_each_of_others(name: str, shared: Path, run: Run, tmp_path: Path) -> None:
    """Nothing to replay where debugfs sees an empty log, and a result or an error elsewhere, in time."""
    path = unpacked(shared, name, tmp_path / "image")
    header = run("dumpe2fs", "-h", path)
    found = re.search(r"^Block size:\s*(\d+)", header, re.MULTILINE)
    assert found
    image = Image(path, run, int(found[1]))
    begin = time.monotonic()
    try:
        empty = image.replay() is None
    except GuestctlError:
        empty = False
    assert time.monotonic() - begin < 5
    assert empty == (re.search(r"^Journal start: *0$", header, re.MULTILINE) is not None)


def test_journal_of_zeros_of_others(shared: Path, run: Run, tmp_path: Path) -> None:
    image = Image(unpacked(shared, "f_jnl_etb_alloc_fail", tmp_path / "image"), run, 1024)
    with pytest.raises(InvalidFormat, match="h_magic is 0x0") as caught:
        image.replay()
    assert (caught.value.structure, caught.value.offset) == ("journal superblock", 0)


# Each pair is (block, offset): headers, tags, records, checksums and counts.
PLACES = st.tuples(
    st.sampled_from((0, 0, 0, 1, 2, 82, 83, 84, 94, 95, 96, 97, 101, 102)),
    st.one_of(st.integers(0, 0x60), st.integers(0, 1023)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=8)), max_size=6))
def test_hostile(plain: Image, changes: list[tuple[tuple[int, int], bytes]]) -> None:
    log = read(plain)
    for (block, offset), change in changes:
        at = block * 1024 + offset
        log[at : at + len(change)] = change
    try:
        replayed = replay(log[: 1 << 20], blocks=4096)
    except GuestctlError:
        return
    assert replayed is None or replayed.blocks <= 1024
