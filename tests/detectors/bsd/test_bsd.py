"""BSD guests: roots that makefs wrote, in disklabels that are written here as <sys/disklabel.h> has them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from conftest import Run
from guestctl.detectors import inspect
from guestctl.detectors.bsd import DETECTORS
from guestctl.detectors.report import Guest
from guestctl.machine import Machine
from guestctl.machine.bsd_devices import find_bsd_device
from memory_filesystem import MemoryFileSystem

SECTOR = 512
SLICE_START, ROOT_SECTORS, VAR_SECTORS = 63, 16384, 8192
SHELL = b"\x7fELF\x02\x01\x01\x09" + bytes(8) + struct.pack("<HHI", 2, 62, 1)
FREEBSD_VERSION = (
    "#!/bin/sh\n#\n# SPDX-License-Identifier: BSD-2-Clause\nset -e\n\n"
    'USERLAND_VERSION="13.2-RELEASE-p3"\n\n: ${LOADER_DIR:=/boot}\n'
)
RC_CONF = (
    'hostname="beastie.example.org"\nifconfig_vtnet0="DHCP"\nsshd_enable="YES" # remote access\n'
    'ntpd_enable="NO"\nzfs_enable="YES"\n'
)


def _tree(folder: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def _label(entries: dict[str, tuple[int, int, int]]) -> bytes:
    """A disklabel of eight entries: letter -> (size, offset, type)."""
    label = bytearray(148 + 8 * 16)
    struct.pack_into("<I", label, 0, 0x82564557)
    struct.pack_into("<IHH", label, 132, 0x82564557, 0, 8)
    for letter, (size, offset, kind) in entries.items():
        struct.pack_into("<IIIB", label, 148 + 16 * (ord(letter) - 97), size, offset, 1024, kind)
    checksum = 0
    for (word,) in struct.iter_unpack("<H", label):
        checksum ^= word
    struct.pack_into("<H", label, 136, checksum)
    return bytes(label)


@pytest.fixture(scope="module")
def sliced(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FreeBSD as sysinstall laid it out: a slice with root, swap and, after a gap in the letters, /var."""
    folder = tmp_path_factory.mktemp("freebsd")
    root = _tree(
        folder / "root",
        {
            "/bin/freebsd-version": FREEBSD_VERSION,
            "/bin/sh": SHELL,
            "/etc/fstab": "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#\n"
            "/dev/ada0s1b\tnone\tswap\tsw\t0\t0\n/dev/ada0s1a\t/\tufs\trw\t1\t1\n/dev/ada0s1e\t/var\tufs\trw\t2\t2\n",
            "/etc/rc.conf": RC_CONF,
            "/etc/master.passwd": "root:*:0:0::0:0:Charlie &:/root:/bin/csh\n",
            "/etc/passwd": "root:*:0:0:Charlie &:/root:/bin/csh\nsshd:*:22:22::/var/empty:/usr/sbin/nologin\n",
        },
    )
    (root / "var").mkdir()
    var = _tree(folder / "var", {"/db/pkg/keep": "", "/log/messages": "booted\n"})
    image = folder / "disk.raw"
    entries = {
        "a": (ROOT_SECTORS, 0, 7),
        "b": (2048, ROOT_SECTORS, 1),
        "c": (ROOT_SECTORS + 2048 + VAR_SECTORS, 0, 0),
        "e": (VAR_SECTORS, ROOT_SECTORS + 2048, 7),
    }
    total = entries["c"][0]
    with image.open("wb") as stream:
        stream.truncate((SLICE_START + total) * SECTOR)
        stream.seek(446)
        stream.write(struct.pack("<B3sB3sII", 0x80, b"\0\1\1", 0xA5, b"\xfe\xff\xff", SLICE_START, total))
        stream.seek(510)
        stream.write(b"\x55\xaa")
        for letter, tree in (("a", root), ("e", var)):
            size, offset, _ = entries[letter]
            part = folder / f"part-{letter}"
            run("makefs", "-t", "ffs", "-s", str(size * SECTOR), "-o", "version=2", part, tree)
            data = part.read_bytes()
            stream.seek((SLICE_START + offset) * SECTOR)
            stream.write(data)
        stream.seek((SLICE_START + 1) * SECTOR)
        stream.write(_label(entries))
    return image


def test_freebsd(sliced: Path) -> None:
    with Machine.open(sliced) as machine:
        report = inspect(machine)
        (guest,) = report.guests
        assert (guest.root, guest.mountpoints) == ("/dev/sda5", {"/": "/dev/sda5", "/var": "/dev/sda7"})
        assert machine.guests()[0].tree.read_text("/var/log/messages") == "booted\n"
    assert (guest.type, guest.format, guest.distro, guest.product_name) == (
        "freebsd",
        "installed",
        "freebsd",
        "FreeBSD 13.2-RELEASE-p3",
    )
    assert (guest.major_version, guest.minor_version, guest.osinfo) == (13, 2, "freebsd13.2")
    assert (guest.arch, guest.hostname) == ("x86_64", "beastie.example.org")
    assert guest.services == ["sshd", "zfs"]
    assert [user.name for user in guest.users] == ["root"]


@pytest.mark.parametrize(
    ("spec", "device"),
    [
        ("/dev/ada0s1a", "/dev/sda5"),
        ("/dev/da0s1e", "/dev/sda7"),
        ("/dev/vtbd0s1b", "/dev/sda6"),
        ("/dev/ada0s1d", None),  # no such entry
        ("/dev/ada0s2a", None),
        ("/dev/ad4s1a", "/dev/sda5"),  # the fourth of its controller, and the only one there is
        ("/dev/wd0e", "/dev/sda7"),
        ("1c2d3e4f5a6b7c8d.a", "/dev/sda5"),
        ("/dev/ada0p1", None),
        ("/dev/gpt/nothing", None),
        ("/dev/../sda5", None),
        ("/dev/cd0", None),
    ],
)
def test_names_of_slices(sliced: Path, spec: str, device: str | None) -> None:
    with Machine.open(sliced) as machine:
        assert find_bsd_device(machine, spec) == device


def test_names_on_a_gpt_disk(run: Run, tmp_path: Path) -> None:
    tree = _tree(
        tmp_path / "tree", {"/bin/freebsd-version": FREEBSD_VERSION, "/etc/fstab": "/dev/gpt/rootfs / ufs rw 1 1\n"}
    )
    part, image = tmp_path / "part", tmp_path / "disk.raw"
    run("makefs", "-t", "ffs", "-s", "8m", "-o", "version=2", part, tree)
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    run("sgdisk", "-n1:2048:+512K", "-t1:a501", "-n2:4096:+8M", "-t2:a503", "-c2:rootfs", image)
    with image.open("r+b") as stream:
        stream.seek(4096 * SECTOR)
        stream.write(part.read_bytes())
    with Machine.open(image) as machine:
        (guest,) = machine.guests()
        assert (guest.root, guest.type) == ("/dev/sda2", "freebsd")
        partition = machine.partition("/dev/sda2")
        identity = machine.identity("/dev/sda2")
        assert partition is not None
        assert identity is not None
        for spec in (
            "/dev/ada0p2",
            "/dev/gpt/rootfs",
            f"/dev/gptid/{partition.uuid}",
            f"/dev/ufsid/{identity.uuid}",
            "NAME=rootfs",
            "/dev/dk1",
        ):
            assert find_bsd_device(machine, spec) == "/dev/sda2", spec


@pytest.mark.parametrize(
    ("family", "files", "expected"),
    [
        (
            "freebsd",  # before freebsd-version(1)
            {
                "/etc/motd": "FreeBSD 9.1-RELEASE (GENERIC) #0 r243825: Tue Dec  4 09:23:10 UTC 2012\n\nWelcome!\n",
                "/etc/rc.conf": "hostname='old.example.org'\n",
            },
            ("FreeBSD 9.1-RELEASE (GENERIC) #0 r243825: Tue Dec  4 09:23:10 UTC 2012", 9, 1, "old.example.org"),
        ),
        (
            "netbsd",
            {
                "/etc/release": "NetBSD 9.3/amd64\nBuild settings:\n",
                "/etc/rc.conf": "rc_configured=YES\nhostname=orange.example.org\nsshd=YES\n",
            },
            ("NetBSD 9.3/amd64", 9, 3, "orange.example.org"),
        ),
        (
            "openbsd",
            {
                "/etc/motd": "OpenBSD 7.2 (GENERIC.MP) #758: Tue Sep 27 11:57:54 MDT 2022\n\nWelcome to OpenBSD!\n",
                "/etc/myname": "puffy.example.org\n",
            },
            ("OpenBSD 7.2 (GENERIC.MP) #758: Tue Sep 27 11:57:54 MDT 2022", 7, 2, "puffy.example.org"),
        ),
        (
            "openbsd",  # never started, so that only its kernel knows
            {
                "/etc/motd": "OpenBSD ?.? (UNKNOWN)\n",
                "/bsd": b"\x7fELF" + bytes(5 << 20) + b"OpenBSD 7.4 (GENERIC) #1336: Tue Oct 10 09:02:39 MDT 2023\n\0",
            },
            ("OpenBSD 7.4 (GENERIC) #1336: Tue Oct 10 09:02:39 MDT 2023", 7, 4, None),
        ),
        (
            "dragonfly",
            {"/etc/motd": "DragonFly v6.4.0-RELEASE (X86_64_GENERIC) #0: Fri Dec 30 04:12:12 UTC 2022\n"},
            ("DragonFly v6.4.0-RELEASE (X86_64_GENERIC) #0: Fri Dec 30 04:12:12 UTC 2022", 6, 4, None),
        ),
        ("netbsd", {}, (None, None, None, None)),
    ],
)
def test_release_and_host_name(family: str, files: dict[str, str | bytes], expected: tuple[object, ...]) -> None:
    guest = Guest(root="/dev/sda1", type=family)
    for detect in DETECTORS.values():
        detect(MemoryFileSystem(files), guest)
    assert guest.distro == family
    assert (guest.product_name, guest.major_version, guest.minor_version, guest.hostname) == expected


def test_text_at_the_end_of_a_chunk() -> None:
    """The kernel's text is found wherever it lies, also across the pieces that are read."""
    text = b"NetBSD 9.3 (GENERIC) #0: Thu Aug  4 15:30:37 UTC 2022\n"
    for place in range((4 << 20) - len(text), 4 << 20, 7):
        guest = Guest(root="/dev/sda1", type="netbsd")
        DETECTORS["release"](MemoryFileSystem({"/netbsd": bytes(place) + text + bytes(100)}), guest)
        assert (guest.product_name, guest.major_version) == (text.decode().strip(), 9)
