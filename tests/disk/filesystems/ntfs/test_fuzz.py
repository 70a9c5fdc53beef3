"""Mutants of a volume that holds every kind of structure: a result or a typed error, soon, in little memory.

GUESTCTL_FUZZ_ROUNDS makes it longer.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from guestctl.disk.filesystems.ntfs import NtfsFileSystem

pytestmark = pytest.mark.root
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]

_ROUNDS = int(os.environ.get("GUESTCTL_FUZZ_ROUNDS", "120"))
_MAX_SECONDS = 5
_MAX_MEMORY_BYTES = 200 << 20
_MAX_READ_BYTES = 1 << 20
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
_PATH_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENODATA, errno.ELOOP}


def _fill(top: Path) -> None:
    (top / "directory").mkdir()
    for number in range(150):
        (top / "directory" / f"a name that fills blocks {number:03}").touch()
    for number, target in enumerate(("x", "/directory", "y" * 300)):
        (top / f"link-{number}").symlink_to(target)
    os.mknod(top / "device", 0o20600, os.makedev(1, 3))
    (top / "d").mkdir()
    os.setxattr(top / "d", "system.ntfs_attrib", struct.pack("<I", 0x800))
    (top / "d" / "compressed").write_bytes(b"many words of text, " * 20_000 + os.urandom(70_000))
    with (top / "fragmented").open("wb", buffering=0) as stream:
        for number in range(0, 1200, 2):
            os.pwrite(stream.fileno(), b"block", number * 1024)
    (top / "streams").write_bytes(b"content" * 1000)
    for number in range(30):
        os.setxattr(top / "streams", f"user.{number}", b"value" * number * 10)
    name = "\\??\\C:\\directory".encode("utf-16-le")
    junction = struct.pack("<IHH4H", 0xA0000003, 12 + len(name), 0, 0, len(name), len(name) + 2, 0) + name + b"\0" * 4
    (top / "junction").mkdir()
    os.setxattr(top / "junction", "system.ntfs_reparse_data", junction)


def look_at_everything(image: bytes | bytearray) -> int:
    """How many files are there. Reads what there is, by every way there is."""
    device = MemoryDevice(image)
    FileSystem.identify(device)
    count = 0
    with FileSystem.detect(device) as filesystem:
        errors: list[WalkError] = []
        for path, node, status in filesystem.find("/", onerror=errors.append):
            count += 1
            try:
                assert status.st_size >= 0 and status.st_blocks >= 0 and status.st_nlink >= 0
                assert isinstance(status.st_mtime_ns + status.st_rdev, int)
                filesystem.node_xattrs(node)
                if isinstance(filesystem, NtfsFileSystem):
                    filesystem.streams(node)
                    filesystem.security(node)
                if status.is_symlink():
                    filesystem.node_target(node)
                elif status.is_file():
                    data = filesystem.node_data(node)
                    data.read(0, min(data.size, _MAX_READ_BYTES))
                    data.read(max(0, data.size - 4096), min(data.size, 4096))
                if count % 10 == 0:
                    filesystem.resolve(path, follow=False)
            except (GuestctlError, OSError) as error:
                _check(error)
        for failure in errors:
            _check(failure.error)
        for action in (filesystem.usage, lambda: list(filesystem.free_ranges())):
            try:
                action()
            except (GuestctlError, OSError) as error:
                _check(error)
    return count


def _check(error: Exception) -> None:
    assert isinstance(error, (GuestctlError, OSError)), repr(error)
    assert not isinstance(error, OSError) or error.errno in _PATH_ERRORS, repr(error)
    assert str(error)


def _mutate(image: bytearray, chance: random.Random, places: list[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """What was at the places that were changed."""
    undo = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        start, length = chance.choice(places)
        size = chance.choice((1, 1, 2, 4, 8))
        offset = start + chance.randrange(length // size) * size
        if chance.randrange(3):
            data = (chance.choice(_EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        else:
            data = chance.randbytes(size)
        undo.append((offset, bytes(image[offset : offset + size])))
        image[offset : offset + size] = data
    return undo


def test_mutants(make: Make, mount_ntfs: MountNtfs) -> None:
    path = make("-c", "1024", size=8 << 20)
    with mount_ntfs(path, "rw") as target:
        _fill(target)
    image = bytearray(path.read_bytes())
    assert look_at_everything(image) > 160
    places = [(0, 512)] * 40
    for start in range(0, len(image), 512):
        if image[start : start + 4] == b"FILE" and image[start + 22]:
            used = int.from_bytes(image[start + 24 : start + 28], "little")
            # Every record of the many small files is like the next.
            weight = 1 if b"f\0i\0l\0l" in image[start : start + 1024] else 8
            places += [(start, min(1024, used))] * weight
        elif image[start : start + 4] == b"INDX":
            places += [(start, 4096), (start, 64)] * 4
    places += [(32 << 10, 1 << 20)] * 20  # attribute lists and compressed units, somewhere
    listed = 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(_ROUNDS):
        chance = random.Random(seed)
        undo = _mutate(image, chance, places)
        started = time.process_time()
        try:
            listed += look_at_everything(image) > 0
        except (GuestctlError, OSError) as error:
            _check(error)
        except Exception as error:
            error.add_note(f"seed {seed}: {[(hex(offset), old.hex()) for offset, old in undo]}")
            raise
        assert time.process_time() - started < _MAX_SECONDS, seed
        for offset, old in reversed(undo):
            image[offset : offset + len(old)] = old
    assert listed > _ROUNDS * 3 // 4
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < _MAX_MEMORY_BYTES
