"""How guests boot, on disks with the real loaders of Debian's packages; entries as their own tools read them.

What bootctl (systemd 252) lists of a partition with the files of `BOOTCTL` is written down beside them.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from boot_guests import ESP_TYPE, XBOOTLDR_TYPE, Files, memory_system
from conftest import Mount, Run
from guestctl.block import MemoryDevice
from guestctl.core.errors import DetectionError, InvalidFormat
from guestctl.detectors.linux.boot import boot, initramfs
from guestctl.detectors.linux.boot.pe import program, read_pe
from guestctl.detectors.linux.boot.versions import version_key
from guestctl.detectors.linux.modules import kernels
from guestctl.detectors.report.boot import Boot, BootEntry
from guestctl.detectors.system import System, open_system
from guestctl.machine import Machine

_FUZZ_SECONDS = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
MIB = 1 << 20
DATA = Path(__file__).resolve().parents[2] / "data/boot"
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
UUID = "6f1c2c0a-5d6e-4b6e-9d9c-3a0b8c1d2e3f"
VERSION = "6.1.0-56-cloud-amd64"
MODULES_DEP = """\
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/nvme/host/nvme.ko:
"""
VIRTIO = ("block/virtio_blk.ko", "virtio/virtio-pci.ko", "virtio/virtio_ring.ko", "virtio/virtio.ko")


def needs(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            pytest.skip(f"needs {path}")


def make_initramfs(run: Run, folder: Path, modules: tuple[str, ...]) -> bytes:
    """An initramfs with modules of the kernel, as mkinitramfs lays it out."""
    for module in modules:
        path = folder / f"usr/lib/modules/{VERSION}/kernel/drivers" / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF")
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    return subprocess.run(
        ("cpio", "-o", "--quiet", "-H", "newc"), input=names.encode(), cwd=folder, stdout=subprocess.PIPE, check=True
    ).stdout


def kernel_image(version: str) -> bytes:
    """The setup header of an x86 kernel, as far as it tells its version (boot protocol 2.00)."""
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x100)
    image[0x300 : 0x300 + len(version) + 20] = f"{version} (builder@host) #1".encode()[: len(version) + 20]
    return bytes(image)


def make_unified(run: Run, folder: Path, sections: dict[str, bytes], stub: Path = STUB) -> bytes:
    """A unified kernel image of systemd's stub, as its documentation makes one with objcopy."""
    needs(stub)
    words: list[str | Path] = []
    for number, (name, content) in enumerate(sections.items()):
        (folder / name).write_bytes(content)
        words += ["--add-section", f"{name}={folder / name}", "--change-section-vma", f"{name}={(number + 1) << 24:#x}"]
    run("objcopy", *words, stub, folder / "unified.efi")
    return (folder / "unified.efi").read_bytes()


def default(found: Boot | list[BootEntry]) -> BootEntry:
    (one,) = [entry for entry in (found.entries if isinstance(found, Boot) else found) if entry.default]
    return one


# A whole disk


@pytest.fixture(scope="module")
def disk(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk for both firmwares: GRUB in the boot sector, an EFI system partition with GRUB's stub, /boot, a root."""
    folder = tmp_path_factory.mktemp("disk")
    boot_image = Path("/usr/lib/grub/i386-pc/boot.img")
    needs(boot_image, Path("/usr/lib/grub/x86_64-efi/normal.mod"))
    trees = {name: folder / name for name in ("esp", "boot", "root")}
    for directory in ("esp/EFI/debian", "boot/grub", "boot/efi", "root/bin", "root/etc", "root/boot"):
        (folder / directory).mkdir(parents=True)
    run("grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/debian", "-o", trees["esp"] / "EFI/debian/grubx64.efi", "fat")
    label = "shimx64.efi,debian,,This is the boot entry for debian\ngrubx64.efi,Debian's GRUB,,\n"
    (trees["esp"] / "EFI/debian/BOOTX64.CSV").write_bytes(label.encode("utf-16"))
    (trees["esp"] / "EFI/debian/grub.cfg").write_text(
        f"search.fs_uuid {UUID} root \nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n"
    )
    configuration = (DATA / "debian-12-grub.cfg").read_text().replace("\t/boot/", "\t/")
    (trees["boot"] / "grub/grub.cfg").write_text(configuration)
    (trees["boot"] / f"vmlinuz-{VERSION}").write_bytes(kernel_image(VERSION))
    (trees["boot"] / f"initrd.img-{VERSION}").write_bytes(
        gzip.compress(make_initramfs(run, folder / "initramfs", VIRTIO))
    )
    modules = trees["root"] / f"lib/modules/{VERSION}"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(MODULES_DEP)
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/drivers/scsi/sd_mod.ko\n")
    (trees["root"] / "etc/fstab").write_text("LABEL=root / ext4\nLABEL=boot /boot ext4\nLABEL=ESP /boot/efi vfat\n")
    image = folder / "disk"
    image.write_bytes(bytes(40 * MIB))
    bios_boot = "21686148-6449-6E6F-744E-656564454649"
    sizes = f"size=1MiB, type={bios_boot}\nsize=6MiB, type=uefi\nsize=12MiB\nsize=16MiB\n"
    run("sfdisk", "--quiet", image, input=f"label: gpt\n{sizes}")
    esp = folder / "esp.img"
    esp.write_bytes(bytes(6 * MIB))
    run("mkfs.vfat", "-n", "ESP", esp)
    run("mcopy", "-s", "-i", esp, trees["esp"] / "EFI", "::")
    run("mke2fs", "-q", "-L", "boot", "-U", UUID, "-d", trees["boot"], "-E", f"offset={8 * MIB}", image, "12M")
    run("mke2fs", "-q", "-L", "root", "-d", trees["root"], "-E", f"offset={20 * MIB}", image, "16M")
    with image.open("r+b") as file:
        file.write(boot_image.read_bytes()[:440])
        file.seek(2 * MIB)
        file.write(esp.read_bytes())
    return image


def show(*arguments: str | Path) -> Any:
    argv = [sys.executable, "-m", "guestctl", "boot", "--json", *arguments]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)


def test_a_disk_for_both_firmwares(disk: Path) -> None:
    found = show(disk)[0]["boot"]
    assert found["loaders"] == [
        {"name": "grub2", "firmware": "uefi", "path": "/boot/efi/EFI/debian/grubx64.efi", "label": "Debian's GRUB"},
        {"name": "grub2", "firmware": "bios", "path": "/dev/sda", "label": ""},
    ]
    assert len(found["entries"]) == 5
    assert found["kernel"] == f"/boot/vmlinuz-{VERSION}"
    assert found["command_line"] == "root=/dev/sda2 ro quiet"
    assert found["virtio"] is True
    assert {one["name"]: (one["ready"], one["where"]) for one in found["drivers"]} == {
        "virtio_pci": (True, "initramfs"),
        "virtio_blk": (True, "initramfs"),
        "nvme": (False, "modules"),
        "sd_mod": (True, "built in"),
        "ext4": (True, "built in"),
    }


def test_files_of_its_initramfs(disk: Path, run: Run) -> None:
    found = [one["name"] for one in show(disk, "--initramfs")[0]["initramfs"]]
    assert found == run("lsinitramfs", disk.parent / f"boot/initrd.img-{VERSION}").splitlines()
    assert found == [one["name"] for one in show(disk, "--initramfs", f"/boot/initrd.img-{VERSION}")[0]["initramfs"]]


def test_page(disk: Path) -> None:
    argv = [sys.executable, "-m", "guestctl", "boot", str(disk)]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1].split() == ["grub2", "uefi", "/boot/efi/EFI/debian/grubx64.efi", "Debian's", "GRUB"]
    assert f"Kernel: /boot/vmlinuz-{VERSION}" in lines
    assert lines[-1] == "Finds disks on virtio: yes"
    failed = subprocess.run([*argv, "--initramfs", "/none"], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("guestctl: error: /none: No such file")


# Drivers


@pytest.mark.parametrize(
    ("modules", "builtin", "expected"),
    [
        (VIRTIO, "", True),
        (VIRTIO[:2], "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_ring.ko\n", True),
        (VIRTIO[:3], "", False),
        ((), "", False),
        ((), "\n".join(f"kernel/drivers/{name}" for name in VIRTIO), True),
        (VIRTIO[:3], None, None),
        (None, "", None),
    ],
)
def test_virtio(
    modules: tuple[str, ...] | None, builtin: str | None, expected: bool | None, run: Run, tmp_path: Path
) -> None:
    """It needs both drivers and what they need; what cannot be known stays unknown."""
    files: dict[str, str | bytes | None] = {
        "/boot/extlinux/extlinux.conf": "label l\nlinux /boot/vmlinuz\ninitrd /boot/initrd\n",
        "/boot/vmlinuz": kernel_image(VERSION),
        f"/lib/modules/{VERSION}/modules.dep": MODULES_DEP,
    }
    if builtin is not None:
        files[f"/lib/modules/{VERSION}/modules.builtin"] = builtin
    if modules is not None:
        (tmp_path / "usr").mkdir()
        files["/boot/initrd"] = make_initramfs(run, tmp_path, modules)
    system = memory_system({"/dev/sda1": files}, {"/": "/dev/sda1"})
    assert boot(system).virtio is expected
    assert bool(system.warnings) == (modules is None)


def test_no_entry_is_no_kernel() -> None:
    system = memory_system({"/dev/sda1": {"/boot/vmlinuz-6.1": "", "/etc/fstab": ""}}, {"/": "/dev/sda1"})
    assert boot(system) == Boot()
    with pytest.raises(DetectionError, match="no entry"):
        initramfs(system)


# systemd-boot and unified kernel images

BOOTCTL: dict[str, str] = {
    "/loader/loader.conf": "timeout 3\n",
    **{
        f"/loader/entries/m-{version}.conf": (
            f"title Test {version}\nversion {version}\nmachine-id 6ea2d7ab8f2b4b5c9f1b8a8d2c6a7e01\nsort-key debian\n"
            f"linux /m/{version}/linux\ninitrd /m/{version}/initrd\noptions root=UUID=x quiet\n"
        )
        for version in ("6.1.10-1", "6.1.9-1", "6.10.0-1")
    },
    "/loader/entries/old+3-1.conf": "title Old\nlinux /vmlinuz-old\noptions a\noptions b\n",
    "/loader/entries/bad+0-3.conf": "title Bad\nsort-key aaa\nlinux /vmlinuz-old\n",
}
BOOTCTL_LIST = [
    ("Test 6.10.0-1", "/m/6.10.0-1/linux", "root=UUID=x quiet"),
    ("Test 6.1.10-1", "/m/6.1.10-1/linux", "root=UUID=x quiet"),
    ("Test 6.1.9-1", "/m/6.1.9-1/linux", "root=UUID=x quiet"),
    ("Old", "/vmlinuz-old", "a b"),
    ("Bad", "/vmlinuz-old", ""),
]


def systemd_boot(files: Files, **more: Files) -> System:
    """A guest with systemd-boot's own program and `files` on its EFI system partition, mounted on /efi."""
    needs(SYSTEMD_BOOT)
    esp = {"/EFI/BOOT/BOOTX64.EFI": SYSTEMD_BOOT.read_bytes(), **files}
    return memory_system(
        {"/dev/sda1": esp, "/dev/sda2": {"/efi": None, "/etc/fstab": ""}, **more},
        {"/": "/dev/sda2", "/efi": "/dev/sda1"},
        types={"/dev/sda1": ESP_TYPE, "/dev/sda3": XBOOTLDR_TYPE},
    )


def test_systemd_boot() -> None:
    found = boot(systemd_boot({**BOOTCTL}))
    assert [(one.name, one.path) for one in found.loaders] == [("systemd-boot", "/efi/EFI/BOOT/BOOTX64.EFI")]
    listed = [(one.title, one.kernel, one.command_line) for one in found.entries]
    assert listed == [(title, f"/efi{kernel}", options) for title, kernel, options in BOOTCTL_LIST]
    assert default(found).title == "Test 6.10.0-1"


@pytest.mark.parametrize(
    ("pattern", "title"),
    [("m-6.1.9*", "Test 6.1.9-1"), ("m-6.1.*", "Test 6.1.10-1"), ("OLD.conf", "Old"), ("old", "Old"), ("@saved", None)],
)
def test_default_pattern(pattern: str, title: str | None) -> None:
    found = boot(systemd_boot({**BOOTCTL, "/loader/loader.conf": f"# comment\ndefault\t{pattern}\n"}))
    assert default(found).title == title or "Test 6.10.0-1"


def test_extended_boot_loader_partition() -> None:
    """Entries on a partition that is not mounted, beside one on the EFI system partition."""
    found = boot(systemd_boot({}, **{"/dev/sda3": {"/loader/entries/x.conf": "linux /vmlinuz\ninitrd /initrd\n"}}))
    assert (default(found).kernel, default(found).initramfs) == ("(/dev/sda3)/vmlinuz", ["(/dev/sda3)/initrd"])


@pytest.fixture
def unified(run: Run, tmp_path: Path) -> bytes:
    sections = {
        ".osrel": b'ID=arch\nPRETTY_NAME="Arch Linux"\n',
        ".uname": VERSION.encode(),
        ".cmdline": b"root=/dev/sda2 rw\n\0",
        ".linux": kernel_image(VERSION),
        ".initrd": make_initramfs(run, tmp_path / "initramfs", VIRTIO),
    }
    return make_unified(run, tmp_path, sections)


def test_unified_kernel_image(unified: bytes) -> None:
    """In the menu of systemd-boot, and as what a firmware starts itself."""
    modules = {f"/lib/modules/{VERSION}/modules.dep": MODULES_DEP, f"/lib/modules/{VERSION}/modules.builtin": ""}
    for path, loader in (("/EFI/Linux/arch-linux.efi", "systemd-boot"), ("/EFI/BOOT/BOOTX64.EFI", "uefi")):
        system = systemd_boot({path: unified}, **{"/dev/sda2": {"/efi": None, **modules}})
        found = boot(system)
        entry = default(found)
        assert (entry.title, entry.loader, entry.kernel) == ("Arch Linux", loader, f"/efi{path}")
        assert (found.command_line, found.virtio) == ("root=/dev/sda2 rw", True)
        assert [one.name for one in initramfs(system)][-1].endswith("virtio_ring.ko")


def test_sections_of_programs(unified: bytes, run: Run, tmp_path: Path) -> None:
    """Offsets and sizes as objdump has them."""
    needs(SYSTEMD_BOOT)
    (tmp_path / "unified.efi").write_bytes(unified)
    for path, kind in ((tmp_path / "unified.efi", "linux"), (SYSTEMD_BOOT, "systemd-boot")):
        pe = read_pe(MemoryDevice(path.read_bytes()))
        lines = [line.split() for line in run("objdump", "-h", path).splitlines()]
        listed = {words[1]: (int(words[5], 16), int(words[2], 16)) for words in lines if words and words[0].isdecimal()}
        assert {name: offset for name, (offset, _) in pe.sections.items()} == {
            name: offset for name, (offset, _) in listed.items()
        }
        assert all(length <= listed[name][1] for name, (_, length) in pe.sections.items())
        assert program(pe) == kind


# SYSLINUX and GRUB legacy

ALPINE = """\
# Generated by update-extlinux 6.04_pre1-r15
DEFAULT menu.c32
PROMPT 0
MENU TITLE Alpine/Linux Boot Menu
MENU HIDDEN
MENU AUTOBOOT Alpine will be booted automatically in # seconds.
TIMEOUT 10
LABEL virt
  MENU LABEL ^Linux virt
  LINUX vmlinuz-virt
  INITRD initramfs-virt
  APPEND root=UUID=1234 modules=ext4 quiet rootfstype=ext4

LABEL lts
  MENU DEFAULT
  MENU LABEL Linux lts
  LINUX vmlinuz-lts
  APPEND initrd=initramfs-lts,/boot/microcode root=UUID=1234 quiet
INCLUDE more.cfg
"""


def test_extlinux() -> None:
    """Alpine's configuration, its default moved; relative paths begin at its directory."""
    files = {"/extlinux.conf": ALPINE, "/more.cfg": "label more\n kernel /vmlinuz-lts\n include extlinux.conf\n"}
    system = memory_system({"/dev/sda1": files, "/dev/sda2": {"/boot": None}}, {"/": "/dev/sda2", "/boot": "/dev/sda1"})
    found = boot(system).entries
    assert [(one.title, one.kernel, one.initramfs) for one in found[:2]] == [
        ("Linux virt", "/boot/vmlinuz-virt", ["/boot/initramfs-virt"]),
        ("Linux lts", "/boot/vmlinuz-lts", ["/boot/initramfs-lts", "/boot/boot/microcode"]),
    ]
    assert found[2].kernel == "/boot/vmlinuz-lts"
    assert default(found).title == "Linux lts"
    assert default(found).command_line == "initrd=initramfs-lts,/boot/microcode root=UUID=1234 quiet"


def test_syslinux_of_arch() -> None:
    """Its kernels are in the directory above."""
    text = "UI menu.c32\nLABEL arch\n    LINUX ../vmlinuz-linux\n    INITRD ../initramfs-linux.img\n"
    system = memory_system({"/dev/sda1": {"/boot/syslinux/syslinux.cfg": text}}, {"/": "/dev/sda1"})
    found = default(boot(system))
    assert (found.kernel, found.initramfs) == ("/boot/vmlinuz-linux", ["/boot/initramfs-linux.img"])


@pytest.mark.parametrize(
    ("text", "title", "command_line"),
    [
        ("label a\nkernel k\nlabel b\nkernel k\n", "a", ""),
        ("default b\nappend quiet\nlabel a\nkernel k\nlabel b\nkernel k\n", "b", "quiet"),
        ("append quiet\nlabel a\nkernel k\nappend -\n", "a", ""),
        ("default a\nlabel a\nkernel k\nlabel b\nkernel k\nmenu default\n", "a", ""),
        ("ui menu.c32\ndefault a\nlabel a\nkernel k\nlabel b\nkernel k\nmenu default\n", "b", ""),
        ("DEFAULT B\nLABEL a\nLINUX k\nLABEL b\nLINUX k\nAPPEND  x  y\n", "b", "x y"),
    ],
)
def test_syslinux_default(text: str, title: str, command_line: str) -> None:
    system = memory_system({"/dev/sda1": {"/boot/syslinux/syslinux.cfg": text}}, {"/": "/dev/sda1"})
    found = default(boot(system))
    assert (found.title, found.command_line, found.kernel) == (title, command_line, "/boot/syslinux/k")


CENTOS_6 = """\
# grub.conf generated by anaconda
#boot=/dev/sda
default=1
timeout=5
splashimage=(hd0,0)/grub/splash.xpm.gz
hiddenmenu
title CentOS (2.6.32-754.el6.x86_64)
	root (hd0,0)
	kernel /vmlinuz-2.6.32-754.el6.x86_64 ro root=/dev/mapper/vg-root rd_NO_LUKS rhgb quiet
	initrd /initramfs-2.6.32-754.el6.x86_64.img
title CentOS 6 (2.6.32-71.el6.x86_64)
	root (hd0,0)
	kernel (hd0,0)/vmlinuz-2.6.32-71.el6.x86_64 ro root=/dev/mapper/vg-root
	initrd /initramfs-2.6.32-71.el6.x86_64.img
title Other
	rootnoverify (hd0,1)
	chainloader +1
"""


@pytest.mark.parametrize(
    ("setting", "saved", "chosen"),
    [
        ("default=1", None, 1),
        ("default 0", None, 0),
        ("default saved", "1\n#\n", 1),
        ("default=9", None, 0),
        ("", None, 0),
    ],
)
def test_grub_legacy(setting: str, saved: str | None, chosen: int) -> None:
    """CentOS 6's configuration, with /boot on a partition of its own."""
    files = {"/grub/grub.conf": CENTOS_6.replace("default=1", setting)} | ({"/grub/default": saved} if saved else {})
    system = memory_system({"/dev/sda1": files, "/dev/sda2": {"/boot": None}}, {"/": "/dev/sda2", "/boot": "/dev/sda1"})
    found = boot(system).entries
    assert [one.default for one in found] == [index == chosen for index in range(3)]
    old, new = "2.6.32-71.el6.x86_64", "2.6.32-754.el6.x86_64"
    assert [one.kernel for one in found] == [f"/boot/vmlinuz-{new}", f"/boot/vmlinuz-{old}", None]
    assert [one.initramfs for one in found[:2]] == [[f"/boot/initramfs-{new}.img"], [f"/boot/initramfs-{old}.img"]]
    assert found[1].command_line == "ro root=/dev/mapper/vg-root"


def test_boot_sectors(run: Run, tmp_path: Path) -> None:
    """Of GRUB legacy 0.97 and of SYSLINUX, as their packages have them; what is no loader's is none."""
    root = tmp_path / "root"
    for directory in ("bin", "etc/conf"):
        (root / directory).mkdir(parents=True)
    (root / "etc/fstab").touch()
    system, legacy, syslinux = (tmp_path / name for name in ("system", "legacy", "syslinux"))
    run("mke2fs", "-q", "-d", root, system, "2M")
    legacy.write_bytes((DATA / "grub-legacy-stage1").read_bytes() + bytes(MIB))
    syslinux.write_bytes(bytes(2 * MIB))
    run("mkfs.vfat", syslinux)
    run("syslinux", "--install", syslinux)
    with Machine.open(system, legacy, syslinux) as machine:
        (guest,) = machine.guests()
        found = boot(open_system(machine, guest))
    assert [(one.name, one.firmware, one.path) for one in found.loaders] == [
        ("grub-legacy", "bios", "/dev/sdb"),
        ("syslinux", "bios", "/dev/sdc"),
    ]


# Btrfs


@pytest.mark.root
@pytest.mark.parametrize(
    ("option", "prefix"),
    [("subvol=@", "/@"), ("defaults", "/@"), ("defaults", "")],
    ids=["named", "default", "relative"],
)
def test_btrfs(option: str, prefix: str, run: Run, mount: Mount, tmp_path: Path) -> None:
    """GRUB sees the top level, and openSUSE's the default subvolume; the guest sees the one that it is in."""
    root = tmp_path / "root"
    text = f"menuentry x {{\n set root=hd0\n linux {prefix}/boot/vmlinuz-6.1 root=LABEL=x\n}}\n"
    for directory in ("@/bin", "@/etc", "@/boot/grub"):
        (root / directory).mkdir(parents=True)
    (root / "@/etc/fstab").write_text(f"LABEL=x / btrfs {option}\n")
    (root / "@/boot/vmlinuz-6.1").touch()
    (root / "@/boot/grub/grub.cfg").write_text(text)
    image = tmp_path / "disk"
    image.write_bytes(bytes(128 * MIB))
    run("mkfs.btrfs", "-q", "-L", "x", image)
    with mount(image, "loop") as top:
        run("btrfs", "subvolume", "create", top / "@")
        shutil.copytree(root / "@", top / "@", dirs_exist_ok=True)
        if option == "defaults":
            run("btrfs", "subvolume", "set-default", top / "@")
    with Machine.open(image) as machine:
        (guest,) = machine.guests()
        found = boot(open_system(machine, guest))
    assert found.kernel == "/boot/vmlinuz-6.1"


# The order of versions, and damage


def test_versions(run: Run) -> None:
    """In ascending order, as systemd-analyze compares neighbours; UAPI's specification has most of them."""
    ascending = [
        *("1~rc1", "1", "1-1", "1^post", "1.1", "1a", "1.a", "122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1"),
        *("123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1", "124-1", "6.1.9", "6.1.10", "6.10.1"),
    ]
    known = sorted(set(ascending), key=version_key)
    for left, right in pairwise(known):
        assert run("systemd-analyze", "compare-versions", left, "le", right) == ""


def test_mutants(run: Run, tmp_path: Path) -> None:
    """Damaged menus, kernels and initramfs end in a view, soon."""
    (tmp_path / "usr").mkdir()
    esp: dict[str, str | bytes | None] = {**BOOTCTL, "/EFI/x/BOOTX64.CSV": "x.efi,X,,".encode("utf-16")}
    needs(SYSTEMD_BOOT)
    esp["/EFI/BOOT/BOOTX64.EFI"] = SYSTEMD_BOOT.read_bytes()
    root: dict[str, str | bytes | None] = {
        "/efi": None,
        "/boot/extlinux.conf": ALPINE,
        "/boot/grub/menu.lst": CENTOS_6,
        "/boot/vmlinuz-virt": kernel_image(VERSION),
        "/boot/initramfs-virt": make_initramfs(run, tmp_path, VIRTIO),
        f"/lib/modules/{VERSION}/modules.dep": MODULES_DEP,
        f"/lib/modules/{VERSION}/modules.builtin": MODULES_DEP,
        "/etc/modules": MODULES_DEP,
        "/etc/modprobe.d/x.conf": MODULES_DEP,
    }
    generator = random.Random(2)
    end = time.monotonic() + _FUZZ_SECONDS / 2
    warned = 0
    while time.monotonic() < end:
        files = {"/dev/sda1": _damage(esp, generator), "/dev/sda2": _damage(root, generator)}
        mounts = {"/": "/dev/sda2", "/efi": "/dev/sda1"} if generator.random() < 0.5 else {"/": "/dev/sda2"}
        system = memory_system(files, mounts, types={"/dev/sda1": ESP_TYPE})
        started = time.process_time()
        boot(system)
        kernels(system)
        warned += len(system.warnings)
        assert time.process_time() - started < 5
    assert warned


def _damage(files: dict[str, str | bytes | None], generator: random.Random) -> dict[str, str | bytes | None]:
    found = dict(files)
    for path, content in files.items():
        if content and generator.random() < 0.5:
            data = bytearray(content.encode() if isinstance(content, str) else content)
            for _ in range(generator.randrange(1, 4)):
                data[generator.randrange(min(len(data), 2000))] = generator.choice(b"\0\n \t=%(){}'\"$\\\xff9")
            found[path] = bytes(data)
    return found


def test_damaged_programs(unified: bytes, run: Run) -> None:
    generator = random.Random(1)
    end = time.monotonic() + _FUZZ_SECONDS / 2
    errors = 0
    small = unified[:4096]
    while time.monotonic() < end:
        data = bytearray(small + unified[4096 : generator.choice((4096, 8192, len(unified)))])
        for _ in range(generator.randrange(1, 5)):
            data[generator.randrange(1024)] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        try:
            pe = read_pe(MemoryDevice(bytes(data)))
            program(pe)
            for name in pe.sections:
                pe.text(name)
        except InvalidFormat:
            errors += 1
    assert errors
