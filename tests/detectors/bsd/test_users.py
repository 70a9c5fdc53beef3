"""Accounts of BSD guests: files as FreeBSD and OpenBSD ship them; doas.conf beside ``doas -C``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import Run
from guestctl.core.types import GuestType
from guestctl.detectors.bsd.rights import parse_doas, rights, sshd
from guestctl.detectors.linux.sudoers import rules_for
from guestctl.detectors.linux.users import can_log_in
from guestctl.detectors.report.security import Sudoers
from guestctl.detectors.report.users import Account
from guestctl.detectors.views import view
from host_system import memory_system

# FreeBSD's etc/master.passwd, and what adduser(8), pw(8) and chpass(1) make of it.
FREEBSD = (
    "# $FreeBSD$\n#\nroot:$6$salt$hash:0:0::0:0:Charlie &:/root:/bin/csh\n"
    "toor:*:0:0::0:0:Bourne-again Superuser:/root:\n"
    "daemon:*:1:1::0:0:Owner of many system processes:/root:/usr/sbin/nologin\n"
    "ada:$6$salt$hash:1001:1001:staff:1700000000:1800000000:Ada Lovelace:/home/ada:/bin/sh\n"
    "bob:*LOCKED*$6$salt$hash:1002:1002::0:0:Bob:/home/bob:/bin/sh\n"
    "eve::1003:1003::0:0:Eve:/home/eve:/bin/sh\nbroken:*:x:1::0:0::/:/bin/sh\n"
)
GROUP = "# $FreeBSD$\n#\nwheel:*:0:root,ada\ndaemon:*:1:\nada:*:1001:\nbob:*:1002:\neve:*:1003:\noperator:*:5:root\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7sWKmJ3S3yTcZKLGT9gFGnsUyvlqgUkMZYSlSz2Lyk bob@example.org\n"
# OpenBSD's etc/master.passwd
OPENBSD = "root::0:0:daemon:0:0:Charlie &:/root:/bin/ksh\nsshd:*:27:27::0:0:sshd privsep:/var/empty:/sbin/nologin\n"


def _users(files: dict[str, str | bytes | None], family: GuestType = GuestType.FREEBSD) -> dict[str, Account]:
    system = memory_system(files, family)
    found = {one.name: one for one in view("users", system)}
    assert not system.warnings
    return found


def test_freebsd() -> None:
    files: dict[str, str | bytes | None] = {
        "/etc/master.passwd": FREEBSD,
        "/etc/passwd": "root:*:0:0:Charlie &:/root:/bin/csh\n",
        "/etc/group": GROUP,
        "/home/bob/.ssh/authorized_keys": KEY,
        "/usr/local/etc/sudoers": "%wheel ALL=(ALL:ALL) NOPASSWD: ALL\n",
    }
    found = _users(files)
    assert {name: one.password for name, one in found.items()} == {
        "root": "set",
        "toor": "locked",
        "daemon": "locked",
        "ada": "set",
        "bob": "locked",
        "eve": "empty",
    }
    ada = found["ada"]
    assert (ada.uid, ada.gid, ada.groups, ada.flags) == (1001, 1001, ["ada", "wheel"], ["class staff"])
    assert (ada.password_expires_ns, ada.expires_ns) == (1_700_000_000 * 10**9, 1_800_000_000 * 10**9)
    assert ada.sudo == ["ALL = (ALL : ALL) NOPASSWD: ALL"] == found["root"].sudo and not found["eve"].sudo
    assert found["root"].groups == ["wheel", "operator"] and found["root"].expires_ns is None
    assert [key.comment for key in found["bob"].authorized_keys] == ["bob@example.org"]
    assert [name for name, one in found.items() if can_log_in(one)] == ["root", "ada", "eve"]
    assert "hash" not in str(found)


def test_passwd_alone() -> None:
    """Its asterisks say nothing of passwords."""
    found = _users({"/etc/passwd": "root:*:0:0:Charlie &:/root:/bin/csh\n"}, GuestType.NETBSD)
    assert [(one.name, one.password) for one in found.values()] == [("root", None)]


def test_openbsd() -> None:
    doas = "# wheel may\npermit persist keepenv :wheel\npermit nopass root as www cmd reboot args -n\ndeny ada\n"
    files: dict[str, str | bytes | None] = {
        "/etc/master.passwd": OPENBSD + "ada:$2b$10$hash:1000:1000:staff:0:0:Ada:/home/ada:/bin/ksh\n",
        "/etc/group": "wheel:*:0:root,ada\n",
        "/etc/doas.conf": doas,
    }
    found = _users(files, GuestType.OPENBSD)
    assert found["root"].flags == ["class daemon"] and found["root"].password == "empty"
    assert found["root"].sudo == ["ALL = (ALL) persist: keepenv: ALL", "ALL = (www) NOPASSWD: reboot -n"]
    assert found["ada"].sudo == ["ALL = (ALL) persist: keepenv: ALL", "ALL = (ALL) !ALL"]


DOAS = [
    "permit root\n",
    "permit nopass root\ndeny root\n",
    "deny root\npermit nopass keepenv :root as root\n",
    'permit setenv { A=b C -D } root cmd "/bin/true"\n',
    "permit nopass \\\n  root # why\n\n# nothing\n",
    "permit nopass 0\n",
    "permit nopass root cmd /bin/false\n",
    "permit nopass root cmd /bin/true args\n",
    "permit nopass daemon\n",
    "permit nopass root as daemon\n",
    "",
]


@pytest.mark.parametrize("config", DOAS)
@pytest.mark.root
def test_doas(run: Run, tmp_path: Path, config: str) -> None:
    """The last rule that matches is what doas tells."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    path = tmp_path / "doas.conf"
    path.write_text(config)
    path.chmod(0o400)
    truth = run("sh", "-c", f"doas -C {path} /bin/true || :").strip()
    rules = rules_for(Sudoers(rules=parse_doas(config, "")), "root", 0, ["root"])
    rules = [
        rule
        for rule in rules
        if rule.commands[0].lstrip("!") in ("ALL", "/bin/true") and rule.run_as_users[0] in ("ALL", "root")
    ]
    if not rules or rules[-1].commands[0].startswith("!"):
        assert truth == "deny"
    else:
        assert truth == ("permit nopass" if "NOPASSWD" in rules[-1].tags else "permit")


@pytest.mark.parametrize("config", ["permit\n", "allow root\n", "permit setenv { A root\n", "permit root cmd\n"])
def test_doas_refuses(run: Run, tmp_path: Path, config: str) -> None:
    path = tmp_path / "doas.conf"
    path.write_text("permit root\n" + config)
    assert "syntax error" in run("sh", "-c", f"doas -C {path} 2>&1 || :")
    assert len(parse_doas("permit root\n" + config + "permit ada\n", "")) == 1


def test_defaults_of_sshd() -> None:
    config: dict[str, str | bytes | None] = {"/etc/ssh/sshd_config": "#PermitRootLogin no\nPort 2222\n"}
    found = {family: sshd(memory_system(config, family)) for family in (GuestType.FREEBSD, GuestType.OPENBSD)}
    freebsd, openbsd = found[GuestType.FREEBSD], found[GuestType.OPENBSD]
    assert freebsd is not None and openbsd is not None
    words = ("port", "permitrootlogin", "passwordauthentication", "usepam")
    assert [freebsd[word] for word in words] == ["2222", "no", "no", "yes"]
    assert [openbsd[word] for word in words] == ["2222", "without-password", "yes", "no"]
    assert sshd(memory_system({}, GuestType.FREEBSD)) is None
    assert rights(memory_system({}, GuestType.FREEBSD)) is None
