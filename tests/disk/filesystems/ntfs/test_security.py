"""Security descriptors as SDDL, beside what ntfssecaudit says of them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from guestctl.block import FileDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk import FileSystem
from guestctl.disk.filesystems.ntfs import NtfsFileSystem
from guestctl.disk.filesystems.ntfs.security import to_sddl

Run = Callable[..., str]
Make = Callable[..., Path]
MountNtfs = Callable[..., AbstractContextManager[Path]]


def _audited(text: str) -> tuple[str, str, list[tuple[int, int, int, str]]]:
    """Owner, group, and (type, flags, access, SID) of each entry."""
    owner = re.search(r"O:dec (\S+)", text)
    group = re.search(r"G:dec (\S+)", text)
    assert owner and group
    entries = []
    for ace in re.split(r" ACE \d+ at", text)[1:]:
        kind, flags, access, sid = (
            re.search(pattern, ace)
            for pattern in (r"type +(\d+)", r"flags +0x(\w+)", r"Acc rgts 0x(\w+)", r"SID at .*\n(?:.*\n)*?.*dec (\S+)")
        )
        assert kind and flags and access and sid, ace
        entries.append((int(kind[1]), int(flags[1], 16), int(access[1], 16), sid[1]))
    return owner[1], group[1], entries


def _ours(sddl: str) -> tuple[str, str, list[tuple[int, int, int, str]]]:
    match = re.fullmatch(r"O:(\S+?)G:(\S+?)D:P?(\(.*\))", sddl)
    assert match, sddl
    entries = []
    for ace in match[3][1:-1].split(")("):
        kind, flags, access, _, _, sid = ace.split(";")
        bits = {"OI": 1, "CI": 2, "NP": 4, "IO": 8, "ID": 16}
        value = sum(bits[flags[at : at + 2]] for at in range(0, len(flags), 2))
        entries.append(({"A": 0, "D": 1}[kind], value, int(access, 16), sid))
    return match[1], match[2], entries


@pytest.mark.root
def test_descriptors_are_those_of_ntfssecaudit(run: Run, make: Make, mount_ntfs: MountNtfs) -> None:
    """Hundreds of them, so that $SII has blocks of its own."""
    image = make("-c", "4096")
    with mount_ntfs(image, "rw,permissions") as target:
        for number in range(300):
            path = target / f"file-{number}"
            path.touch()
            os.chown(path, 1000 + number, 2000 + number % 7)
            path.chmod((0o640, 0o755, 0o600, 0o4711, 0o077)[number % 5])
    with FileDevice.open(image) as device, FileSystem.detect(device) as filesystem:
        assert isinstance(filesystem, NtfsFileSystem)
        for name in ("", "file-0", "file-1", "file-2", "file-3", "file-4", "file-150", "file-299"):
            sddl = filesystem.security(filesystem.resolve(f"/{name}"))
            assert sddl is not None
            assert _ours(sddl) == _audited(run("ntfssecaudit", "-vv", image, f"/{name}")), name
        assert len({filesystem.security(node) for _, node, _ in filesystem.find("/")}) == 301


def test_every_kind_of_entry() -> None:
    """Built from [MS-DTYP] 2.4: an object entry, an audit entry, a mandatory label and a null DACL."""
    system = bytes.fromhex("010100000000000512000000")
    guid = bytes(range(16))
    aces = [
        struct.pack("<BBHII", 5, 0x12, 44 - 4, 0x100, 1) + guid + system,
        struct.pack("<BBHI", 2, 0xC0, 20, 0x10000) + system,
        struct.pack("<BBHI", 0x11, 0, 20, 1) + bytes.fromhex("010100000000001000300000"),
    ]
    sacl = struct.pack("<BxHH2x", 4, 8 + sum(map(len, aces)), len(aces)) + b"".join(aces)
    data = struct.pack("<BxH4I", 1, 0x8014, 20, 0, 32, 0) + system + sacl
    assert to_sddl(data, 0) == (
        "O:S-1-5-18D:NO_ACCESS_CONTROLS:(OA;CIID;0x100;03020100-0504-0706-0809-0a0b0c0d0e0f;;S-1-5-18)"
        "(AU;SAFA;0x10000;;;S-1-5-18)(ML;;0x1;;;S-1-16-12288)"
    )
    for length in range(len(data)):
        with pytest.raises(InvalidFormat):
            to_sddl(data[:length], 0)
