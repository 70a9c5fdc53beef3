"""Whole guests of every family on disks as their installers lay them out, and every field that inspection tells.

Release files are those of tests/releases.py, which say what distribution, name and version are to be found; the short
identifiers are those of osinfo-db. Package databases are real where there is one at hand, and what is installed is
what the package manager says of the same database.
"""

from __future__ import annotations

import lzma
import re
import sqlite3
import tarfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import guest_images as make
from conftest import Run
from guest_images import Files, Part
from guestctl.detectors import inspect, report
from guestctl.machine import Machine
from memory_filesystem import Link
from releases import LINUX, OTHERS

ROOT_UUID = "11111111-2222-4333-8444-555555555555"
HOME_UUID = "66666666-7777-4888-8999-aaaaaaaaaaaa"
ELF = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\x3e\0" + bytes(44)  # EM_X86_64
ROOT_USER = report.User("root", 0, 0, "root", "/root", "/bin/bash")
ALICE = report.User("alice", 1000, 1000, "Alice", "/home/alice", "/bin/bash")
PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\n"
)
SYSTEMD: Files = {
    "/bin": Link("usr/bin"),
    "/lib": Link("usr/lib"),
    "/sbin": Link("usr/sbin"),
    "/usr/bin/sh": Link("bash"),
    "/usr/bin/bash": ELF,
    "/usr/sbin/init": Link("../lib/systemd/systemd"),
    "/usr/lib/systemd/systemd": ELF,
    "/etc/systemd/system/multi-user.target.wants/sshd.service": Link("/usr/lib/systemd/system/sshd.service"),
    "/etc/passwd": PASSWD,
}


def _check(image: Path, expected: report.Guest, warnings: Iterable[str] = ()) -> list[report.Application]:
    """Every field but the applications, which are given back."""
    with Machine.open(image) as machine:
        found = inspect(machine)
    assert found.warnings == list(warnings)
    (guest,) = found.guests
    applications, guest.applications = guest.applications, None
    assert msgspec.to_builtins(guest) == msgspec.to_builtins(expected)
    assert applications
    return applications


def _words(applications: Iterable[report.Application]) -> list[str]:
    return sorted(
        f"{item.name} {item.epoch}:{item.version}{'-' * bool(item.release)}{item.release} {item.arch}"
        for item in applications
    )


def _with_epoch(version: str) -> str:
    return version if ":" in version else f"0:{version}"


def _expected(root: str, mountpoints: dict[str, str], **facts: Any) -> report.Guest:
    return report.Guest(
        root=root,
        format="installed",
        mountpoints=mountpoints,
        filesystems=sorted(set(mountpoints.values())),
        **{"type": "linux", "arch": "x86_64", "users": [ROOT_USER, ALICE], **facts},
    )


def _rpm(run: Run, database: Path, backend: str) -> list[str]:
    query = "%{NAME} %|EPOCH?{%{EPOCH}}:{0}|:%{VERSION}-%{RELEASE} %|ARCH?{%{ARCH}}|\\n"
    options = ("--dbpath", database, "--define", f"_db_backend {backend}")
    return sorted(run("rpm", "-qa", *options, "--qf", query).splitlines())


def _database(shared: Path, name: str) -> bytes:
    return lzma.decompress((shared / "rpmdb" / f"{name}.xz").read_bytes())


def test_ubuntu(run: Run, tmp_path: Path) -> None:
    """GPT with an EFI system partition, ext4; the database of dpkg is this machine's."""
    status = Path("/var/lib/dpkg/status")
    if not status.is_file():
        pytest.skip("needs dpkg's database")
    kernel = "5.15.0-91-generic"
    files: Files = {
        **LINUX["ubuntu-22.04"],
        **SYSTEMD,
        "/etc/fstab": f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nUUID=1A2B-3C4D /boot/efi vfat umask=0077 0 1\n",
        "/etc/hostname": "jammy\n",
        "/etc/localtime": Link("/usr/share/zoneinfo/Europe/Berlin"),
        "/etc/default/locale": "LANG=en_US.UTF-8\n",
        "/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA root@jammy\n",
        f"/boot/vmlinuz-{kernel}": "",
        f"/boot/initrd.img-{kernel}": "",
        f"/usr/lib/modules/{kernel}/modules.dep": "",
        "/boot/efi": None,
        "/var/lib/dpkg/status": status.read_bytes(),
    }
    root = make.tree(tmp_path / "root", files)
    esp = make.fat(run, tmp_path, {"/EFI/ubuntu/shimx64.efi": "MZ"}, "1a2b3c4d")
    image = make.disk(
        run, tmp_path / "disk", "gpt", [Part("uefi", esp), Part("linux", make.ext4(run, tmp_path, root, ROOT_UUID))]
    )
    fields = "${db:Status-Status}|${Package} ${Version} ${Architecture}\n"
    listing = run("dpkg-query", "--admindir", root / "var/lib/dpkg", "-W", "-f", fields).splitlines()
    words = [line.partition("|")[2].split(" ") for line in listing if line.startswith("installed|")]
    expected = _expected(
        "/dev/sda2",
        {"/": "/dev/sda2", "/boot/efi": "/dev/sda1"},
        distro="ubuntu",
        product_name="Ubuntu 22.04.3 LTS",
        major_version=22,
        minor_version=4,
        osinfo="ubuntu22.04",
        hostname="jammy",
        package_format="deb",
        package_management="apt",
        init_system="systemd",
        firmware="uefi",
        kernels=[report.Kernel(kernel, f"/boot/vmlinuz-{kernel}", f"/boot/initrd.img-{kernel}", True)],
        timezone="Europe/Berlin",
        locale="en_US.UTF-8",
        services=["sshd.service"],
        ssh_host_keys=["ssh-ed25519"],
    )
    installed = sorted(f"{name} {_with_epoch(version)} {arch}" for name, version, arch in words)
    assert _words(_check(image, expected)) == installed


@pytest.mark.root
def test_fedora(run: Run, mount: Any, shared: Path, tmp_path: Path) -> None:
    """Subvolumes root and home of a Btrfs, /boot on ext4; rpm's database is SQLite."""
    database = _database(shared, "cbl-mariner-2.0.rpmdb.sqlite")
    (tmp_path / "rpmdb.sqlite").write_bytes(database)
    boot = make.ext4(
        run, tmp_path, make.tree(tmp_path / "boot", {"/vmlinuz-6.5.6-300.fc39.x86_64": "", "/efi": None}), HOME_UUID
    )
    files: Files = {
        **LINUX["fedora-39"],
        **SYSTEMD,
        "/boot": None,
        "/home": None,
        "/etc/fstab": f"UUID={ROOT_UUID} / btrfs subvol=root,compress=zstd:1 0 0\nUUID={HOME_UUID} /boot ext4 defaults"
        f" 1 2\nUUID=1A2B-3C4D /boot/efi vfat umask=0077 0 2\nUUID={ROOT_UUID} /home btrfs subvol=home 0 0\n",
        "/etc/hostname": "fedora.example.org\n",
        "/etc/localtime": Link("../usr/share/zoneinfo/America/New_York"),
        "/etc/locale.conf": "LANG=en_GB.UTF-8\n",
        "/usr/bin/dnf-3": "",
        "/usr/bin/dnf": Link("dnf-3"),
        "/usr/lib/modules/6.5.6-300.fc39.x86_64/modules.dep": "",
        "/usr/lib/sysimage/rpm/rpmdb.sqlite": database,
        "/var/lib/rpm": Link("../../usr/lib/sysimage/rpm"),
    }
    system = make.btrfs(run, tmp_path, make.tree(tmp_path / "empty", {"/.keep": ""}), ROOT_UUID)
    with mount(system, "rw,loop") as top:
        for name in ("root", "home"):
            run("btrfs", "subvolume", "create", top / name)
        make.tree(top / "root", files)
    esp = make.fat(run, tmp_path, {"/EFI/fedora/shimx64.efi": "MZ"}, "1a2b3c4d")
    image = make.disk(run, tmp_path / "disk", "gpt", [Part("uefi", esp), Part("linux", boot), Part("linux", system)])
    expected = _expected(
        "btrfsvol:/dev/sda3/root",
        {
            "/": "btrfsvol:/dev/sda3/root",
            "/boot": "/dev/sda2",
            "/boot/efi": "/dev/sda1",
            "/home": "btrfsvol:/dev/sda3/home",
        },
        distro="fedora",
        product_name="Fedora Linux 39 (Server Edition)",
        product_variant="server",
        major_version=39,
        osinfo="fedora39",
        hostname="fedora.example.org",
        package_format="rpm",
        package_management="dnf",
        init_system="systemd",
        firmware="uefi",
        kernels=[report.Kernel("6.5.6-300.fc39.x86_64", "/boot/vmlinuz-6.5.6-300.fc39.x86_64", None, True)],
        timezone="America/New_York",
        locale="en_GB.UTF-8",
        services=["sshd.service"],
    )
    assert _words(_check(image, expected)) == _rpm(run, tmp_path, "sqlite")


@pytest.mark.root
def test_centos(run: Run, shared: Path, tmp_path: Path) -> None:
    """XFS in a logical volume, the fstab by its mapper's name; rpm's database is one of Berkeley DB."""
    database = _database(shared, "libuuid.Packages")
    (tmp_path / "Packages").write_bytes(database)
    files: Files = {
        **LINUX["centos-8.5"],
        **SYSTEMD,
        "/boot": None,
        "/etc/fstab": f"/dev/mapper/cl-root / xfs defaults 0 0\nUUID={HOME_UUID} /boot ext4 defaults 0 0\n",
        "/etc/hostname": "centos.example.org\n",
        "/etc/localtime": Link("../usr/share/zoneinfo/Asia/Tokyo"),
        "/etc/locale.conf": 'LANG="ja_JP.UTF-8"\n',
        "/usr/bin/dnf": "",
        "/var/lib/rpm/Packages": database,
    }
    boot = make.ext4(run, tmp_path, make.tree(tmp_path / "boot", {"/grub2/grub.cfg": ""}), HOME_UUID)
    volume = make.logical_volume(run, tmp_path, make.xfs(run, tmp_path, files, ROOT_UUID), "cl", "root")
    image = make.disk(run, tmp_path / "disk", "dos", [Part("83", boot, ", bootable"), Part("8e", volume)])
    expected = _expected(
        "/dev/cl/root",
        {"/": "/dev/cl/root", "/boot": "/dev/sda1"},
        distro="centos",
        product_name="CentOS Linux 8",
        major_version=8,
        minor_version=5,
        osinfo="centos8",
        hostname="centos.example.org",
        package_format="rpm",
        package_management="dnf",
        init_system="systemd",
        timezone="Asia/Tokyo",
        locale="ja_JP.UTF-8",
        services=["sshd.service"],
    )
    assert _words(_check(image, expected)) == _rpm(run, tmp_path, "bdb_ro")


def test_suse(run: Run, shared: Path, tmp_path: Path) -> None:
    """Btrfs without partitions of its own for /boot; rpm's database is an ndb, which Debian's rpm does not open."""
    files: Files = {
        **LINUX["sles-15.5"],
        **SYSTEMD,
        "/etc/fstab": f"UUID={ROOT_UUID} / btrfs defaults 0 0\n",
        "/etc/hostname": "sles\n",
        "/etc/sysconfig/clock": 'TIMEZONE="Europe/Prague"\n',
        "/etc/locale.conf": "LANG=de_DE.UTF-8\n",
        "/usr/bin/zypper": "",
        "/usr/lib/sysimage/rpm/Packages.db": _database(shared, "sle15-bci.Packages.db"),
        "/var/lib/rpm": Link("../../usr/lib/sysimage/rpm"),
    }
    system = make.btrfs(run, tmp_path, make.tree(tmp_path / "root", files), ROOT_UUID)
    image = make.disk(
        run, tmp_path / "disk", "gpt", [Part("21686148-6449-6E6F-744E-656564454649", None), Part("linux", system)]
    )
    expected = _expected(
        "/dev/sda2",
        {"/": "/dev/sda2"},
        distro="sles",
        product_name="SUSE Linux Enterprise Server 15 SP5",
        major_version=15,
        minor_version=5,
        osinfo="sles15sp5",
        hostname="sles",
        package_format="rpm",
        package_management="zypper",
        init_system="systemd",
        timezone="Europe/Prague",
        locale="de_DE.UTF-8",
        services=["sshd.service"],
    )
    words = _words(_check(image, expected))
    assert len(words) == 35  # what rpm counts of the headers: tests/detectors/packages/rpm
    assert {"glibc 0:2.31-9.3.2 x86_64", "sles-release 0:15.3-55.4.1 x86_64"} < set(words)


def test_alpine(run: Run, shared: Path, tmp_path: Path) -> None:
    """A real root filesystem, on ext4 that fills the disk, as its images for clouds have it."""
    root = tmp_path / "root"
    with tarfile.open(shared / "rootfs" / "alpine-3.11.docker.tar.gz") as archive:
        (name,) = (name for name in archive.getnames() if name.endswith("/layer.tar"))
        with tarfile.open(fileobj=archive.extractfile(name)) as layer:
            layer.extractall(root, [item for item in layer if not item.isdev()], filter="fully_trusted")
    assert (root / "etc/alpine-release").read_text() == "3.11.5\n"
    text = (root / "lib/apk/db/installed").read_text()
    database = [dict(line.split(":", 1) for line in record.splitlines()) for record in text.strip().split("\n\n")]
    expected = _expected(
        "/dev/sda",
        {"/": "/dev/sda"},
        distro="alpinelinux",
        product_name="Alpine Linux v3.11",
        major_version=3,
        minor_version=11,
        osinfo="alpinelinux3.11",
        hostname="localhost",
        package_format="apk",
        package_management="apk",
        init_system="busybox",
        users=[report.User("root", 0, 0, "root", "/root", "/bin/ash")],
    )
    installed = [f"{item['P']} 0:{item['V']} {item['A']}" for item in database]
    assert len(installed) == 14
    assert _words(_check(make.ext4(run, tmp_path, root, ROOT_UUID), expected)) == sorted(installed)


def test_arch(run: Run, tmp_path: Path) -> None:
    """ext4 for / and for /home, by labels of the partitions; pacman's local database."""
    packages = {"zlib": ("1:1.3.1-2", "x86_64"), "linux": ("6.7.1.arch1-1", "x86_64"), "tzdata": ("2023d-1", "any")}
    files: dict[str, Any] = {
        **LINUX["arch"],
        **SYSTEMD,
        "/home": None,
        "/etc/fstab": "PARTLABEL=root / ext4 rw,relatime 0 1\nPARTLABEL=home /home ext4 rw,relatime 0 2\n",
        "/etc/hostname": "archbox\n",
        "/etc/localtime": Link("/usr/share/zoneinfo/Australia/Sydney"),
        "/etc/locale.conf": "LANG=en_AU.UTF-8\n",
        "/boot/vmlinuz-linux": "",
        "/boot/initramfs-linux.img": "",
        "/var/lib/pacman/local/ALPM_DB_VERSION": "9\n",
    }
    for name, (version, arch) in packages.items():
        folder = f"/var/lib/pacman/local/{name}-{version}"
        files[f"{folder}/desc"] = f"%NAME%\n{name}\n\n%VERSION%\n{version}\n\n%DESC%\nAbout it\n\n%ARCH%\n{arch}\n\n"
        files[f"{folder}/files"] = "%FILES%\n"
    root = make.tree(tmp_path / "root", files)
    home = make.ext4(run, tmp_path, make.tree(tmp_path / "home", {"/alice/.bashrc": ""}), HOME_UUID)
    parts = [
        Part("linux", make.ext4(run, tmp_path, root, ROOT_UUID), ", name=root"),
        Part("linux", home, ", name=home"),
    ]
    image = make.disk(run, tmp_path / "disk", "gpt", parts)
    listing = run("pacman", "-Qi", "--dbpath", root / "var/lib/pacman")
    installed = re.findall(r"^Name +: (\S+)\nVersion +: (\S+)\n.*\nArchitecture +: (\S+)$", listing, re.MULTILINE)
    assert len(installed) == 3
    expected = _expected(
        "/dev/sda1",
        {"/": "/dev/sda1", "/home": "/dev/sda2"},
        distro="archlinux",
        product_name="Arch Linux",
        osinfo="archlinux",
        hostname="archbox",
        package_format="pacman",
        package_management="pacman",
        init_system="systemd",
        kernels=[report.Kernel("linux", "/boot/vmlinuz-linux", "/boot/initramfs-linux.img", False)],
        timezone="Australia/Sydney",
        locale="en_AU.UTF-8",
        services=["sshd.service"],
    )
    words = sorted(f"{name} {_with_epoch(version)} {arch}" for name, version, arch in installed)
    assert _words(_check(image, expected)) == words


def test_gentoo(run: Run, tmp_path: Path) -> None:
    """XFS in a partition of an MBR; OpenRC; the records of Portage are named after the packages."""
    packages = ("sys-libs/glibc-2.38-r10", "sys-apps/openrc-0.48", "x11-libs/gtk+-3.24.39")
    records = {
        f"/var/db/pkg/{package}/{name}": text
        for package in packages
        for name, text in {
            "PF": package.partition("/")[2] + "\n",
            "SLOT": "0\n",
            "CHOST": "x86_64-pc-linux-gnu\n",
        }.items()
    }
    files: Files = {
        **LINUX["gentoo"],
        **records,
        "/bin/bash": ELF,
        "/bin/sh": Link("bash"),
        "/sbin/init": ELF,
        "/sbin/openrc": ELF,
        "/etc/runlevels/default/sshd": Link("/etc/init.d/sshd"),
        "/etc/runlevels/boot/hostname": Link("/etc/init.d/hostname"),
        "/etc/conf.d/hostname": '# Set to the hostname of this machine\nhostname="larry"\n',
        "/etc/env.d/02locale": 'LANG="C.UTF8"\n',
        "/etc/fstab": "/dev/sda1 / xfs noatime 0 1\n",
        "/etc/inittab": "id:3:initdefault:\n",
        "/etc/passwd": PASSWD,
        "/etc/timezone": "Europe/Zurich\n",
    }
    image = make.disk(run, tmp_path / "disk", "dos", [Part("83", make.xfs(run, tmp_path, files, ROOT_UUID))])
    expected = _expected(
        "/dev/sda1",
        {"/": "/dev/sda1"},
        distro="gentoo",
        product_name="Gentoo Linux",
        osinfo="gentoo",
        hostname="larry",
        package_format="ebuild",
        package_management="portage",
        init_system="openrc",
        timezone="Europe/Zurich",
        locale="C.UTF8",
        services=["hostname", "sshd"],
    )
    installed = ["glibc 0:2.38-r10 x86_64", "gtk+ 0:3.24.39 x86_64", "openrc 0:0.48 x86_64"]
    assert _words(_check(image, expected)) == installed


def test_freebsd(run: Run, tmp_path: Path) -> None:
    """UFS2 in a GPT with a boot partition, as bsdinstall makes it; tzsetup(8) copies the zone and notes its name."""
    with sqlite3.connect(tmp_path / "local.sqlite") as connection:
        connection.executescript(
            """
            CREATE TABLE packages (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, name TEXT NOT NULL,
                version TEXT NOT NULL, comment TEXT NOT NULL, desc TEXT NOT NULL, mtree_id INTEGER, message TEXT,
                arch TEXT NOT NULL, maintainer TEXT NOT NULL, www TEXT, prefix TEXT NOT NULL,
                flatsize INTEGER NOT NULL, automatic INTEGER NOT NULL, locked INTEGER NOT NULL DEFAULT 0,
                licenselogic INTEGER NOT NULL, time INTEGER);
            CREATE TABLE files (path TEXT PRIMARY KEY, sha256 TEXT, package_id INTEGER);
            CREATE TABLE licenses (id INTEGER PRIMARY KEY, license TEXT NOT NULL UNIQUE);
            CREATE TABLE pkg_licenses (package_id INTEGER, license_id INTEGER);
            INSERT INTO packages VALUES (1, 'shells/bash', 'bash', '5.2.26_1', 'GNU Bourne Again Shell', '', NULL,
                NULL, 'FreeBSD:13:amd64', 'a@FreeBSD.org', NULL, '/usr/local', 1, 0, 0, 1, 1706000000);
            INSERT INTO packages VALUES (2, 'misc/pciids', 'pciids', '20240106', 'PCI IDs', '', NULL,
                NULL, 'FreeBSD:13:*', 'a@FreeBSD.org', NULL, '/usr/local', 1, 0, 0, 1, 1706000000);
            """
        )
    connection.close()
    files: Files = {
        **OTHERS["freebsd-13.2"],
        "/bin/sh": ELF,
        "/etc/passwd": "root:*:0:0:Charlie &:/root:/bin/csh\nsshd:*:22:22::/var/empty:/usr/sbin/nologin\n",
        "/etc/localtime": b"TZif2",
        "/var/db/zoneinfo": "Europe/Oslo\n",
        "/var/db/pkg/local.sqlite": (tmp_path / "local.sqlite").read_bytes(),
    }
    system = make.ufs2(run, tmp_path, make.tree(tmp_path / "root", files))
    types = ("83BD6B9D-7F41-11DC-BE0B-001560B84F0F", "516E7CB6-6ECF-11D6-8FF8-00022D09712B")
    image = make.disk(run, tmp_path / "disk", "gpt", [Part(types[0], None), Part(types[1], system)])
    expected = _expected(
        "/dev/sda2",
        {"/": "/dev/sda2"},
        type="freebsd",
        distro="freebsd",
        product_name="FreeBSD 13.2-RELEASE-p3",
        major_version=13,
        minor_version=2,
        osinfo="freebsd13.2",
        hostname="beastie.example.org",
        package_format="pkg",
        package_management="pkg",
        timezone="Europe/Oslo",
        services=["sshd"],
        users=[report.User("root", 0, 0, "Charlie &", "/root", "/bin/csh")],
    )
    assert _words(_check(image, expected)) == ["bash 0:5.2.26_1 amd64", "pciids 0:20240106 *"]


CURRENT = r"Microsoft\Windows NT\CurrentVersion"
UNINSTALL = r"Microsoft\Windows\CurrentVersion\Uninstall"
SOFTWARE = {  # the values of these products' own hives
    "winxp": '"ProductName"="Microsoft Windows XP"\n"CurrentVersion"="5.1"\n"CurrentBuildNumber"="2600"\n',
    "win7": '"ProductName"="Windows 7 Professional"\n"InstallationType"="Client"\n"CurrentVersion"="6.1"\n'
    '"CurrentBuildNumber"="7601"\n',
    "win10": '"ProductName"="Windows 10 Pro"\n"InstallationType"="Client"\n"CurrentVersion"="6.3"\n'
    '"CurrentMajorVersionNumber"=dword:0000000a\n"CurrentMinorVersionNumber"=dword:00000000\n'
    '"CurrentBuildNumber"="16299"\n',
    # That of Windows 11 calls it "Windows 10", too: only the build tells.
    "win11": '"ProductName"="Windows 10 Pro"\n"InstallationType"="Client"\n"CurrentVersion"="6.3"\n'
    '"CurrentMajorVersionNumber"=dword:0000000a\n"CurrentMinorVersionNumber"=dword:00000000\n'
    '"CurrentBuildNumber"="22631"\n',
}
PROGRAMS = {
    rf"{UNINSTALL}\7-Zip": '"DisplayName"="7-Zip 23.01"\n"DisplayVersion"="23.01"\n"Publisher"="Igor Pavlov"\n',
    rf"{UNINSTALL}\NoName": '"SystemComponent"=dword:00000001\n',
}
SEVEN_ZIP = report.Application("7-Zip", 0, "23.01", "", "", "7-Zip 23.01", publisher="Igor Pavlov")
WINDOWS_ID = "0x1a2b3c4d"
GPT_BASIC, GPT_RESERVED = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"


def _system(hostname: str, zone: str, drive: bytes) -> dict[str, str]:
    return {
        "Select": '"Current"=dword:00000001\n',
        "MountedDevices": rf'"\\DosDevices\\C:"=hex(3):{drive.hex(",")}' + "\n",
        r"ControlSet001\Control\TimeZoneInformation": zone + "\n",
        r"ControlSet001\Services\Tcpip\Parameters": f'"Hostname"="{hostname}"\n',
    }


def _software(run: Run, shared: Path, folder: Path, name: str) -> bytes:
    minimal = shared / "registry" / "hivex-minimal"
    return make.hive(run, minimal, folder / "software", {CURRENT: SOFTWARE[name], **PROGRAMS})


def _windows(root: str, **facts: Any) -> report.Guest:
    common = {"type": "windows", "distro": "windows", "users": [], "windows_current_control_set": "ControlSet001"}
    return _expected(root, {"/": root}, **{**common, "drive_mappings": {"C": root}, **facts})


def test_windows_xp(run: Run, shared: Path, tmp_path: Path) -> None:
    """One partition, with the names in the letters that XP has them in."""
    drive = bytes.fromhex("4d3c2b1a") + make.MIB.to_bytes(8, "little")
    keys = _system("XPBOX", '"StandardName"="Pacific Standard Time"', drive)
    files: Files = {
        "/WINDOWS/system32/config/software": _software(run, shared, tmp_path, "winxp"),
        "/WINDOWS/system32/config/system": make.hive(
            run, shared / "registry" / "hivex-minimal", tmp_path / "system", keys
        ),
        "/WINDOWS/system32/cmd.exe": make.program(0x14C),
        "/Documents and Settings/Administrator/NTUSER.DAT": "",
        "/boot.ini": "[boot loader]\r\n",
    }
    parts = [Part("7", make.ntfs(run, tmp_path / "c", files), ", bootable")]
    expected = _windows(
        "/dev/sda1",
        product_name="Microsoft Windows XP",
        major_version=5,
        minor_version=1,
        arch="i386",
        osinfo="winxp",
        hostname="XPBOX",
        timezone="Pacific Standard Time",
        windows_systemroot="/WINDOWS",
    )
    assert _check(make.disk(run, tmp_path / "disk", "dos", parts, WINDOWS_ID), expected) == [SEVEN_ZIP]


def test_windows_7(run: Run, shared: Path, tmp_path: Path) -> None:
    """A partition that is reserved for the boot manager, then C:."""
    drive = bytes.fromhex("4d3c2b1a") + (65 * make.MIB).to_bytes(8, "little")
    keys = _system("SEVEN", '"TimeZoneKeyName"="W. Europe Standard Time"\n"StandardName"="@tzres.dll,-322"', drive)
    minimal = shared / "registry" / "hivex-minimal"
    files: Files = {
        "/Windows/System32/config/SOFTWARE": _software(run, shared, tmp_path, "win7"),
        "/Windows/System32/config/SYSTEM": make.hive(run, minimal, tmp_path / "system", keys),
        "/Windows/System32/cmd.exe": make.program(0x8664),
        "/Users/Public/desktop.ini": "",
    }
    parts = [
        Part("7", make.ntfs(run, tmp_path / "reserved", {"/bootmgr": "", "/Boot/BCD": ""}), ", bootable"),
        Part("7", make.ntfs(run, tmp_path / "c", files)),
    ]
    expected = _windows(
        "/dev/sda2",
        product_name="Windows 7 Professional",
        product_variant="Client",
        major_version=6,
        minor_version=1,
        osinfo="win7",
        hostname="SEVEN",
        timezone="W. Europe Standard Time",
        windows_systemroot="/Windows",
    )
    assert _check(make.disk(run, tmp_path / "disk", "dos", parts, WINDOWS_ID), expected) == [SEVEN_ZIP]


def test_windows_10(run: Run, shared: Path, tmp_path: Path) -> None:
    """With the SYSTEM of a real Windows 10 that was not shut down; C: has the partition's GUID that it tells."""
    hives = {
        f"/Windows/System32/config/{name.replace('_B', '')}": lzma.decompress(
            (shared / "registry" / f"{name}.xz").read_bytes()
        )
        for name in ("SYSTEM_B", "SYSTEM_B.LOG1", "SYSTEM_B.LOG2")
    }
    hive = tmp_path / "hive"
    hive.write_bytes(hives["/Windows/System32/config/SYSTEM"])
    drive = re.search(r'"\\\\DosDevices\\\\C:"=hex\(3\):(\S+)', run("hivexget", hive, r"\MountedDevices"))
    assert drive
    identity = bytes.fromhex(drive[1].replace(",", ""))
    assert identity[:8] == b"DMIO:ID:"
    files: Files = {
        **hives,
        "/Windows/System32/config/SOFTWARE": _software(run, shared, tmp_path, "win10"),
        "/Windows/System32/cmd.exe": make.program(0x8664),
        "/Users/Public/desktop.ini": "",
    }
    assert run("hivexget", hive, r"\Select", "Current").split() == ["1"]
    expected = _windows(
        "/dev/sda3",
        product_name="Windows 10 Pro",
        product_variant="Client",
        major_version=10,
        minor_version=0,
        osinfo="win10",
        hostname=run("hivexget", hive, r"\ControlSet001\Services\Tcpip\Parameters", "Hostname").strip(),
        timezone=run("hivexget", hive, r"\ControlSet001\Control\TimeZoneInformation", "TimeZoneKeyName").strip(),
        windows_systemroot="/Windows",
        firmware="uefi",
    )
    image = _with_efi(run, tmp_path, files, uuid.UUID(bytes_le=identity[8:]))
    assert _check(image, expected, ["/dev/sda3: system: log replayed: 24 writes"]) == [SEVEN_ZIP]


def test_windows_11(run: Run, shared: Path, tmp_path: Path) -> None:
    """On ARM."""
    partition = uuid.UUID(HOME_UUID)
    keys = _system("ELEVEN", '"TimeZoneKeyName"="Tokyo Standard Time"', b"DMIO:ID:" + partition.bytes_le)
    minimal = shared / "registry" / "hivex-minimal"
    files: Files = {
        "/Windows/System32/config/SOFTWARE": _software(run, shared, tmp_path, "win11"),
        "/Windows/System32/config/SYSTEM": make.hive(run, minimal, tmp_path / "system", keys),
        "/Windows/System32/cmd.exe": make.program(0xAA64),
        "/Users/Public/desktop.ini": "",
    }
    expected = _windows(
        "/dev/sda3",
        product_name="Windows 10 Pro",
        product_variant="Client",
        major_version=10,
        minor_version=0,
        arch="aarch64",
        osinfo="win11",
        hostname="ELEVEN",
        timezone="Tokyo Standard Time",
        windows_systemroot="/Windows",
        firmware="uefi",
    )
    assert _check(_with_efi(run, tmp_path, files, partition), expected) == [SEVEN_ZIP]


def _with_efi(run: Run, folder: Path, files: Files, partition: uuid.UUID) -> Path:
    """As the installer lays out a GPT: the EFI system partition, one reserved for Microsoft, C:."""
    parts = [
        Part("uefi", make.fat(run, folder, {"/EFI/Microsoft/Boot/bootmgfw.efi": "MZ"}, "1a2b3c4d")),
        Part(GPT_RESERVED, None),
        Part(GPT_BASIC, make.ntfs(run, folder / "c", files), f", uuid={partition}"),
    ]
    return make.disk(run, folder / "disk", "gpt", parts)
