"""Roots that are not where they seem to be: OSTree's deployments, /usr apart, NixOS, Container Linux; and others'."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Run
from guestctl.core.types import GuestType
from guestctl.detectors import inspect
from guestctl.machine import Machine, MountTree
from guestctl.machine.roots import Root, find_root
from memory_filesystem import Link, MemoryFileSystem

Files = Mapping[str, str | None]
OS_RELEASE = 'ID=fedora\nVERSION_ID=38\nPRETTY_NAME="Fedora Linux 38 ({})"\n'
CHECKSUM = "1" * 64
OLD = "2" * 64
BOOT_CHECKSUM = "3" * 64


class Part(NamedTuple):
    files: Files
    type: str = "8300"
    name: str = ""
    label: str = ""
    attributes: str = ""


def _write(folder: Path, files: Files) -> Path:
    for path, content in files.items():
        place = folder / path.lstrip("/")
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            place.symlink_to(str(content))
        else:
            place.write_text(content)
    return folder


def _disk(run: Run, folder: Path, parts: list[Part]) -> Path:
    """A GPT disk with a partition of 8 MiB and an ext4 for each of `parts`."""
    image = folder / "disk.raw"
    with image.open("wb") as stream:
        stream.truncate((len(parts) * 8 + 2) << 20)
    for number, part in enumerate(parts, 1):
        where = f"{(number - 1) * 16384 + 2048}:+8191K"
        run("sgdisk", f"-n{number}:{where}", f"-t{number}:{part.type}", f"-c{number}:{part.name}", image)
        if part.attributes:
            run("sgdisk", f"-A{number}:=:{part.attributes}", image)
        tree = _write(folder / f"tree{number}", part.files)
        filesystem = folder / f"part{number}"
        filesystem.write_bytes(b"")
        os.truncate(filesystem, 6 << 20)
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", part.label, "-d", tree, filesystem)
        with image.open("r+b") as stream:
            stream.seek(((number - 1) * 8 + 1) << 20)
            stream.write(filesystem.read_bytes())
    return image


def _deployment(system: str, checksum: str, name: str) -> dict[str, str | None]:
    base = f"/ostree/deploy/{system}/deploy/{checksum}.0"
    return {
        f"{base}.origin": "[origin]\nrefspec=fedora:fedora/38/x86_64/silverblue\n",
        f"{base}/usr/lib/os-release": OS_RELEASE.format(name),
        f"{base}/usr/bin/sh": "",
        f"{base}/bin": Link("usr/bin"),
        f"{base}/ostree": Link("sysroot/ostree"),
        f"{base}/home": Link("var/home"),
        f"{base}/etc/os-release": Link("../usr/lib/os-release"),
        f"{base}/etc/hostname": f"{name}\n",
        f"{base}/etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
        f"{base}/var": None,
        f"{base}/sysroot": None,
        f"{base}/boot": None,
    }


def _sysroot() -> dict[str, str | None]:
    return {
        **_deployment("fedora", CHECKSUM, "new"),
        **_deployment("fedora", OLD, "old"),
        "/ostree/boot.1": Link("boot.1.1"),
        f"/ostree/boot.1.1/fedora/{BOOT_CHECKSUM}/0": Link(f"../../../deploy/fedora/deploy/{CHECKSUM}.0"),
        f"/ostree/boot.1.1/fedora/{BOOT_CHECKSUM}/1": Link(f"../../../deploy/fedora/deploy/{OLD}.0"),
        "/ostree/deploy/fedora/var/home/ada/letter": "dear\n",
        "/ostree/repo/config": "[core]\n",
    }


def _entry(version: int, number: int) -> str:
    return (
        f"title Fedora Linux 38 (ostree:{number})\nversion {version}\n"
        f"options rd.luks.options=discard root=LABEL=root ostree=/ostree/boot.1/fedora/{BOOT_CHECKSUM}/{number} rw\n"
        f"linux /ostree/fedora-{BOOT_CHECKSUM}/vmlinuz\n"
    )


@pytest.mark.parametrize(("first", "name"), [(0, "new"), (1, "old")])
def test_ostree_with_a_boot_partition(run: Run, tmp_path: Path, first: int, name: str) -> None:
    """The entry with the highest version names the deployment, wherever it lies in the menu's directory."""
    boot: Files = {
        "/loader.1/entries/ostree-1-fedora.conf": _entry(1, 1 - first),
        "/loader.1/entries/ostree-2-fedora.conf": _entry(2, first),
        "/loader": Link("loader.1"),
        f"/ostree/fedora-{BOOT_CHECKSUM}/vmlinuz": "kernel",
    }
    image = _disk(run, tmp_path, [Part(boot, label="boot"), Part(_sysroot(), label="root")])
    with Machine.open(image) as machine:
        (guest,) = machine.guests()
        assert (guest.root, guest.mountpoints) == ("/dev/sda2", {"/": "/dev/sda2", "/boot": "/dev/sda1"})
        tree = guest.tree
        assert tree.read_text("/etc/hostname") == f"{name}\n"
        assert tree.read_text("/home/ada/letter") == "dear\n"
        assert tree.read_text("/ostree/repo/config") == "[core]\n"
        assert tree.read_text(f"/boot/ostree/fedora-{BOOT_CHECKSUM}/vmlinuz") == "kernel"
        paths = [path for path, _, _ in tree.find("/")]
        assert len(paths) == len(set(paths))
        (found,) = inspect(machine).guests
        assert (found.product_name, found.hostname) == (f"Fedora Linux 38 ({name})", name)
        assert machine.all_warnings() == []


def test_ostree_on_one_filesystem(run: Run, tmp_path: Path) -> None:
    """Without entries that name one the newest deployment is taken; /boot is that of the whole."""
    files = {**_sysroot(), "/boot/loader/entries/other.conf": "title Other\noptions root=/dev/sda9\n"}
    image = _disk(run, tmp_path, [Part(files, label="root")])
    deployments = tmp_path / "tree1/ostree/deploy/fedora/deploy"
    os.utime(deployments / f"{OLD}.0", (10**9, 10**9))
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-F",
        "-L",
        "root",
        "-d",
        tmp_path / "tree1",
        tmp_path / "part1",
    )
    with Machine.open(tmp_path / "part1") as machine:
        (guest,) = machine.guests()
        assert guest.tree.read_text("/etc/hostname") == "new\n"
        assert guest.tree.is_file("/boot/loader/entries/other.conf")
        assert guest.tree.listdir("/var/home") == ["ada"]
    with Machine.open(image) as machine:
        assert len(machine.guests()) == 1


def test_usr_apart(run: Run, tmp_path: Path) -> None:
    root: Files = {
        "/bin": Link("usr/bin"),
        "/etc/os-release": Link("../usr/lib/os-release"),
        "/etc/fstab": "LABEL=usr /usr ext4 ro 0 0\n",
        "/usr": None,
    }
    usr: Files = {"/bin/sh": "", "/lib/os-release": OS_RELEASE.format("Server")}
    image = _disk(run, tmp_path, [Part(usr, label="usr"), Part(root)])
    with Machine.open(image) as machine:
        (found,) = inspect(machine).guests
        assert (found.root, found.mountpoints["/usr"]) == ("/dev/sda2", "/dev/sda1")
        assert found.product_name == "Fedora Linux 38 (Server)"


@pytest.mark.parametrize(("attributes", "device"), [("0003000000000000", "/dev/sda2"), ("", "/dev/sda1")])
def test_container_linux(run: Run, tmp_path: Path, attributes: str, device: str) -> None:
    """/usr comes from the partition of the highest priority (bits 48 to 51)."""
    usr = [
        {"/bin/sh": "", "/lib/os-release": f"ID=flatcar\nVERSION_ID=3510.{number}.0\nPRETTY_NAME=Flatcar\n"}
        for number in (1, 2)
    ]
    root: Files = {
        "/bin": Link("usr/bin"),
        "/etc/os-release": Link("../usr/lib/os-release"),
        "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "/usr": None,
    }
    kind = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"
    parts = [
        Part(usr[0], kind, "USR-A", attributes="0002000000000000" if attributes else ""),
        Part(usr[1], kind, "USR-B", attributes=attributes),
        Part(root, name="ROOT"),
    ]
    with Machine.open(_disk(run, tmp_path, parts)) as machine:
        (found,) = inspect(machine).guests
        assert found.mountpoints == {"/": "/dev/sda3", "/usr": device}
        assert (found.distro, found.major_version, found.minor_version) == ("flatcar", 3510, int(device[-1]))


NIX = "/nix/store/0c5k3fv5-nixos-system-nixos-22.11"


@pytest.mark.parametrize(
    ("files", "distro", "version"),
    [
        (  # an image that never started: /etc is made by the first start
            {
                "/nix/var/nix/profiles/system": Link("system-1-link"),
                "/nix/var/nix/profiles/system-1-link": Link(NIX),
                f"{NIX}/etc": Link("/nix/store/1a-etc/etc"),
                "/nix/store/1a-etc/etc/os-release": 'ID=nixos\nVERSION_ID="22.11"\nPRETTY_NAME="NixOS 22.11"\n',
            },
            "nixos",
            (22, 11),
        ),
        (
            {
                "/system/build.prop": "ro.build.version.release=9\nro.product.model=x86\n",
                "/system/bin/sh": "",
            },
            "android",
            (9, None),
        ),
        ({"/build.prop": "ro.build.version.release=8.1.0\n", "/bin/sh": ""}, "android", (8, 1)),
        (
            {
                "/etc/lsb-release": "CHROMEOS_RELEASE_NAME=Chrome OS\nCHROMEOS_RELEASE_VERSION=15474.70.0\n",
                "/etc/fstab": "",
                "/bin/sh": "",
            },
            "chromeos",
            (15474, 70),
        ),
        (  # a container's
            {"/etc/os-release": "ID=wolfi\nVERSION_ID=20230201\nPRETTY_NAME=Wolfi\n", "/usr/lib/libc.so": ""},
            "wolfi",
            (20230201, None),
        ),
    ],
)
def test_other_linux(run: Run, tmp_path: Path, files: Files, distro: str, version: tuple[int, int | None]) -> None:
    with Machine.open(_disk(run, tmp_path, [Part(files)])) as machine:
        (guest,) = inspect(machine).guests
    assert (guest.type, guest.distro) == ("linux", distro)
    assert (guest.major_version, guest.minor_version) == version


class Fat(MemoryFileSystem):
    type = "vfat"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"/hurd/console": "", "/hurd/null": "", "/etc/fstab": "", "/bin/sh": ""}, GuestType.HURD),
        ({"/bsd": "", "/etc/fstab": "", "/bin/sh": ""}, GuestType.OPENBSD),
        ({"/netbsd": "", "/etc/release": "", "/bin/sh": ""}, GuestType.NETBSD),
        ({"/etc/freebsd-update.conf": "", "/etc/fstab": "", "/bin/sh": ""}, GuestType.FREEBSD),
        ({"/boot/kernel/kernel": "", "/etc/motd": "DragonFly v6.4.0-RELEASE\n"}, GuestType.DRAGONFLY),
        ({"/service/vm": "", "/etc/version": "3.3.0\n", "/bin/sh": ""}, GuestType.MINIX),
        ({"/etc/vfstab": "", "/etc/release": "Oracle Solaris 10\n", "/bin": Link("usr/bin")}, GuestType.SOLARIS),
        ({"/etc/fstab": "", "/bin/sh": "", "/boot/kernel/kernel": "", "/etc/motd": "hello\n"}, GuestType.LINUX),
        ({"/etc/fstab": ""}, None),
        ({"/KERNEL.SYS": "", "/COMMAND.COM": ""}, None),  # not on FAT
        ({"/ostree": None}, None),
        ({"/a": Link("b"), "/b": Link("a"), "/etc": Link("a"), "/bin": Link("/bin")}, None),
    ],
)
def test_families(files: Files, kind: GuestType | None) -> None:
    assert find_root(MemoryFileSystem(files)) == (Root(kind) if kind else None)


def test_dos() -> None:
    assert find_root(Fat({"/KERNEL.SYS": "", "/COMMAND.COM": ""})) == Root(GuestType.DOS)
    assert find_root(Fat({"/IO.SYS": "", "/MSDOS.SYS": "", "/COMMAND.COM": ""})) == Root(GuestType.DOS)
    assert find_root(Fat({"/IO.SYS": "", "/COMMAND.COM": ""})) is None
    assert find_root(Fat({"/EFI/BOOT/BOOTX64.EFI": ""})) is None


def test_tree_below_a_directory() -> None:
    filesystem = MemoryFileSystem({"/a/b/file": "b", "/a/var": None, "/state/x": "x", "/a/up": Link("../../../b/file")})
    tree = MountTree(filesystem, "/a")
    tree.mount("/var", filesystem, "/state")
    assert tree.read_text("/up") == "b"  # nothing leads out of it
    assert tree.read_text("/var/x") == "x"
    assert [path for path, _, _ in tree.find("/")] == ["/", "/b", "/b/file", "/var", "/var/x", "/up"]
    with pytest.raises(NotADirectoryError):
        tree.mount("/var", filesystem, "/a/b/file")


def test_hostile_deployments(run: Run, tmp_path: Path) -> None:
    """Loops, links that lead elsewhere and entries that name no deployment cost nothing but that entry."""
    files = {
        **_deployment("fedora", CHECKSUM, "new"),
        "/ostree/deploy/evil": Link("../deploy"),
        "/ostree/boot.1": Link("boot.1"),
        "/boot/loader/entries/a.conf": "version 9\noptions ostree=/ostree/boot.1/x\n",
        "/boot/loader/entries/b.conf": "version 8\noptions ostree=/../../etc\n",
        "/boot/loader/entries/c.conf": "version 99999999999999999999\noptions ostree=/ostree/deploy/fedora\n",
        "/boot/loader/entries/d.conf": Link("d.conf"),
        "/boot/loader/entries/e.conf": "",
    }
    with Machine.open(_disk(run, tmp_path, [Part(files)])) as machine:
        (guest,) = machine.guests()
        assert guest.tree.read_text("/etc/hostname") == "new\n"


def test_dos_versions(run: Run, tmp_path: Path) -> None:
    """The texts of MS-DOS 6.22's COMMAND.COM and of FreeDOS's VERSION.FDI, on FAT."""
    cases = {
        "msdos": (
            {
                "IO.SYS": b"",
                "MSDOS.SYS": b"",
                "COMMAND.COM": b"\xe9" + bytes(99) + b"Microsoft(R) MS-DOS(R) Version 6.22\r\n",
            },
            "msdos6.22",
        ),
        "freedos": (
            {"KERNEL.SYS": b"", "COMMAND.COM": b"", "FDOS/VERSION.FDI": b"PLATFORM=FreeDOS\r\nVERSION=1.2\r\n"},
            "freedos1.2",
        ),
        "old": ({"IO.SYS": b"", "MSDOS.SYS": b"", "COMMAND.COM": struct.pack("<100I", *range(100))}, None),
    }
    for name, (files, osinfo) in cases.items():
        image = tmp_path / f"{name}.img"
        image.write_bytes(bytes(1440 << 10))
        run("mkfs.fat", image)
        for path, content in files.items():
            source = tmp_path / "file"
            source.write_bytes(content)
            if "/" in path:
                run("mmd", "-i", image, f"::{path.partition('/')[0]}")
            run("mcopy", "-i", image, source, f"::{path}")
        with Machine.open(image) as machine:
            (guest,) = inspect(machine).guests
        assert (guest.type, guest.osinfo, guest.arch) == ("dos", osinfo, "i386")
