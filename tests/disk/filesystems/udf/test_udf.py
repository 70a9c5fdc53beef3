"""Volumes of mkudffs, udfclient, Windows, macOS and Linux: damage, mutants, and what is refused."""

from __future__ import annotations

import binascii
import lzma
import struct
import tracemalloc
from pathlib import Path

import pytest

from conftest import Run
from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options
from guestctl.disk.filesystems.udf.directory import file_name, link_target, parse_identifiers
from mutants import check_mutants

_MOUNTED = Path(__file__).parents[3] / "data" / "mounted"
LOGICAL_VOLUME, PARTITION, FILE_ENTRY, EXTENDED_FILE_ENTRY = 6, 5, 261, 266
BLOCK = 2048


@pytest.fixture(scope="module")
def filled() -> bytes:
    """What Linux filled, with blocks of 2048 bytes and file entries of UDF 1.02."""
    return lzma.decompress((_MOUNTED / "udf-2048.xz").read_bytes())


@pytest.fixture(scope="module")
def metadata() -> bytes:
    """A volume of macOS with a metadata partition, blocks of 4096 bytes."""
    return lzma.decompress((_MOUNTED / "udf-metadata.xz").read_bytes())


def _patched(image: bytes | bytearray, offset: int, content: bytes) -> bytearray:
    data = bytearray(image)
    data[offset : offset + len(content)] = content
    return data


def _resealed(data: bytearray, offset: int) -> bytearray:
    """The descriptor at `offset` with its CRC and checksum put right."""
    (length,) = struct.unpack_from("<H", data, offset + 10)
    struct.pack_into("<H", data, offset + 8, binascii.crc_hqx(data[offset + 16 : offset + 16 + length], 0))
    data[offset + 4] = (sum(data[offset : offset + 16]) - data[offset + 4]) & 0xFF
    return data


def _descriptors(image: bytes, kind: int, block_size: int = BLOCK) -> list[int]:
    """The offsets of descriptors of a kind that have a sound tag."""
    return [
        offset
        for offset in range(0, len(image), block_size)
        if struct.unpack_from("<H", image, offset)[0] == kind
        and (sum(image[offset : offset + 16]) - image[offset + 4]) & 0xFF == image[offset + 4]
    ]


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("revision", ["1.02", "1.50", "2.01"])
def test_identity(run: Run, tmp_path: Path, block_size: int, revision: str) -> None:
    image = tmp_path / "image"
    size = 4 << 20
    options = (f"--blocksize={block_size}", f"--udfrev={revision}", "--label=Größe ♥", "--mode=711", "--uid=7")
    run("mkudffs", "--utf8", "--new-file", *options, image, str(size // block_size))
    expected = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", image).splitlines())
    with FileSystem.detect(MemoryDevice(image.read_bytes())) as filesystem:
        assert (filesystem.version, filesystem.label, filesystem.uuid) == (revision, "Größe ♥", expected["ID_FS_UUID"])
        assert filesystem.block_size == block_size == int(expected["ID_FS_BLOCK_SIZE"])
        assert oct(filesystem.stat("/").st_mode) == "0o40711" and filesystem.stat("/").st_uid == 7
        assert filesystem.warnings == []


def test_free_ranges(filled: bytes) -> None:
    """What is free may be anything, and is as much as the volume says."""
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


def test_memory_of_large_volumes(run: Run, tmp_path: Path) -> None:
    """128 million blocks, whose bitmap has 16 MiB."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 30)
    run("mkudffs", "-b", "512", "-m", "hd", image)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        tracemalloc.start()
        free = sum(length for _, length in filesystem.free_ranges())
        assert free == filesystem.usage().available > 63 << 30
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
        tracemalloc.stop()


def test_reserve_sequence_and_last_anchor(filled: bytes) -> None:
    main, reserve = _descriptors(filled, LOGICAL_VOLUME)
    damaged = _patched(filled, main + 100, b"\xff")
    damaged[256 * BLOCK : 257 * BLOCK] = bytes(BLOCK)
    with FileSystem.detect(MemoryDevice(damaged)) as filesystem:
        assert filesystem.read_bytes("/size-4096") == (b"4096 bytes\n" * 400)[:4096]
    damaged[reserve + 100] ^= 0xFF
    with pytest.raises(ChecksumMismatch, match="checksum"):
        FileSystem.detect(MemoryDevice(damaged))
    with FileSystem.detect(MemoryDevice(damaged), options=Options(ignore_checksums=True)) as filesystem:
        assert filesystem.exists("/size-4096")


def test_sequences_without_end(filled: bytes) -> None:
    """Where both are damaged, what comes before the damage counts, as with Linux."""
    data = bytearray(filled)
    terminators = _descriptors(filled, 8)
    assert len(terminators) >= 2
    for terminator in terminators:
        data[terminator : terminator + 16] = b"\xa5" * 16
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        assert filesystem.exists("/size-4096")


def test_prevailing_descriptor(filled: bytes) -> None:
    """Of partition descriptors of one number that with the higher sequence number counts, wherever it stands."""
    first = _descriptors(filled, PARTITION)[0]
    terminator = _descriptors(filled, 8)[0]
    data = bytearray(filled)
    for sequence, shift, counts in ((0, 1, False), (9, 1, True)):
        data[terminator : terminator + BLOCK] = data[first : first + BLOCK]
        struct.pack_into("<I", data, terminator + 12, terminator // BLOCK)
        struct.pack_into("<I", data, terminator + 16, sequence)
        (start,) = struct.unpack_from("<I", filled, first + 188)
        struct.pack_into("<I", data, terminator + 188, start + shift)
        _resealed(data, terminator)
        if counts:
            with pytest.raises(InvalidFormat):
                # The reserve sequence still has the other one.
                FileSystem.detect(MemoryDevice(_patched(data, _descriptors(filled, LOGICAL_VOLUME)[1], bytes(16))))
        else:
            assert FileSystem.detect(MemoryDevice(data)).exists("/size-4096")


def test_metadata_mirror(metadata: bytes) -> None:
    entries = _descriptors(metadata, EXTENDED_FILE_ENTRY, 4096)
    main = next(offset for offset in entries if metadata[offset + 27] == 250)
    with FileSystem.detect(MemoryDevice(metadata)) as filesystem:
        expected = filesystem.stat("/")
        assert filesystem.warnings == []
    with FileSystem.detect(MemoryDevice(_patched(metadata, main + 60, b"\xff"))) as filesystem:
        assert filesystem.stat("/") == expected
        assert "mirror" in filesystem.warnings[0]


def _sealed_maps(image: bytes, offset: int, content: bytes) -> MemoryDevice:
    """With `content` at `offset` in both logical volume descriptors."""
    data = bytearray(image)
    for descriptor in _descriptors(image, LOGICAL_VOLUME, 4096):
        data[descriptor + offset : descriptor + offset + len(content)] = content
        _resealed(data, descriptor)
    return MemoryDevice(data)


def test_unknown_partition_map(metadata: bytes) -> None:
    with pytest.raises(UnsupportedFeature, match="Metadata Partitiom"):
        FileSystem.detect(_sealed_maps(metadata, 446 + 5, b"*UDF Metadata Partitiom"))
    with pytest.raises(InvalidFormat, match="no partition 7"):
        FileSystem.detect(_sealed_maps(metadata, 440 + 4, b"\x07\0"))
    with pytest.raises(InvalidFormat, match="partition map"):
        FileSystem.detect(_sealed_maps(metadata, 446, b"\x02\x20"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (20, b"\x05\0", "ICB strategy 5"),
        (34, b"\x02\0", "extended allocation descriptors"),
        (34, b"\x03\0", "embedded"),
        (27, b"\xfb", "file type 251"),
        (48, b"\0\0", "0 links"),
        (56, b"\xff" * 8, "bytes"),
        (172, b"\xff\xff\0\0", "allocation descriptors"),
        (176, b"\xff\xff\xff\x3f", "outside its partition"),
        (176 + 4, b"\xff\xff\xff\xff", "outside its partition"),
        (176 + 8, b"\x07\0", "no partition 7"),
    ],
)
def test_damaged_files_fail_alone(filled: bytes, place: int, value: bytes, message: str) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        offset = filesystem.stat("/fragmented").st_ino * BLOCK
    data = _resealed(_patched(filled, offset + place, value), offset)
    with FileSystem.detect(MemoryDevice(data)) as filesystem:
        with pytest.raises(GuestctlError, match=message):
            filesystem.read_bytes("/fragmented")
        assert filesystem.read_bytes("/size-513").startswith(b"513 bytes\n")
    data = _patched(filled, offset + place, value)
    with FileSystem.detect(MemoryDevice(data)) as filesystem, pytest.raises(ChecksumMismatch):
        filesystem.stat("/fragmented")


def test_extents_that_are_not_recorded(filled: bytes) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        offset = filesystem.stat("/fragmented").st_ino * BLOCK
        content = filesystem.read_bytes("/fragmented")
    (length,) = struct.unpack_from("<I", filled, offset + 176)
    for kind in (1, 2):
        data = _resealed(_patched(filled, offset + 176, struct.pack("<I", length | kind << 30)), offset)
        with FileSystem.detect(MemoryDevice(data)) as filesystem:
            assert filesystem.read_bytes("/fragmented") == bytes(length) + content[length:]


def test_descriptors_in_a_circle(filled: bytes) -> None:
    with FileSystem.detect(MemoryDevice(filled)) as filesystem:
        offset = filesystem.stat("/fragmented").st_ino * BLOCK
    (start,) = struct.unpack_from("<I", filled, _descriptors(filled, PARTITION)[0] + 188)
    free = len(filled) // BLOCK // 2
    tag = struct.pack("<HHBxHHHI", 258, 2, 0, 0, 0, 0, free - start)
    continued = struct.pack("<IIH6x", 3 << 30 | BLOCK, free - start, 0)
    data = _resealed(_patched(filled, offset + 176, continued), offset)
    data[free * BLOCK : free * BLOCK + 40] = tag + struct.pack("<II", 0, 16) + continued
    _resealed(data, free * BLOCK)
    with FileSystem.detect(MemoryDevice(data)) as filesystem, pytest.raises(InvalidFormat, match="circle"):
        filesystem.read_bytes("/fragmented")


def test_checksums_that_overlap() -> None:
    """The CRC of a file identifier is of that alone: of all that follow it, a directory could take hours."""
    identifiers = b""
    for number in range(2000):
        body = struct.pack("<HBB16sH", 1, 0, 8, bytes(16), 0) + b"\x08abcdefg" + bytes(2)
        tail = (body + identifiers)[:65535]
        tag = bytearray(struct.pack("<HHBxHHHI", 257, 2, 0, 0, binascii.crc_hqx(tail, 0), len(tail), number))
        tag[4] = sum(tag) & 0xFF
        identifiers = bytes(tag) + body + identifiers
    covered = 0

    def crc(data: bytes, value: int) -> int:
        nonlocal covered
        covered += len(data)
        return binascii.crc_hqx(data, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guestctl.disk.filesystems.udf.tag.crc_hqx", crc)
        assert len(list(parse_identifiers(identifiers, 0, verify=True))) == 2000
    assert covered <= len(identifiers)


def test_names() -> None:
    """UDF 4.2.2.1: what cannot be in a name becomes one ``_``, and the CRC of the name stands before the extension."""
    assert file_name(b"\x08caf\xe9", 0) == "café"
    assert file_name(b"\x10" + "日本🐧".encode("utf-16-be"), 0) == "日本🐧"
    crc = binascii.crc_hqx(b"a//b.txt", 0)
    assert file_name(b"\x08a//b.txt", 0) == f"a_b#{crc:04X}.txt"
    assert file_name(b"\x08..", 0) == f".#{binascii.crc_hqx(b'..', 0):04X}."
    for data in (b"\x07a", b"\x10abc", b"\x00", b"\xffab"):
        with pytest.raises(InvalidFormat):
            file_name(data, 0)
    assert link_target(b"\x02\0\0\0\x05\x02\0\0\x08a\x03\0\0\0\x04\0\0\0\x05\x02\0\0\x08b", 0) == "/a/.././b"
    with pytest.raises(InvalidFormat):
        link_target(b"\x05\x09\0\0\x08a", 0)


@pytest.mark.parametrize("blocks", [0, 16, 200, 257, 300, 1000])
def test_truncated(filled: bytes, blocks: int) -> None:
    with pytest.raises(GuestctlError):
        FileSystem.detect(MemoryDevice(filled[: blocks * BLOCK])).read_bytes("/fragmented")


@pytest.mark.parametrize("name", ["udf-2048", "udf-metadata"])
def test_mutations(name: str) -> None:
    image = lzma.decompress((_MOUNTED / f"{name}.xz").read_bytes())
    used = [(place, 512) for place in range(32 << 10, len(image), 512) if any(image[place : place + 512])]
    check_mutants(image, used[:120], least_files=1, share=0.5)
