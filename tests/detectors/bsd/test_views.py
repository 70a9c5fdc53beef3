"""Views of whole BSD guests, on UFS2 that makefs wrote: ``guestctl diff``, every command, damaged files."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import boot_guests
from conftest import Run
from guest_images import tree, ufs2
from guestctl.cli import main
from guestctl.core.errors import GuestctlError
from guestctl.core.types import GuestType
from guestctl.detectors.views import view
from host_system import memory_system

Files = dict[str, str | bytes | None]
BEFORE: dict[str, str | bytes] = {
    "/bin/freebsd-version": 'USERLAND_VERSION="13.2-RELEASE"\n',
    "/boot/kernel/kernel": b"\x7fELF\0virtio_pci\0virtio_blk\0FreeBSD 13.2-RELEASE releng/13.2 GENERIC\n\0",
    "/etc/crontab": "1\t3\t*\t*\t*\troot\tperiodic daily\n",
    "/etc/group": "wheel:*:0:root\nada:*:1001:\n",
    "/etc/master.passwd": "root:$6$x$y:0:0::0:0:Charlie &:/root:/bin/csh\n",
    "/etc/passwd": "root:*:0:0:Charlie &:/root:/bin/csh\n",
    "/etc/rc.conf": 'hostname="beastie"\nifconfig_vtnet0="DHCP"\nsshd_enable="NO"\n',
    "/etc/rc.d/sshd": 'name="sshd"\nrcvar="sshd_enable"\ncommand="/usr/sbin/${name}"\n',
    "/etc/ssh/sshd_config": "#PermitRootLogin no\n",
    "/var/log/messages": "Nov  7 12:00:00 beastie kernel: <3>one\n",
}
AFTER = {
    **BEFORE,
    "/etc/master.passwd": f"{BEFORE['/etc/master.passwd']!s}ada:*:1001:1001::0:0:Ada:/home/ada:/bin/sh\n",
    "/etc/rc.conf": 'hostname="beastie"\nifconfig_vtnet0="inet 192.0.2.5/24"\nsshd_enable="YES"\npf_enable="YES"\n',
    "/etc/ssh/sshd_config": "PermitRootLogin yes\n",
}
_VIEWS = ("boot", "kernels", "services", "users", "network", "journal", "security")


@pytest.fixture(scope="module")
def images(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    before, after = (tmp_path_factory.mktemp("bsd") for _ in range(2))
    return (
        ufs2(run, before, tree(before / "root", BEFORE)),
        ufs2(run, after, tree(after / "root", AFTER)),
    )


def _printed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert exit.value.code == code, captured.err
    assert not captured.err
    return captured.out


def test_diff(images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(_printed(capsys, "diff", "--json", *images, code=1))
    sections = ("services", "users", "network", "security")
    told = {name: {(one["name"], one["field"]) for one in found[name]} for name in sections}
    assert told == {
        "services": {("sshd", "start")},
        "users": {("ada", "")},
        "network": {("vtnet0", "addresses"), ("vtnet0", "method")},
        "security": {("firewall", ""), ("sshd permitrootlogin", "")},
    }
    changed = [one["path"] for one in found["files"]]
    assert changed == ["/etc/master.passwd", "/etc/rc.conf", "/etc/ssh/sshd_config"]
    page = _printed(capsys, "diff", "--no-files", *images, code=1)
    assert "~ sshd start: disabled → enabled" in page and "+ ada" in page
    assert "~ vtnet0 method: dhcp → static" in page and "$6$" not in page


def test_commands(images: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    after = images[1]
    expected = {
        "users": "ada",
        "services": "/usr/sbin/sshd",
        "network": "192.0.2.5/24",
        "boot": "Finds disks on virtio: yes",
        "journal": "one",
        "security": "pf (enabled)",
    }
    for name, text in expected.items():
        words = ["--all"] if name in ("users", "services") else []
        assert text in _printed(capsys, name, *words, after), name
        (guest,) = json.loads(_printed(capsys, name, "--json", after))
        assert guest["root"] == "/dev/sda"
    details = json.loads(_printed(capsys, "inspect", "--all", "--json", after))["guests"][0]["details"]
    assert [name for name in _VIEWS if details[name] is None] == []


def test_security_of_the_others() -> None:
    for family, files, expected in (
        (GuestType.FREEBSD, {"/etc/rc.conf": "firewall_enable=YES\nfirewall_type=workstation\n"},
         ["ipfw (enabled, workstation)"]),
        (GuestType.FREEBSD, {"/etc/rc.conf": "pf_enable=`x`\n", "/etc/ipf.rules": ""}, ["pf", "ipfilter (disabled)"]),
        (GuestType.NETBSD, {"/etc/rc.conf": "npf=YES\n", "/etc/pf.conf": "pass\n"}, ["npf (enabled)", "pf (disabled)"]),
        (GuestType.OPENBSD, {"/etc/rc.conf": "pf=YES\t\t\t# Packet filter / NAT\n"}, ["pf (enabled)"]),
    ):  # fmt: skip
        system = memory_system(dict(files), family)
        found = view("security", system)
        assert (found.firewall, found.sshd, found.sudoers) == (expected, None, None)


def test_damaged_files() -> None:
    """Whatever stands in its files, a view is an answer or a typed error, and soon."""
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    more: Files = {
        "/boot/loader.conf": 'zfs_load="YES"\nkernel="kernel"\n',
        "/boot.cfg": "menu=a:boot netbsd\ndefault=1\n",
        "/etc/boot.conf": "set image /bsd\nboot hd0a:/bsd -s\n",
        "/etc/doas.conf": "permit nopass setenv { A=b } :wheel as root cmd ls args -l\n",
        "/etc/hostname.em0": "inet alias 10.0.1.13 255.255.255.255\n",
        "/etc/mygate": "10.0.0.1\n",
        "/etc/periodic/daily/100.x": 'case "$daily_x_enable" in\nesac\n',
        "/etc/periodic.conf": "daily_x_enable=YES\n",
        "/etc/rc.conf.local": ': ${a:="b"}; c=$(d) e="${f:-g}"\npkg_scripts=x\n',
        "/var/cron/tabs/root": "@daily x\n",
    }
    odd = ("9" * 5000, "\0", "$a$a", "${", "$(", "`", '"', "'", "\\\n", "{", "}", "\xff", "/../" * 99, "((", "<<", ":")
    number = 0
    while time.monotonic() < end:
        chance = random.Random(number)
        number += 1
        files: Files = {**BEFORE, **more}
        for _ in range(chance.choice((1, 3, 10))):
            path = chance.choice(list(files))
            content = files[path] or ""
            text = content.decode("latin-1") if isinstance(content, bytes) else content
            at = chance.randrange(len(text) + 1)
            files[path] = chance.choice(
                (text[:at], text[:at] + chance.choice(odd) * chance.choice((1, 50)) + text[at:], text * 200, None)
            )
        files = {path: text for path, text in files.items() if text is not None or not _is_parent(path, files)}
        family = chance.choice((GuestType.FREEBSD, GuestType.NETBSD, GuestType.OPENBSD, GuestType.DRAGONFLY))
        for name in _VIEWS:
            start = time.process_time()
            try:
                view(name, boot_guests.memory_system({"/dev/sda": files}, {"/": "/dev/sda"}, family=family))
            except (GuestctlError, OSError):
                pass
            assert time.process_time() - start < 5, (number - 1, name)
    assert number > 10


def _is_parent(path: str, files: Files) -> bool:
    return any(other.startswith(f"{path}/") for other in files)
