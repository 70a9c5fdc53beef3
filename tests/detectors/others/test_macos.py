"""macOS on HFS Plus that xorriso made, and damaged property lists."""

from __future__ import annotations

import plistlib
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from guestctl.core.errors import InvalidFormat
from guestctl.detectors import inspect
from guestctl.detectors.others.macos import detect_hostname, detect_macos, read_plist
from guestctl.detectors.report import Guest
from guestctl.machine import Machine
from memory_filesystem import MemoryFileSystem

VERSION = "/System/Library/CoreServices/SystemVersion.plist"
PREFERENCES = "/Library/Preferences/SystemConfiguration/preferences.plist"


def _version(name: str, number: str, build: str) -> dict[str, str]:
    return {
        "ProductBuildVersion": build,
        "ProductCopyright": "1983-2011 Apple Inc.",
        "ProductName": name,
        "ProductUserVisibleVersion": number,
        "ProductVersion": number,
    }


def _mach_o(*types: int) -> bytes:
    """The headers of a program for these kinds of processors: one, or several in a universal file."""
    if len(types) == 1:
        order, magic = (">", 0xFEEDFACE) if types[0] == 18 else ("<", 0xFEEDFACF)
        return struct.pack(order + "II", magic, types[0]) + bytes(24)
    entries = b"".join(struct.pack(">5I", kind, 3, 4096 * number, 4096, 12) for number, kind in enumerate(types, 1))
    return struct.pack(">II", 0xCAFEBABE, len(types)) + entries


@pytest.mark.parametrize("installer", [False, True])
def test_guest(run: Run, tmp_path: Path, installer: bool) -> None:
    top = tmp_path / "top"
    preferences = {
        "CurrentSet": "/Sets/0",
        "System": {
            "Network": {"HostNames": {"LocalHostName": "Janes-Mac"}},
            "System": {"ComputerName": "Jane's Mac", "HostName": "mac.example.org"},
        },
    }
    for path, content in (
        (VERSION, plistlib.dumps(_version("Mac OS X", "10.6.8", "10K549"))),
        (PREFERENCES, plistlib.dumps(preferences, fmt=plistlib.FMT_BINARY)),
        ("/mach_kernel", _mach_o(7, 0x01000007)),
        *([("/System/Installation/Packages/OSInstall.mpkg", b"")] if installer else []),
    ):
        (top / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (top / path[1:]).write_bytes(content)
    image = tmp_path / "image"
    run("xorriso", "-outdev", f"stdio:{image}", "-hfsplus", "on", "-map", top, "/", "-commit")
    with Machine.open(image) as machine:
        found = inspect(machine)
    (guest,) = found.guests
    assert found.warnings == []
    assert (guest.type, guest.distro, guest.format) == ("macos", "macos", "installer" if installer else "installed")
    assert (guest.product_name, guest.major_version, guest.minor_version) == ("Mac OS X 10.6.8 (10K549)", 10, 6)
    assert (guest.arch, guest.osinfo) == ("x86_64", "macosx10.6")
    assert guest.hostname == (None if installer else "mac.example.org")
    assert guest.mountpoints == {"/": "/dev/sda3"}


@pytest.mark.parametrize(
    ("kernel", "arch"),
    [
        (_mach_o(18), "ppc"),
        (_mach_o(0x0100000C), "aarch64"),
        (_mach_o(18, 7), "i386"),
        (b"\xca\xfe\xba\xbe\xff\xff\xff\xff", None),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_architecture(kernel: bytes, arch: str | None) -> None:
    guest = Guest(root="/dev/sda", type="macos")
    detect_macos(MemoryFileSystem({"/System/Library/Kernels/kernel": kernel}), guest)
    assert (guest.arch, guest.product_name, guest.osinfo) == (arch, None, None)


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ({"System": {"ComputerName": "A"}, "Network": {"HostNames": {"LocalHostName": "B"}}}, "B"),
        ({"System": {"ComputerName": "A"}}, "A"),
        ({"System": ["A"], "Network": 1}, None),
        ({"System": {"HostName": 7}}, None),
        ([], None),
    ],
)
def test_hostname(system: Any, name: str | None) -> None:
    guest = Guest(root="/dev/sda", type="macos")
    detect_hostname(MemoryFileSystem({PREFERENCES: plistlib.dumps({"System": system})}), guest)
    assert guest.hostname == name


def test_damaged_property_lists() -> None:
    """A dictionary or `InvalidFormat`, whatever the bytes are."""
    chance = random.Random(5)
    value = {**_version("macOS", "10.14.6", "18G103"), "n": [1, 2.5, True, b"data"], "d": {"e": "é"}}
    failed = 0
    for number in range(600):
        data = bytearray(plistlib.dumps(value, fmt=(plistlib.FMT_XML, plistlib.FMT_BINARY)[number % 2]))
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.choice((0, 0xFF, 0x3C, chance.randrange(256)))
        try:
            read_plist(MemoryFileSystem({VERSION: bytes(data)}), VERSION)
        except InvalidFormat:
            failed += 1
    assert failed > 100
    bomb = b'<!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><plist><string>&b;</string></plist>'
    deep = b"<plist>" + b"<array>" * 100_000 + b"</array>" * 100_000 + b"</plist>"
    for content in (b"", bomb, b"<plist><date>x</date></plist>", b"</plist>", b"<plist><dict></dict>", deep[:900_000]):
        with pytest.raises(InvalidFormat):
            read_plist(MemoryFileSystem({VERSION: content}), VERSION)
    with pytest.raises(InvalidFormat, match="more than"):
        read_plist(MemoryFileSystem({VERSION: bytes(2 << 20)}), VERSION)
