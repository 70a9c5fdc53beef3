"""Whole guests whose files were damaged: every view, and its page, ends in an answer or a typed error, and soon.

The guests are the Debian of tests/data, with configuration that it lacks, and a Windows of real hives. Of each case
some files are changed, swapped, or replaced by links, loops, directories, huge lines and absurd numbers.
"""

from __future__ import annotations

import io
import lzma
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from boot_guests import MemoryMachine
from detectors.windows.evtx_files import Record, make_log, make_old_log
from guestctl.cli import main
from guestctl.cli.options import GuestOptions
from guestctl.core.types import GuestType
from guestctl.disk.filesystem import FileSystem
from guestctl.machine import Guest, Machine
from guestctl.machine.machine import FoundFilesystem
from memory_filesystem import Link, MemoryFileSystem

ROOT = Path(__file__).resolve().parents[2]
Content = str | bytes | None
Files = dict[str, Content]
_CASE_SECONDS = 10
_COMMANDS = [
    words.split()
    for words in (
        "boot", "boot --initramfs", "boot --json", "services --all", "services --json", "users --all", "users --json",
        "journal", "journal --list-boots", "journal -o json", "journal -p err -n 3", "journal --json", "security",
        "security --json", "containers", "containers --json", "packages", "packages --files base-files",
        "packages --owner /etc/passwd", "network", "network --json", "inspect", "inspect --all --json", "sbom",
        "sbom --format spdx",
    )
]  # fmt: skip
_WORDS = (
    *(b"9" * 5000, b"0x" + b"f" * 5000, b"-1", b"18446744073709551615", b"1e999", b"NaN", b"\xff\xfe", b"\xed\xa0\x80"),
    *(b"\x1b]0;x\x07", b"../" * 400, b"[" * 5000, b"{" * 5000, b'"', b"'", b"\\\n", b"\\", b"%n", b"$(", b"\0", b"\r"),
    *("\u2028\u0663\u00b2".encode(), b"<<: *a", b"&a [*a]", b"[", b"]", b"=", b":", b"#", b"@include /etc/sudoers\n"),
)
_RECORDS = [
    Record(1, 1_700_000_000, "EventLog", 6005, 4),
    Record(2, 1_700_000_060, "a", 7000, 2, [("x", "y"), ("z", "")]),
]
_CONFIGURATION: dict[str, Content] = {
    "/etc/sudoers": "Defaults env_reset\nUser_Alias A = root, %sudo, !bin\n"
    "A ALL=(ALL:ALL) NOPASSWD: /bin/ls, !/bin/su\n"
    "@includedir /etc/sudoers.d\n",
    "/etc/sudoers.d/x": "Cmnd_Alias C = sha224:aaaa /bin/a, /bin/b : D = /bin/c\nroot ALL = CWD=/ C, D\n",
    "/root/.ssh/authorized_keys": 'from="1.2.3.4",command="a \\" b" ssh-ed25519 '
    "AAAAC3NzaC1lZDI1NTE5AAAAIJ7sWKmJ3S3yTcZKLGT9gFGnsUyvlqgUkMZYSlSz2Lyk root@x\n",
    "/etc/netplan/50.yaml": "network:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: true, addresses: [10.0.0.2/24]}\n"
    "    eth1:\n      addresses:\n      - 10.0.0.3/24: {label: x}\n      routes: [{to: default, via: 10.0.0.1}]\n",
    "/etc/NetworkManager/system-connections/a.nmconnection": "[connection]\nid=a\ntype=ethernet\n"
    "interface-name=eth2\n[ipv4]\nmethod=manual\naddress1=1.2.3.4/24,1.2.3.1\ndns=8.8.8.8;\n",
    "/etc/systemd/network/a.network": "[Match]\nName=eth3\n[Network]\nAddress=1.1.1.1/24\nGateway=1.1.1.2\n",
    "/etc/sysconfig/network-scripts/ifcfg-eth4": "DEVICE=eth4\nIPADDR=1.2.3.4\nNETMASK=255.255.255.0\n",
    "/sbin/init": Link("/lib/systemd/systemd"),
    "/lib/systemd/systemd": "",
    "/lib/systemd/system/a@.service": "[Unit]\nDescription=a \\\n b\n[Service]\nExecStart=/bin/a\nUser=x\n"
    "[Install]\nWantedBy=multi-user.target\nDefaultInstance=1\nAlias=b.service\n",
    "/lib/systemd/system/t.timer": "[Timer]\nOnCalendar=daily\nOnBootSec=5\n[Install]\nAlso=a@.service\n",
    "/etc/systemd/system/multi-user.target.wants/a@1.service": Link("/lib/systemd/system/a@.service"),
    "/etc/systemd/system/a@1.service.d/x.conf": "[Service]\nExecStart=\nExecStart=/bin/b\n",
    "/etc/crontab": "SHELL=/bin/sh\n17 * * * * root cd /\n@daily root x\n",
    "/etc/anacrontab": "1 5 cron.daily run-parts /etc/cron.daily\n",
    "/var/spool/cron/atjobs/a0000101b5f3c4": "#!/bin/sh\n",
    "/var/lib/docker/image/overlay2/repositories.json": '{"Repositories":{"a":{"a:1":"sha256:11"}}}',
    "/var/lib/docker/image/overlay2/imagedb/content/sha256/11": '{"created":"2020","rootfs":{"diff_ids":["sha256:1"]}}',
    "/var/lib/docker/image/overlay2/layerdb/sha256/1/size": "12345",
    "/var/lib/docker/containers/1/config.v2.json": '{"Name":"/a","State":{"Running":true},"Config":{"Image":"a"}}',
    "/var/lib/containers/storage/overlay-images/images.json": '[{"id":"1","names":["x"],"layer":"2"}]',
    "/var/lib/containers/storage/overlay-layers/layers.json": '[{"id":"2","diff-size":100,"parent":"2"}]',
    "/var/lib/containers/storage/overlay-containers/containers.json": '[{"id":"3","metadata":"{\\"name\\":\\"n\\"}"}]',
    "/etc/cloud/cloud.cfg": "datasource_list: [ NoCloud, None ]\n",
    "/var/lib/cloud/data/result.json": '{"v1":{"datasource":"X","errors":["e"]}}',
    "/boot/grub/grub.cfg": (ROOT / "tests/data/boot/debian-12-grub.cfg").read_text(),
    "/boot/loader/entries/a.conf": "title A\nversion 6.1\nlinux /vmlinuz-6.1\ninitrd /initrd.img-6.1\noptions quiet\n",
    "/boot/extlinux/extlinux.conf": "DEFAULT a\nLABEL a\nLINUX /vmlinuz-6.1\nAPPEND x initrd=/initrd.img-6.1\n",
    "/boot/grub/menu.lst": "default 0\ntitle a\nroot (hd0,0)\nkernel /vmlinuz-6.1 x\ninitrd /initrd.img-6.1\n",
    "/boot/vmlinuz-6.1": b"MZ" + bytes(0x200) + b"HdrS" + bytes(400),
    "/boot/initrd.img-6.1": b"070701" + b"0" * 88 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0" + bytes(3),
    "/lib/modules/6.1/modules.dep": "kernel/a.ko: kernel/b.ko\n",
    "/etc/crypttab": "a UUID=1 none luks\n",
    "/etc/mdadm/mdadm.conf": "ARRAY /dev/md0 UUID=1:2:3:4\n",
    "/etc/lvm/lvm.conf": 'devices {\n filter = [ "a|.*|" ]\n}\n',
    "/var/log/syslog": "Nov 24 10:00:00 host prog[12]: text\n2024-01-01T00:00:00.0+01:00 host p: x\n",
    "/lib/apk/db/installed": "P:a\nV:1-r0\nA:x86\nI:10\nF:bin\nR:a\na:0:0:755\nZ:Q1AAAA\n\n",
    "/var/lib/pacman/local/a-1-1/desc": "%NAME%\na\n\n%VERSION%\n1:1-1\n\n%SIZE%\n5\n\n",
    "/var/lib/pacman/local/a-1-1/files": "%FILES%\nbin/a\n\n%BACKUP%\netc/a\tffff\n\n",
    "/var/db/pkg/sys/a-1.0-r1/CONTENTS": "obj /bin/a 0123456789abcdef0123456789abcdef 5\nsym /b -> /c 5\n",
    "/var/db/xbps/pkgdb-0.38.plist": "<plist><dict><key>a</key><dict><key>pkgver</key><string>a-1</string></dict>"
    "</dict></plist>",
    "/var/lib/snapd/state.json": '{"data":{"snaps":{"a":{"current":"1","channel":"x"}}}}',
    "/var/lib/flatpak/app/a/x86/stable/active/metadata": "",
    "/var/lib/flatpak/app/a/x86/stable/active/files/share/metainfo/a.metainfo.xml": '<release version="1"/>',
    "/usr/local/Cellar/a/1/INSTALL_RECEIPT.json": '{"time":5,"source":{"tap":"x"}}',
    "/usr/lib/python3/dist-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\nLicense: MIT\n\n",
    "/usr/lib/node_modules/a/package.json": '{"name":"a","version":"1","license":"MIT"}',
    "/var/lib/gems/specifications/a.gemspec": '  s.name = "a"\n  s.version = "1"\n  s.licenses = ["MIT"]\n',
    "/usr/share/doc/bash/copyright": "Format: x\nLicense: GPL-3+\n",
    "/usr/local/bin/program": b"\x7fELF\2\1" + bytes(34) + (64).to_bytes(8, "little") + bytes(10)
    + (64).to_bytes(2, "little") + (3).to_bytes(2, "little") + bytes(2) + bytes(range(256)) * 300,
}  # fmt: skip


class _Machine(MemoryMachine):
    def __init__(self, guest: Guest) -> None:
        super().__init__({"/dev/sda1": guest.tree})
        self._guest = guest
        self.partitioned: dict[str, None] = {}

    @property
    def disks(self) -> list[SimpleNamespace]:
        reader = SimpleNamespace(size=0, path="image", format=SimpleNamespace(value="raw"))
        return [SimpleNamespace(name="/dev/sda", reader=reader, table=None)]

    def partition(self, device: str) -> None:  # type: ignore[override]
        return None

    def guests(self) -> list[Guest]:
        return [self._guest]

    def found(self) -> Iterator[FoundFilesystem]:
        yield FoundFilesystem("/dev/sda1", 1, self.identity("/dev/sda1"))

    def parents(self, device: str) -> tuple[str, ...]:
        return ()

    def all_warnings(self) -> list[str]:
        return [*self.warnings, *self._guest.tree.warnings]

    def subvolumes(self, device: str) -> dict[str, object]:
        return {}

    def usage(self, device: str) -> None:
        return None


def _debian() -> Files:
    files: Files = {}
    with Machine.open(ROOT / "tests/data/debian-12.qcow2") as machine:
        tree: FileSystem[Any] = machine.guests()[0].tree
        for path, node, status in tree.find("/"):
            if status.is_symlink():
                files[path] = Link(tree.node_target(node))
            elif status.is_file():
                files[path] = tree.read_bytes(path)
            elif status.is_dir():
                files[path] = None
    return {**files, **_CONFIGURATION}


def _windows(shared: Path) -> Files:
    def hive(name: str) -> bytes:
        return lzma.decompress((shared / "registry" / f"{name}.xz").read_bytes())

    top = "/Windows/system32"
    return {
        f"{top}/cmd.exe": b"MZ",
        f"{top}/config/system": hive("SYSTEM_B"),
        f"{top}/config/SAM": hive("SAM"),
        f"{top}/config/software": hive("NTUSER.DAT"),
        "/Windows/System32/winevt/Logs/System.evtx": make_log(_RECORDS),
        f"{top}/config/AppEvent.Evt": make_old_log(_RECORDS),
        "/Boot/BCD": hive("BCD"),
        "/Users/a/NTUSER.DAT": hive("NTUSER.DAT"),
        "/boot.ini": '[boot loader]\ndefault=a\n[operating systems]\na="b" /c\n',
        "/hiberfil.sys": b"HIBR",
    }


def _mutate(files: Files, chance: random.Random) -> str:
    """Change one file, and tell how."""
    paths = [path for path, content in files.items() if content is not None and not path.endswith("/cmd.exe")]
    if not paths:
        return "none is left"
    path = chance.choice([one for one in paths if one in _CONFIGURATION] or paths if chance.randrange(2) else paths)
    content = files[path]
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content or b""
    kind = chance.randrange(9)
    at = chance.randrange(len(data) + 1)
    if kind == 0:
        files[path] = data[:at]
    elif kind == 1:
        files[path] = data[:at] + chance.randbytes(chance.choice((1, 4, 100))) + data[at + chance.choice((0, 1, 4)) :]
    elif kind == 2:
        other = chance.choice(paths)
        files[path], files[other] = files[other], content
    elif kind == 3:
        files[path] = Link(chance.choice((path, "/", ".", "..", "/etc", chance.choice(paths), "/nowhere", "x\0y", "")))
    elif kind == 4:
        files[path] = None
    elif kind == 5:
        lines = data.splitlines(keepends=True) or [b"x"]
        files[path] = data + chance.choice(lines)[:1000] * chance.choice((100, 3000))
    elif kind == 6:
        start, end = chance.choice([match.span() for match in re.finditer(rb"\d+", data)] or [(at, at)])
        files[path] = data[:start] + chance.choice(_WORDS) + data[end:]
    elif kind == 7:
        files[path] = data[:at] + chance.choice(_WORDS) * chance.choice((1, 1, 100)) + data[at:]
    else:
        files[path] = chance.choice((b"", b"\n" * 500_000, b"a" * 500_000, b"\\\n" * 200_000, b" " * 500_000))
    return f"{path}: {kind}"


def _late(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"a case takes more than {_CASE_SECONDS} s")


def _run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as exit:
        main([words[0], "image", *words[1:]])
    monkeypatch.undo()
    err.flush()
    out.flush()
    assert isinstance(exit.value.code, int)
    return exit.value.code, err.buffer.getvalue().decode("utf-8", "surrogateescape")


def test_damaged_guests(shared: Path) -> None:
    originals = {GuestType.LINUX: _debian(), GuestType.WINDOWS: _windows(shared)}
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) * 1.5
    before = signal.signal(signal.SIGALRM, _late)
    number = int(os.environ.get("GUESTCTL_FUZZ_FIRST", "0"))
    outcomes = {0: 0, 1: 0}
    try:
        while time.monotonic() < end:
            chance = random.Random(number)
            family = GuestType.WINDOWS if chance.randrange(4) == 0 else GuestType.LINUX
            files = dict(originals[family])
            how = [_mutate(files, chance) for _ in range(chance.choice((1, 2, 5, 20)))]
            words = chance.choice(_COMMANDS)
            signal.alarm(_CASE_SECONDS)
            try:
                outcomes[_case(files, family, words)] += 1
            except Exception as error:
                error.add_note(f"case {number}, {words}: {how}")
                raise
            signal.alarm(0)
            number += 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert min(outcomes.values()) > 0


def _case(files: Files, family: GuestType, words: list[str]) -> int:
    """The exit status."""
    tree = MemoryFileSystem(_without_orphans(files))
    with pytest.MonkeyPatch.context() as monkeypatch:
        guest = Guest("/dev/sda1", family, {"/": "/dev/sda1"}, tree)

        @contextmanager
        def machine(_options: GuestOptions, *_images: str) -> Iterator[_Machine]:
            yield _Machine(guest)

        with pytest.MonkeyPatch.context() as options:
            options.setattr(GuestOptions, "machine", machine)
            status, messages = _run(words, monkeypatch)
    # One line for each error, and nothing that steers a terminal.
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", messages), messages
    assert (status == 0) or "guestctl: error: " in messages
    return status


def _without_orphans(files: Files) -> Files:
    """Without what stood in a directory that is none any more."""
    return {
        path: content
        for path, content in files.items()
        if all(files.get(path[: match.start()]) is None for match in re.finditer("/", path) if match.start())
    }
