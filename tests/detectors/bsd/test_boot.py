"""How BSD guests boot, by files as their manuals and installers have them; logs of their syslogd."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest
import zstandard

from boot_guests import ESP_TYPE, memory_system
from guestctl.core.types import GuestType
from guestctl.detectors.bsd.boot import parse_boot_cfg, parse_boot_conf
from guestctl.detectors.system import System
from guestctl.detectors.views import view
from host_system import system_of
from tree_filesystem import TreeFileSystem, directory, file

Files = dict[str, str | bytes | None]
VERSION = b"@(#)FreeBSD 13.2-RELEASE releng/13.2-n254617-525ecfdad597 GENERIC\n\0"
GENERIC = b"\x7fELF\2\1\1\x09" + bytes(5 << 20) + b"\0virtio_pci\0virtio_blk\0" + VERSION
FREEBSD: Files = {
    # stand/defaults/loader.conf
    "/boot/defaults/loader.conf": 'exec="echo Loading /boot/defaults/loader.conf"\n\nkernel="kernel"\t\t# /boot sub\n'
    'bootfile="kernel"\t# Kernel name\nkernel_options=""\t# Flags\n'
    'loader_conf_files="/boot/device.hints /boot/loader.conf /boot/loader.conf.local"\n'
    'loader_conf_dirs="/boot/loader.conf.d"\nhostuuid_load="YES"\nhostuuid_name="/etc/hostid"\n'
    'hostuuid_type="hostuuid"\nkernels_autodetect="YES"\nmodule_blacklist="drm drm2"\n',
    "/boot/loader.conf": 'zfs_load="YES"\nautoboot_delay="3" # seconds\nhw.vga.textmode=1\n#kernel="other"\n',
    "/boot/loader.conf.d/late.conf": 'if_wg_load=YES\nboot_verbose="YES"\n',
    "/boot/kernel/kernel": GENERIC,
    "/boot/kernel/zfs.ko": b"",
    "/boot/kernel/virtio.ko": b"",
    "/boot/kernel.old/kernel": b"\x7fELF" + VERSION.replace(b"13.2", b"12.4"),
    "/boot/modules/empty": None,
}


def _system(files: Files, family: GuestType, esp: Files | None = None) -> System:
    devices = {"/dev/sda2": files} | ({"/dev/sda1": esp} if esp else {})
    types = {"/dev/sda1": ESP_TYPE} if esp else {}
    return memory_system(devices, {"/": "/dev/sda2"}, types=types, family=family)


def test_freebsd() -> None:
    system = _system(FREEBSD, GuestType.FREEBSD, {"/EFI/BOOT/BOOTX64.EFI": b"MZ", "/EFI/freebsd/loader.efi": b"MZ"})
    found = view("boot", system)
    assert [one.path for one in found.loaders] == [
        "(/dev/sda1)/EFI/BOOT/BOOTX64.EFI",
        "(/dev/sda1)/EFI/freebsd/loader.efi",
    ]
    assert [(one.title, one.kernel, one.default) for one in found.entries] == [
        ("kernel", "/boot/kernel/kernel", True),
        ("kernel.old", "/boot/kernel.old/kernel", False),
    ]
    assert (found.kernel, found.command_line, found.virtio) == ("/boot/kernel/kernel", "-v", True)
    assert [(one.name, one.where) for one in found.drivers] == [("virtio_pci", "built in"), ("virtio_blk", "built in")]
    kernels = view("kernels", system)
    assert [(one.version, one.path, one.modules) for one in kernels.kernels] == [
        ("13.2-RELEASE", "/boot/kernel/kernel", 2),
        ("12.4-RELEASE", "/boot/kernel.old/kernel", 0),
    ]
    assert (kernels.load, kernels.blacklist) == (["zfs", "if_wg"], ["drm", "drm2"])


def test_drivers_that_the_loader_loads() -> None:
    files: Files = {**FREEBSD, "/boot/kernel/kernel": b"\x7fELF" + VERSION}
    assert view("boot", _system(files, GuestType.FREEBSD)).virtio is None
    files["/boot/loader.conf.local"] = 'virtio_load="YES"\nvirtio_pci_load="YES"\nvirtio_blk_load="YES"\n'
    assert view("boot", _system(files, GuestType.FREEBSD)).virtio is None  # the modules are not there
    files |= {"/boot/kernel/virtio_pci.ko": b"", "/boot/modules/virtio_blk.ko": b""}
    found = view("boot", _system(files, GuestType.FREEBSD))
    assert found.virtio is True and {one.where for one in found.drivers} == {"loader.conf"}


def test_another_kernel() -> None:
    for path, text in (
        ("/boot/loader.conf", 'kernel="kernel.old"\nkernel_options="-s"\n'),
        ("/boot/nextboot.conf", 'nextboot_enable="YES"\nkernel="kernel.old"\nkernel_options="-s"\n'),
    ):
        found = view("boot", _system({**FREEBSD, path: text, "/boot/loader.conf.d": None}, GuestType.DRAGONFLY))
        assert found.kernel == "/boot/kernel.old/kernel" and (found.command_line or "").startswith("-s")
    found = view("boot", _system({**FREEBSD, "/boot/nextboot.conf": 'kernel="kernel.old"\n'}, GuestType.FREEBSD))
    assert found.kernel == "/boot/kernel/kernel"


# sysinst's boot.cfg
BOOT_CFG = (
    "menu=Boot normally:rndseed /var/db/entropy-file;boot\n"
    "menu=Boot single user:rndseed /var/db/entropy-file;boot hd0a:netbsd.old -s\n"
    "menu=Drop to boot prompt:prompt\nmenu=boot netbsd.test -12\ndefault=2\ntimeout=5\nclear=1\n"
)


def test_netbsd() -> None:
    assert [(one.title, one.kernel, one.command_line, one.default) for one in parse_boot_cfg(BOOT_CFG)] == [
        ("Boot normally", "/netbsd", "", False),
        ("Boot single user", "/netbsd.old", "-s", True),
        ("boot netbsd.test -12", "/netbsd.test", "-12", False),
    ]
    assert [(one.kernel, one.default) for one in parse_boot_cfg("")] == [("/netbsd", True)]
    kernel = b"\x7fELF\0virtio\0ld_virtio\0NetBSD 9.3 (GENERIC) #0: Thu Aug  4 15:30:37 UTC 2022\n\0"
    system = _system({"/netbsd": kernel, "/boot.cfg": BOOT_CFG.replace("default=2\n", "")}, GuestType.NETBSD)
    found = view("boot", system)
    assert (found.kernel, found.virtio) == ("/netbsd", True)
    assert [one.version for one in view("kernels", system).kernels] == ["9.3"]


@pytest.mark.parametrize(
    ("text", "kernel", "flags"),
    [
        ("", "/bsd", ""),
        ("set tty com0\nset timeout 5\n", "/bsd", ""),
        ("set image /bsd.sp\n", "/bsd.sp", ""),
        ("# boot /bsd.rd\nboot hd0a:/bsd.mp -s\nset image x\n", "/bsd.mp", "-s"),
        ("set image bsd.sp\nboot -c\n", "/bsd.sp", "-c"),
    ],
)
def test_openbsd(text: str, kernel: str, flags: str) -> None:
    entry = parse_boot_conf(text)
    assert (entry.kernel, entry.command_line, entry.default) == (kernel, flags, True)
    line = b"OpenBSD 7.4 (GENERIC) #1336: Tue Oct 10 09:02:39 MDT 2023\n\0"
    files: Files = {"/etc/boot.conf": text, kernel: b"\x7fELF\0vioblk\0virtio\0" + line, "/bsd.rd": b"\x7fELF"}
    system = _system(files, GuestType.OPENBSD)
    found = view("boot", system)
    assert (found.kernel, found.virtio) == (kernel, True)
    assert "/bsd.rd" in [one.kernel for one in found.entries]
    assert [one.version for one in view("kernels", system).kernels] == ["7.4", ""]


def test_logs() -> None:
    """Files that newsyslog(8) rotated, each compressed in another way; lines as FreeBSD's syslogd writes them."""
    time = 1_700_000_000 * 10**9
    lines = [f"Nov  {day} 12:00:00 beastie newsyslog[7]: logfile turned over\n".encode() for day in range(1, 6)]
    log = b"Nov  7 12:00:00 beastie kernel: one\nNov  8 12:00:00 <kern.crit> beastie kernel: panic: two\n"
    tree = TreeFileSystem(
        directory(
            (
                "var",
                directory(
                    (
                        "log",
                        directory(
                            ("messages", file(log + b"Nov  9 12:00:00 <3.3> beastie sshd[1]: x\n", mtime_ns=time)),
                            ("messages.0.bz2", file(bz2.compress(lines[4]), mtime_ns=time)),
                            ("messages.1.xz", file(lzma.compress(lines[3]), mtime_ns=time)),
                            ("messages.2.gz", file(gzip.compress(lines[2]), mtime_ns=time)),
                            ("messages.3.zst", file(zstandard.compress(lines[1]), mtime_ns=time)),
                            ("messages.4", file(lines[0], mtime_ns=time)),
                            ("messages.5.bz2", file(b"no bzip2", mtime_ns=time)),
                            ("messages.6.xz", file(b"no xz, and long enough", mtime_ns=time)),
                            ("messages.7.zst", file(b"no zstd", mtime_ns=time)),
                        ),
                    )
                ),
            )
        )
    )
    system = system_of(tree, GuestType.FREEBSD)
    found = view("journal", system)
    assert found.entries == 8 and len(system.warnings) == 3
    assert [(one.priority, one.identifier, one.message) for one in found.errors] == [
        (2, "kernel", "panic: two"),
        (3, "sshd", "x"),
    ]
