"""Release files with bytes changed, doubled and made long: a result or a typed error, soon."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.detectors import bsd, linux, others
from guestctl.detectors.others import media
from guestctl.detectors.others.windows_media import read_wim_xml
from guestctl.detectors.report import Guest
from memory_filesystem import MemoryFileSystem
from releases import DOS, LINUX, OTHERS

Detect = Callable[[MemoryFileSystem, Guest], None]
MEDIA_TEXTS = {
    "/.disk/info": 'Debian GNU/Linux 11.6.0 "Bullseye" - Official amd64 DVD Binary-1 20221217-10:42\n',
    "/.treeinfo": "[general]\nfamily = Fedora\nversion = 37\narch = x86_64\ntotaldiscs = 1\n",
    "/.discinfo": "1328205745.123456\nRed Hat Enterprise Linux Server 5.8\nx86_64\n1,2,3\n",
    "/media.1/products": "/ openSUSE-Leap 15.4-1\n",
    "/content": "DISTRO  cpe:/o:suse:sles:12:sp3,SUSE Linux Enterprise Server 12 SP3\nLABEL SLES 12 SP3\n",
    "/arch/version": "2022.12.01\n",
    "/.alpine-release": "alpine-standard-3.17.0 221122\n",
}


def _mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.randrange(8))
        middle = chance.choice(["", "\0", "\xe9", "9" * 40, "=", "\n", '"', ".", text[start:end] * 3, "[", " "])
        text = text[:start] + middle + text[end:]
    return text


def _run(files: dict[str, str], kind: str) -> None:
    tree = MemoryFileSystem(files)
    room = {"linux": linux, "freebsd": bsd, "netbsd": bsd, "openbsd": bsd}.get(kind, others)
    for detect in room.DETECTORS.values():
        try:
            detect(tree, Guest(root="/dev/sda1", type=kind))
        except (GuestctlError, OSError) as error:
            assert str(error)


def test_mutants() -> None:
    trees = [(files, "linux") for files in LINUX.values()]
    trees += [(files, name.partition("-")[0]) for name, files in OTHERS.items()]
    trees += [(files, "dos") for files in DOS.values()]
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 2
    rounds = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        files, kind = chance.choice(trees)
        _run({path: _mutated(text, chance) for path, text in files.items()}, kind)
        path, text = chance.choice(list(MEDIA_TEXTS.items()))
        text = _mutated(text, chance)
        media._DETECTORS[path](MemoryFileSystem({path: text, "/media.1/media": text}), Guest(root="/dev/sda"), text)
        rounds += 1
    assert rounds > 50


@pytest.mark.parametrize("unit", ["1", "1.", "release 1 (", " ", "a", "Update 1 ", '"', "Solaris ", "=", "\\"])
def test_long_lines(unit: str) -> None:
    """No expression takes more than time in proportion: these lines are as long as a file may be."""
    line = unit * ((1 << 20) // len(unit))
    started = time.process_time()
    for path in ("/etc/redhat-release", "/etc/slackware-version", "/etc/os-release", "/etc/SuSE-release"):
        _run({path: line, "/etc/debian_version": line}, "linux")
    _run({"/etc/motd": "FreeBSD " + line, "/etc/rc.conf": line, "/bin/freebsd-version": line}, "freebsd")
    _run({"/etc/release": line, "/etc/vfstab": ""}, "solaris")
    for path, detect in media._DETECTORS.items():
        detect(MemoryFileSystem({path: line, "/media.1/media": line}), Guest(root="/dev/sda"), line)
    assert time.process_time() - started < 20


def test_deep_xml() -> None:
    text = "<a>" * 100_000
    data = bytearray(208)
    data[:8] = b"MSWIM\0\0\0"
    xml = (text + text.replace("<", "</")).encode("utf-16-le")
    data[72:88] = len(xml).to_bytes(8, "little") + (208).to_bytes(8, "little")
    assert read_wim_xml(MemoryDevice(bytes(data) + xml)).tag == "a"
