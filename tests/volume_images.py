"""Members of volumes that a kernel made, and what it read from them: tests/data/volumes."""

from __future__ import annotations

import hashlib
import json
import lzma
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.disk.volumes import Member

_DATA = Path(__file__).parent / "data/volumes"
_CASES: dict[str, dict[str, Any]] = json.loads((_DATA / "expected.json").read_text())["cases"]


def names(*prefixes: str) -> list[str]:
    """The cases whose names begin with one of the prefixes."""
    return [name for name in _CASES if name.startswith(prefixes)]


def reads(name: str) -> dict[tuple[int, ...], dict[str, str | None]]:
    """For each set of members that the kernel was given, what it read: size and SHA-256, by device; or None."""
    return {tuple(map(int, key.split(","))): read for key, read in _CASES[name]["reads"].items()}


@cache
def images(name: str) -> tuple[bytes, ...]:
    """The members, as they were left."""
    joined = lzma.decompress((_DATA / f"{name}.xz").read_bytes())
    ends = accumulate(_CASES[name]["members"], initial=0)
    return tuple(joined[start:end] for start, end in pairwise(ends))


def members(name: str, wanted: tuple[int, ...] | None = None) -> list[Member]:
    """The members, or some of them, as ``/dev/sda``, ``/dev/sdb``…"""
    found = images(name)
    numbers = range(len(found)) if wanted is None else wanted
    return [Member(f"/dev/sd{'abcdef'[number]}", MemoryDevice(found[number])) for number in numbers]


def digest(device: BlockDevice) -> str:
    """Size and SHA-256, as in `reads`."""
    sha = hashlib.sha256()
    for buffer in device.buffers(0, device.size):
        sha.update(buffer)
    return f"{device.size} {sha.hexdigest()}"
