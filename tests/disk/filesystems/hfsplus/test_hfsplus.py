"""Volumes that Linux filled and xorriso made: damage, mutants, and what is refused."""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import re
import struct
import sys
import time
import zlib
from pathlib import Path

import pytest

from conftest import Run
from guestctl.block import BlockDevice, MemoryDevice
from guestctl.block.device import SliceDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.hfsplus.btree import BTree
from guestctl.disk.filesystems.hfsplus.catalog import catalog_order
from guestctl.disk.filesystems.hfsplus.compression import ZlibChunks
from guestctl.disk.filesystems.hfsplus.layout import CATALOG_KEY
from guestctl.disk.filesystems.hfsplus.names import compose, folded
from mutants import check_mutants

_ROOT = Path(__file__).parents[4]
_MOUNTED = _ROOT / "tests" / "data" / "mounted"
HEADER = 1024


@pytest.fixture(scope="module")
def filled() -> bytes:
    """What Linux filled, with blocks of 4096 bytes."""
    return lzma.decompress((_MOUNTED / "hfsplus-4096.xz").read_bytes())


def _patched(image: bytes | bytearray, offset: int, content: bytes) -> bytearray:
    data = bytearray(image)
    data[offset : offset + len(content)] = content
    return data


def _patched_record(image: bytes, path: str, place: int, content: bytes) -> bytearray:
    """With `content` in the catalog record of a file."""
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        record: bytes = filesystem._record(filesystem.resolve(path)).data  # type: ignore[attr-defined]
    return bytearray(image.replace(record, bytes(_patched(record, place, content))))


@pytest.mark.parametrize(("block_size", "node_size"), [(512, 512), (1024, 8192), (4096, 4096), (65536, 32768)])
@pytest.mark.parametrize("sensitive", [False, True])
def test_identity(run: Run, tmp_path: Path, block_size: int, node_size: int, sensitive: bool) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    words = [
        sys.executable,
        _ROOT / "tools" / "make-hfsplus",
        image,
        str(block_size),
        str(node_size),
        "a Gro\u0308ße/x",
    ]
    run(*words, *(["case-sensitive"] if sensitive else []))
    expected = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())
    identity = FileSystem.identify(MemoryDevice(image.read_bytes()))
    assert identity is not None
    assert (identity.type, identity.uuid) == (expected["ID_FS_TYPE"], expected["ID_FS_UUID"])
    assert identity.label == "a Gro\u0308ße/x" and identity.version is None
    if node_size not in (512, 32768):  # in which blkid finds no label
        label = re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), expected["ID_FS_LABEL_ENC"])
        assert label == identity.label
    with FileSystem.detect(MemoryDevice(image.read_bytes())) as filesystem:
        assert filesystem.block_size == block_size == int(expected["ID_FS_BLOCK_SIZE"])
        assert filesystem.listdir("/") == []


@pytest.fixture(scope="module")
def hybrid(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BlockDevice]:
    """A tree, and the volume that xorriso made of it: 300 names, contents of some blocks, links."""
    top = tmp_path_factory.mktemp("hybrid") / "top"
    (top / "many").mkdir(parents=True)
    for number in range(300):
        (top / "many" / f"a file with a long name {number}").write_text(f"{number}\n")
    (top / "large").write_bytes(b"".join(b"%07d\n" % number for number in range(60_000)))
    (top / "Ünïcödé").write_text("composed")
    (top / "empty").touch()
    (top / "link").symlink_to("many/../large")
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o755)
    os.utime(top / "run", (10**9, 10**9))
    image = top.parent / "image"
    run("xorriso", "-outdev", f"stdio:{image}", "-hfsplus", "on", "-map", top, "/", "-commit")
    data = image.read_bytes()
    entries = (data[offset : offset + 512] for offset in range(2048, 16384, 2048))
    entry = next(entry for entry in entries if entry[48:57] == b"Apple_HFS")
    start, count = struct.unpack_from(">II", entry, 8)
    return top, SliceDevice(MemoryDevice(data), start * 2048, count * 2048)


def test_tree_of_xorriso(hybrid: tuple[Path, BlockDevice]) -> None:
    top, device = hybrid
    with FileSystem.detect(device) as filesystem:
        assert filesystem.type == "hfsplus"
        paths = {path for path, _, _ in filesystem.find("/")}
        assert paths == {f"/{path.relative_to(top)}".removesuffix(".") for path in (top, *top.rglob("*"))}
        for path in top.rglob("*"):
            name = f"/{path.relative_to(top)}"
            status, expected = filesystem.lstat(name), path.lstat()
            assert (status.st_mode, int(status.st_mtime)) == (expected.st_mode, int(expected.st_mtime)), name
            if path.is_symlink():
                assert filesystem.readlink(name) == os.readlink(path)
            elif path.is_file():
                digest = hashlib.sha256(filesystem.read_bytes(name)).digest()
                assert digest == hashlib.sha256(path.read_bytes()).digest()
        assert filesystem.read_bytes("/üNÏCÖDÉ") == b"composed"
        assert filesystem.exists("/MANY/A File with a long name 299") and not filesystem.exists("/many/300")


def test_names() -> None:
    assert compose("e\u0301x") == "éx" and compose("\u1112\u1161\u11ab") == "한"
    assert compose("\u2126") == "\u2126"  # has another form, which is not of two parts
    assert compose("a\u0323\u0302") == "\u1ead"
    assert folded("ÜNÏ\u200d") == folded("u\u0308ni\u0308") == folded("üNï")
    assert folded("straße") != folded("STRASSE") and folded("ΑΩЖ") == folded("αωж")


def test_alternate_header(filled: bytes) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        assert filesystem.warnings == []
        expected = filesystem.read_bytes("/fragmented")
    with FileSystem.detect(MemoryDevice(_patched(filled, HEADER + 40, bytes(4)))) as filesystem:
        assert "alternate" in filesystem.warnings[0]
        assert filesystem.exists("/") and filesystem.uuid
    not_unmounted = _patched(filled, HEADER + 6, b"\0")
    with FileSystem.detect(MemoryDevice(not_unmounted)) as filesystem:
        assert filesystem.warnings == ["the volume was not unmounted"]
        assert filesystem.read_bytes("/fragmented") == expected


def test_wrapper(filled: bytes) -> None:
    """HFS around it: allocation blocks of 4096 bytes from sector 5 on, of which the volume has those from 3 on."""
    block = struct.pack(">2s18xI4xH94x2sHH", b"BD", 4096, 5, b"H+", 3, len(filled) // 4096)
    image = bytes(1024) + block.ljust(5 * 512 + 3 * 4096 - 1024, b"\0") + filled
    identity = FileSystem.identify(MemoryDevice(image))
    assert identity == FileSystem.identify(MemoryDevice(filled))
    with FileSystem.detect(MemoryDevice(image)) as filesystem:
        assert filesystem.read_bytes("/size-513").startswith(b"513 bytes\n")
        with pytest.raises(UnsupportedFeature, match="wrapper"):
            list(filesystem.free_ranges())
    with pytest.raises(UnsupportedFeature, match="hfs"):
        FileSystem.detect(MemoryDevice(_patched(image, 1024 + 124, b"\0\0")))


def _checksum(data: bytes | bytearray) -> int:
    """TN1150, calc_checksum."""
    total = 0
    for byte in data:
        total = ((total << 8) ^ (total + byte)) & 0xFFFFFFFF
    return ~total & 0xFFFFFFFF


def _block_list(order: str, blocks: list[tuple[int, bytes]], *, continues: bool = False) -> bytes:
    """With a header of 1024 bytes, for sectors of 512."""
    used = 1024 + sum(len(content) for _, content in blocks)
    infos = struct.pack(order + "QII", 0, 0, continues)
    infos += b"".join(struct.pack(order + "QII", place, len(content), 0) for place, content in blocks)
    head = struct.pack(order + "HHIII", 63, len(blocks) + 1, used, 0, 0) + infos
    head = head[:8] + struct.pack(order + "I", _checksum(head[:32])) + head[12:]
    return head.ljust(1024, b"\0") + b"".join(content for _, content in blocks)


def _journaled(image: bytes, order: str, lists: list[bytes], start: int, size: int = 1 << 16) -> bytearray:
    """`image` with a journal in its last blocks, whose ring has the block lists from `start` on."""
    info = len(image) // 4096 - 40
    data = _patched(image, HEADER + 4, struct.pack(">I", 1 << 13))
    struct.pack_into(">I", data, HEADER + 12, info)
    place = (info + 1) * 4096
    struct.pack_into(">I32xQQ", data, info * 4096, 1, place, size)
    content, ring = b"".join(lists), size - 512
    end = 512 + (start - 512 + len(content)) % ring
    head = struct.pack(order + "IIQQQIII", 0x4A4E4C78, 0x12345678, start, end, size, 1024, 0, 512)
    data[place : place + 44] = head[:36] + struct.pack(order + "I", _checksum(head)) + head[40:]
    for at, byte in enumerate(content):
        data[place + 512 + (start - 512 + at) % ring] = byte
    return data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("start", [512, 60_000])
def test_journal(filled: bytes, order: str, start: int) -> None:
    """A volume is that whose changed blocks are in the journal, whole transactions of them."""
    changed = bytes(_patched_record(filled, "/size-513", 42, b"\x81\xed"))
    later = bytes(_patched_record(changed, "/size-513", 42, b"\x81\xff"))
    places = [at for at in range(0, len(filled), 4096) if filled[at : at + 4096] != changed[at : at + 4096]]
    first = [(at // 512, changed[at : at + 4096]) for at in places]
    second = [(at // 512, later[at : at + 4096]) for at in places]
    skipped = [((1 << 64) - 1, bytes(512)), (places[0] // 512, bytes(4096))]
    lists = [
        _block_list(order, skipped, continues=True),
        _block_list(order, first),
        _block_list(order, second),
    ]
    with FileSystem.detect(MemoryDevice(_journaled(filled, order, [], start))) as filesystem:
        assert filesystem.stat("/size-513").st_mode == 0o100644
        assert filesystem.warnings == ["the volume was not unmounted"]
    for count, mode in ((2, 0o100755), (3, 0o100777)):
        with FileSystem.detect(MemoryDevice(_journaled(filled, order, lists[:count], start))) as filesystem:
            assert filesystem.stat("/size-513").st_mode == mode
            assert f"{count - 1} transactions" in filesystem.warnings[0]
            assert filesystem.read_bytes("/fragmented") and len(list(filesystem.find("/"))) > 300
    damaged = [*lists[:2], lists[2].replace(lists[2][8:12], b"\1\2\3\4", 1)]
    for broken in (damaged, [lists[0], *damaged], [*lists[:2], lists[0]]):
        with FileSystem.detect(MemoryDevice(_journaled(filled, order, broken, start))) as filesystem:
            assert "not complete" in filesystem.warnings[0]
    with FileSystem.detect(MemoryDevice(_journaled(filled, order, damaged, start))) as filesystem:
        assert filesystem.stat("/size-513").st_mode == 0o100755


def test_journals_that_are_refused(filled: bytes) -> None:
    data = _journaled(filled, "<", [], 512)
    info = (len(filled) // 4096 - 40) * 4096
    with pytest.raises(UnsupportedFeature, match="another device"):
        FileSystem.detect(MemoryDevice(_patched(data, info, struct.pack(">I", 2))))
    with pytest.raises(UnsupportedFeature, match="a journal of 2147483648 bytes"):
        FileSystem.detect(MemoryDevice(_patched(data, info + 44, struct.pack(">Q", 1 << 31))))
    assert FileSystem.detect(MemoryDevice(_patched(data, info, struct.pack(">I", 5)))).exists("/size-513")
    for place, message in ((0, "magic"), (8, "checksum"), (36, "checksum")):
        with pytest.raises(InvalidFormat, match=message):
            FileSystem.detect(MemoryDevice(_patched(data, info + 4096 + place, b"\x77")))


def test_compressed_in_an_attribute(filled: bytes) -> None:
    """Linux wrote the attribute; the flag, which it does not set, makes the file a compressed one."""
    data = _patched_record(filled, "/compressed", 41, b"\x20")
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        value = filesystem.xattrs("/compressed")["osx.com.apple.decmpfs"]
        expected = zlib.decompress(value[16:])
        assert filesystem.stat("/compressed").st_size == len(expected) == 20000
        assert filesystem.read_bytes("/compressed") == expected
    for kind, feature in ((7, "LZVN"), (8, "LZVN"), (11, "LZFSE"), (99, "type 99")):
        other = data.replace(b"fpmc" + struct.pack("<I", 3), b"fpmc" + struct.pack("<I", kind))
        with FileSystem.detect(MemoryDevice(other)) as filesystem, pytest.raises(UnsupportedFeature, match=feature):
            filesystem.read_bytes("/compressed")


def test_compressed_in_the_resource_fork() -> None:
    content = os.urandom(70_000) + bytes(100_000)
    chunks = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    packed = [b"\xff" + chunks[0], *map(zlib.compress, chunks[1:])]
    table, at = b"", 4 + 8 * len(packed)
    for chunk in packed:
        table += struct.pack("<II", at, len(chunk))
        at += len(chunk)
    body = struct.pack("<I", len(packed)) + table + b"".join(packed)
    fork = struct.pack(">IIII", 256, 260 + len(body), 4 + len(body), 0).ljust(256, b"\0")
    fork += struct.pack(">I", len(body)) + body
    device = ZlibChunks(MemoryDevice(fork), len(content))
    assert bytes(device.read(0, len(content))) == content
    assert bytes(device.read(65_000, 70_000)) == content[65_000:135_000]
    damaged = ZlibChunks(MemoryDevice(fork.replace(packed[1], bytes(len(packed[1])))), len(content))
    assert bytes(damaged.read(0, 65536)) == content[:65536]
    with pytest.raises(InvalidFormat):
        damaged.read(65536, 1)
    with pytest.raises(InvalidFormat):
        ZlibChunks(MemoryDevice(fork[:260]), len(content))


def test_compressed_without_end() -> None:
    """The table of chunks is read as far as it is asked for."""

    class Zeros(BlockDevice):
        size = 1 << 50
        longest = 0

        def read(self, offset: int, length: int) -> bytes:
            self.longest = max(self.longest, length)
            return bytes(4) + struct.pack("<I", 1 << 29) if (offset, length) == (0, 8) else bytes(length)

    zeros = Zeros()
    device = ZlibChunks(zeros, 1 << 45)
    with pytest.raises(InvalidFormat, match="chunk"):
        device.read(1 << 44, 1)
    assert zeros.longest < 1 << 20


def test_attributes_of_a_file_together(filled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        found = ((path, filesystem.node_xattrs(node)) for path, node, _ in filesystem.find("/"))
        path, xattrs = next((path, xattrs) for path, xattrs in found if len(xattrs) > 2)
        sizes = [len(value) for name, value in xattrs.items() if name != "osx.com.apple.FinderInfo"]
        assert len(sizes) > 1
        monkeypatch.setattr("guestctl.disk.filesystems.hfsplus.attributes._MAX_VALUE_BYTES", sum(sizes) - 1)
        with pytest.raises(InvalidFormat, match="values of more than"):
            filesystem.xattrs(path)


def test_leaves_in_a_circle(filled: bytes) -> None:
    """They are found by the second time, however many nodes the tree is said to have."""
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        device = filesystem._catalog._tree._device  # type: ignore[attr-defined]
        size = filesystem._catalog._tree._size  # type: ignore[attr-defined]
        content = bytearray(device.read(0, device.size))
    last = struct.unpack_from(">I", content, 14 + 14)[0]
    struct.pack_into(">I", content, last * size, last)
    struct.pack_into(">I", content, 14 + 22, (1 << 40) // size)

    class Long(BlockDevice):
        size = 1 << 40

        def read(self, offset: int, length: int) -> bytes:
            return bytes(content[offset : offset + length])

    tree = BTree(Long(), "catalog", CATALOG_KEY.size, catalog_order)
    before = time.process_time()
    with pytest.raises(InvalidFormat, match="leaves in a circle"):
        for _ in tree.scan((0, 0)):
            assert time.process_time() - before < 5


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (88, b"\xff" * 8, "bytes in"),
        (88 + 16, b"\xff\xff\xff\xf0", "outside the volume"),
        (88 + 12, b"\0\0\0\0", "bytes in"),
        (42, b"\x41\xed", "a file of mode"),
    ],
)
def test_damaged_files_fail_alone(filled: bytes, place: int, value: bytes, message: str) -> None:
    data = _patched_record(filled, "/size-300000", place, value)
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        if message != "a file of mode":
            assert filesystem.read_bytes("/size-513").startswith(b"513 bytes\n")
        with pytest.raises(InvalidFormat, match=message):
            filesystem.read_bytes("/size-300000")


def test_links_that_lead_nowhere(filled: bytes) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        catalog = filesystem._catalog  # type: ignore[attr-defined]
        link: bytes = next(record.data for name, record in catalog.children(2) if name == "hard")
        content = filesystem.read_bytes("/fragmented")
    data = filled.replace(link, link[:44] + struct.pack(">I", 99999) + link[48:])
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert "hard" in filesystem.listdir("/") and "size-1" in filesystem.listdir("/")
        with pytest.raises(InvalidFormat, match="iNode99999"):
            filesystem.stat("/hard")
        assert filesystem.read_bytes("/links/hard") == content


def test_free_ranges(filled: bytes) -> None:
    data = bytearray(filled)
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        ranges = list(filesystem.free_ranges())
        assert sum(length for _, length in ranges) == filesystem.usage().available
        before = [filesystem.read_bytes(path) for path, _, status in filesystem.find("/") if status.is_file()]
    for offset, length in ranges:
        data[offset : offset + length] = b"\xa5" * length
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        after = [filesystem.read_bytes(path) for path, _, status in filesystem.find("/") if status.is_file()]
    assert after == before


@pytest.mark.parametrize("length", [0, 1024, 1500, 4096, 20000, 200_000])
def test_truncated(filled: bytes, length: int) -> None:
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(filled[:length])).read_bytes("/fragmented")


def test_mutated_journals(filled: bytes) -> None:
    changed = bytes(_patched_record(filled, "/size-513", 42, b"\x81\xed"))
    places = [at for at in range(0, len(filled), 4096) if filled[at : at + 4096] != changed[at : at + 4096]]
    blocks = _block_list("<", [(at // 512, changed[at : at + 4096]) for at in places])
    image = _journaled(filled, "<", [blocks], 512)
    journal = (len(filled) // 4096 - 39) * 4096
    chance = random.Random(7)
    opened = 0
    for _ in range(150):
        data = bytearray(image)
        for _ in range(chance.choice((1, 2, 4))):
            at = journal + chance.choice((8, 512)) + chance.randrange(64)
            data[at] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        for start, length, place in ((journal, 44, 36), (journal + 512, 32, 8)):  # with sums that are right
            struct.pack_into("<I", data, start + place, 0)
            struct.pack_into("<I", data, start + place, _checksum(data[start : start + length]))
        started = time.process_time()
        try:
            with FileSystem.detect(MemoryDevice(data)) as filesystem:
                opened += len(filesystem.listdir("/")) > 20
        except GuestctlError:
            pass
        assert time.process_time() - started < 5
    assert 20 < opened < 150


def test_mutations(filled: bytes) -> None:
    used = [(place, 512) for place in range(1024, len(filled), 512) if any(filled[place : place + 512])]
    check_mutants(filled, [(HEADER, 512), *used[:400]], least_files=300)
