"""Files compressed by WOF: chunks that wimlib made, as they are in a WIM file, in streams that ntfs-3g wrote."""

from __future__ import annotations

import hashlib
import os
import random
import re
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from guestctl.block import FileDevice, MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.ntfs import lzx, xpress
from guestctl.disk.filesystems.ntfs.reparse import Reparse
from guestctl.disk.filesystems.ntfs.wof import open_compressed

Run = Callable[..., str]
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]
Resources = dict[str, bytes]

# The algorithm's number, and how wimlib makes chunks for it.
ALGORITHMS = {
    "xpress4k": (0, "XPRESS", 4096),
    "xpress8k": (2, "XPRESS", 8192),
    "xpress16k": (3, "XPRESS", 16384),
    "lzx": (1, "LZX:20", 32768),
    "lzx-slow": (1, "LZX:100", 32768),
}
_BLOB = re.compile(
    r"Hash += 0x(\w+)\nUncompressed size = (\d+) bytes\nCompressed size +?= (\d+) bytes\nOffset in WIM +?= (\d+) bytes"
)


def _contents() -> dict[str, bytes]:
    chance = random.Random(5)
    program = Path(sys.executable).resolve().read_bytes()  # machine code: calls are translated
    program = program[len(program) // 2 :][:300_003]
    return {
        "program": program,
        "text": b"".join(b"%07d line\n" % number for number in range(30_000)),
        "mixed": chance.randbytes(70_000) + bytes(100_000) + program[:30_000] + b"a" * 50_001,
        "exact": b"".join(b"%015d\n" % number for number in range(4096)),
        "small": b"small " * 100,
    }


@pytest.fixture(scope="module")
def resources(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Resources]:
    """The resource of each file as one algorithm makes it."""
    folder = tmp_path_factory.mktemp("wim")
    (folder / "files").mkdir()
    names = {}
    for name, data in _contents().items():
        (folder / "files" / name).write_bytes(data)
        names[hashlib.sha1(data).hexdigest()] = name

    def _make(algorithm: str) -> Resources:
        _, compression, chunk_bytes = ALGORITHMS[algorithm]
        wim = folder / algorithm
        if not wim.exists():
            run("wimcapture", folder / "files", wim, f"--compress={compression}", f"--chunk-size={chunk_bytes}")
        data = wim.read_bytes()
        found = _BLOB.findall(run("wiminfo", "--blobs", wim))
        return {
            names[digest]: data[int(offset) : int(offset) + int(size)]
            for digest, _, size, offset in found
            if digest in names
        }

    return _make


def _reparse_data(algorithm: int, provider: int = 2) -> bytes:
    return struct.pack("<4I", 1, provider, 1, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_content_is_what_wimlib_compressed(resources: Callable[[str], Resources], algorithm: str) -> None:
    number = ALGORITHMS[algorithm][0]
    contents = _contents()
    found = resources(algorithm)
    assert found.keys() == contents.keys()
    chance = random.Random(7)
    for name, resource in found.items():
        assert len(resource) < len(contents[name])
        stream = MemoryDevice(resource)
        device = open_compressed(Reparse(0x80000017, _reparse_data(number), 0), len(contents[name]), stream)
        assert device.read(0, device.size) == contents[name], name
        for _ in range(20):
            start = chance.randrange(device.size)
            length = chance.randrange(min(50_000, device.size - start))
            assert device.read(start, length) == contents[name][start : start + length]


@pytest.mark.root
def test_files_on_a_volume(resources: Callable[[str], Resources], make: Make, mount_ntfs: MountNtfs) -> None:
    contents = _contents()
    image = make("-c", "4096")
    with mount_ntfs(image, "rw,streams_interface=windows") as target:
        for algorithm, (number, _, _) in ALGORITHMS.items():
            (target / algorithm).mkdir()
            for name, resource in resources(algorithm).items():
                path = target / algorithm / name
                path.touch()
                os.truncate(path, len(contents[name]))
                Path(f"{path}:WofCompressedData").write_bytes(resource)
                value = struct.pack("<IHH", 0x80000017, 16, 0) + _reparse_data(number)
                os.setxattr(path, "system.ntfs_reparse_data", value)
        for other, data in (("wimboot", _reparse_data(0, 1)), ("unknown", _reparse_data(9)), ("no", _reparse_data(0))):
            (target / other).write_bytes(b"x" * 100)
            if other != "no":
                Path(f"{target / other}:WofCompressedData").write_bytes(b"x")
            os.setxattr(target / other, "system.ntfs_reparse_data", struct.pack("<IHH", 0x80000017, 16, 0) + data)
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        for algorithm in ALGORITHMS:
            for name, data in contents.items():
                where = f"/{algorithm}/{name}"
                assert filesystem.stat(where).st_size == len(data)
                assert filesystem.stat(where).is_file()
                assert filesystem.read_bytes(where) == data, where
                assert filesystem.xattrs(where) == {}
        for name, feature in (("wimboot", "WIMBoot"), ("unknown", "WOF")):
            with pytest.raises(UnsupportedFeature) as refusal:
                filesystem.read_bytes(f"/{name}")
            assert refusal.value.feature == feature
        with pytest.raises(InvalidFormat, match="has no WofCompressedData"):
            filesystem.read_bytes("/no")


def _words(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 16)
    return b"".join(struct.pack("<H", int(bits[at : at + 16], 2)) for at in range(0, len(bits), 16))


@pytest.mark.parametrize("length", [12, 13])
def test_lzx_blocks_that_are_not_compressed(length: int) -> None:
    """wimlib writes none: built by the document."""
    first, second = bytes(range(length)), bytes(range(100, 132 - length))
    recent = struct.pack("<3I", 1, 2, 3)
    data = _words(f"0110{length:016b}") + recent + first + b"\0" * (length % 2)
    data += _words(f"0110{32 - length:016b}") + recent + second
    assert lzx.decompress(data, 32, 0) == first + second


def test_calls_near_the_end_are_not_translated() -> None:
    content = bytearray(40)
    content[5:10] = b"\xe8" + struct.pack("<i", 1000)  # made absolute: 5 + 995
    content[29:34] = b"\xe8" + struct.pack("<i", -29)
    stored = _words(f"0110{40:016b}") + bytes(12) + content
    content[6:10] = struct.pack("<i", 995)
    content[30:34] = struct.pack("<i", 12_000_000 - 29)
    assert lzx.decompress(stored, 40, 0) == content
    content[:] = bytes(40)
    content[30:35] = b"\xe8" + struct.pack("<i", 1000)
    assert lzx.decompress(_words(f"0110{40:016b}") + bytes(12) + content, 40, 0) == content


@pytest.mark.parametrize("algorithm", ["xpress8k", "lzx"])
def test_mutants(resources: Callable[[str], Resources], algorithm: str) -> None:
    """A result of the right size or a typed error; the errors are in the chunk, or in the table of offsets."""
    number, _, chunk_bytes = ALGORITHMS[algorithm]
    contents, found = _contents(), resources(algorithm)
    chance = random.Random(11)
    failed = 0
    for name in ("program", "exact"):
        size = min(len(contents[name]), 3 * chunk_bytes + 5)
        for _ in range(40):
            resource = bytearray(found[name])
            for _ in range(chance.choice((1, 1, 3))):
                resource[chance.randrange(min(len(resource), 3 * chunk_bytes))] = chance.randrange(256)
            stream = MemoryDevice(resource)
            try:
                device = open_compressed(Reparse(0x80000017, _reparse_data(number), 0), len(contents[name]), stream)
                assert len(device.read(0, size)) == size
            except GuestctlError:
                failed += 1
    assert failed > 20


def test_truncated_chunks() -> None:
    for decompress in (xpress.decompress, lzx.decompress):
        for length in (0, 1, 255, 256, 258):
            with pytest.raises(InvalidFormat):
                decompress(b"\x11" * length, 4096, 0)
