"""Images with bytes changed: reading one must end in a result or a typed error, soon, in little memory."""

from __future__ import annotations

import errno
import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError

_MAX_SECONDS = 5
_MAX_MEMORY_BYTES = 300 << 20
_MAX_READ_BYTES = 1 << 20
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40)
_PATH_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP}

Range = tuple[int, int]  # offset and length, in bytes


def read_everything(device: BlockDevice) -> tuple[int, list[Exception]]:
    """How many files there are, and what was wrong; all but `GuestctlError` and errors of paths goes through."""
    errors: list[Exception] = []
    count = 0
    FileSystem.identify(device)
    with FileSystem.detect(device) as filesystem:
        walk_errors: list[WalkError] = []
        for path, node, status in filesystem.find("/", onerror=walk_errors.append):
            count += 1
            if count > 200 and count % 10:
                continue
            assert min(status.st_nlink, status.st_uid, status.st_gid, status.st_size, status.st_blocks) >= 0
            assert isinstance(status.st_mtime_ns + status.st_atime_ns + status.st_ctime_ns + status.st_rdev, int)
            for look in (lambda n: _read(filesystem, n), filesystem.node_xattrs):
                _collect(errors, look, node)
            _collect(errors, lambda name: filesystem.resolve(name, follow=False), path)
        errors += [error.error for error in walk_errors]
        _collect(errors, lambda _: filesystem.usage(), None)
        _collect(errors, lambda _: list(filesystem.free_ranges()), None)
    for error in errors:
        assert str(error)
        assert isinstance(error, GuestctlError) or (isinstance(error, OSError) and error.errno in _PATH_ERRORS), error
    return count, errors


def _read(filesystem: FileSystem[Any], node: Any) -> None:
    status = filesystem.node_stat(node)
    if status.is_symlink():
        filesystem.node_target(node)
    elif status.is_file():
        data = filesystem.node_data(node)
        length = min(data.size, _MAX_READ_BYTES)
        assert len(data.read(0, length)) == length
        data.read(data.size - min(data.size, 4096), min(data.size, 4096))
        assert sum(run.length for run in data.runs(0, length)) == length


def _collect(errors: list[Exception], look: Callable[[Any], object], argument: Any) -> None:
    try:
        look(argument)
    except (GuestctlError, OSError) as error:
        errors.append(error)


def check_mutants(image: bytes, places: Sequence[Range], *, least_files: int, share: float = 1) -> None:
    """For a share of GUESTCTL_FUZZ_SECONDS: one to four values changed at random places. Most can be listed."""
    seconds = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) * share
    first, errors = read_everything(MemoryDevice(image))
    assert first >= least_files and not errors
    data = bytearray(image)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    rounds = listed = damaged = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        undo = _mutate(data, chance, places)
        started = time.process_time()
        try:
            count, errors = read_everything(MemoryDevice(data))
            listed += 1
            damaged += bool(errors) or count != first
        except GuestctlError as error:
            assert str(error)
        except Exception as error:
            error.add_note(f"round {rounds}: {[(hex(offset), old.hex()) for offset, old in undo]}")
            raise
        assert time.process_time() - started < _MAX_SECONDS, rounds
        for offset, old in reversed(undo):
            data[offset : offset + len(old)] = old
        rounds += 1
    assert bytes(data) == image
    assert listed > rounds // 3 and damaged
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < _MAX_MEMORY_BYTES


def _mutate(data: bytearray, chance: random.Random, places: Sequence[Range]) -> list[tuple[int, bytes]]:
    """What was at the places that were changed."""
    undo = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        start, length = chance.choice(places)
        size = chance.choice((1, 1, 2, 4, 8))
        offset = start + chance.randrange(max(1, length // size)) * size
        if chance.randrange(3):
            new = (chance.choice(_EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, chance.choice(("little", "big")))
        else:
            new = chance.randbytes(size)
        undo.append((offset, bytes(data[offset : offset + size])))
        data[offset : offset + size] = new
    return undo
