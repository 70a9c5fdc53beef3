"""Accounts beside ``id``, ``passwd -S``, ``chage``, keys beside ``ssh-keygen -l``, sshd_config beside ``sshd -T``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.detectors.linux.ssh import sshd_settings
from guestctl.detectors.linux.users import can_log_in, users
from host_system import host_system, memory_system

Run = Callable[..., str]

PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "ada:x:1000:1000:Ada Lovelace,,,:/home/ada:/bin/bash\nbob:x:1001:100::/home/bob:\n"
    "eve::1002:1002::/home/eve:/bin/sh\nmallory:x:1003:1003::/home/mallory:/bin/sh\nbroken:x:one:1::/:/bin/sh\nshort:x\n"
)
SHADOW = (
    "root:*:19000:0:99999:7:::\ndaemon:!:19000:0:99999:7:::\nada:$6$salt$hash:19500:0:90:7:14:20000:\n"
    "bob:!$6$salt$hash:0:0:99999:7:::\nmallory::19501::::::\n"
)
GROUP = "root:x:0:\nusers:x:100:ada\nsudo:x:27:ada,bob\nada:x:1000:\nwheel:x:10:root,ada\n"


def test_groups_of_this_machine(run: Run) -> None:
    texts = {path: Path(path).read_text() for path in ("/etc/passwd", "/etc/group")}
    found = users(memory_system(texts))
    assert len(found) > 10
    for account in found[:25]:
        assert set(account.groups) == set(run("id", "-nG", account.name).split()), account.name
        assert account.password is None


@pytest.mark.root
def test_passwords(run: Run, tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "etc").mkdir()
    for name, text in (("passwd", PASSWD), ("shadow", SHADOW), ("group", GROUP)):
        (tmp_path / "etc" / name).write_text(text.replace("broken:x:one:1::/:/bin/sh\nshort:x\n", ""))
    found = {one.name: one for one in users(host_system(tmp_path))}
    words = {"L": "locked", "P": "set", "NP": "empty"}
    for name in ("root", "daemon", "ada", "bob", "mallory"):
        status = run("passwd", "-S", "-R", tmp_path, name).split()
        assert found[name].password == words[status[1]]
    listed = run("chage", "-l", "-i", "-R", tmp_path, "ada")
    lines = dict(line.split(":") for line in listed.splitlines())
    day = 86400 * 10**9
    for label, value in (
        ("Last password change", found["ada"].password_changed_ns),
        ("Password expires", found["ada"].password_expires_ns),
        ("Account expires", found["ada"].expires_ns),
    ):
        date = next(text.strip() for line, text in lines.items() if line.strip() == label)
        assert value is not None
        assert run("date", "-u", "-I", "-d", f"@{value // 10**9}").strip() == date and value % day == 0


def test_accounts() -> None:
    found = {
        one.name: one
        for one in users(memory_system({"/etc/passwd": PASSWD, "/etc/shadow": SHADOW, "/etc/group": GROUP}))
    }
    assert list(found) == ["root", "daemon", "ada", "bob", "eve", "mallory"]
    assert found["ada"].groups == ["ada", "users", "sudo", "wheel"]
    assert found["bob"].groups == ["users", "sudo"]
    assert found["bob"].flags == ["password expired"]
    assert (found["eve"].password, found["mallory"].password) == ("empty", "empty")
    assert [name for name, one in found.items() if can_log_in(one)] == ["ada", "eve", "mallory"]
    assert "hash" not in str(found.values())


def test_keys(run: Run, tmp_path: Path) -> None:
    lines = []
    for number, kind in enumerate(("ed25519", "rsa", "ecdsa")):
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"key {number}", "-f", tmp_path / kind)
        lines.append((tmp_path / f"{kind}.pub").read_text().strip())
    lines[1] = 'from="10.0.0.0/8, *.example.org",command="echo \\"x y\\"" ' + lines[1]
    text = "# a comment\n\n" + "\n".join(lines) + "\nssh-rsa AAAA!\nnonsense\n"
    (tmp_path / "all").write_text("\n".join(lines) + "\n")
    truth = [line.split()[1] for line in run("ssh-keygen", "-l", "-f", tmp_path / "all").splitlines()]
    files: dict[str, str | bytes | None] = {"/etc/passwd": PASSWD, "/home/ada/.ssh/authorized_keys": text}
    (ada,) = [one for one in users(memory_system(files)) if one.name == "ada"]
    assert [key.fingerprint for key in ada.authorized_keys] == truth
    assert [key.type for key in ada.authorized_keys] == ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"]
    assert ada.authorized_keys[1].options == 'from="10.0.0.0/8, *.example.org",command="echo \\"x y\\""'
    assert ada.authorized_keys[2].comment == "key 2"
    files["/etc/ssh/sshd_config"] = "AuthorizedKeysFile /etc/ssh/keys/%u\n"
    files["/etc/ssh/keys/ada"] = lines[0]
    (ada,) = [one for one in users(memory_system(files)) if one.name == "ada"]
    assert [key.source for key in ada.authorized_keys] == ["/etc/ssh/keys/ada"]


@pytest.mark.parametrize(
    "config",
    [
        "",
        'Port 2222\nport=2223\nPermitRootLogin yes # why\nPermitRootLogin no\nAuthorizedKeysFile "/etc/%u" .ssh/a\n',
        "PasswordAuthentication no\nAllowUsers ada bob\nAllowUsers eve\nMatch User ada\nPasswordAuthentication yes\n",
        "ChallengeResponseAuthentication no\nUsePAM yes\nX11Forwarding yes\nMaxAuthTries = 3\nDenyGroups guests\n",
        "PermitRootLogin prohibit-password\nKbdInteractiveAuthentication no\n",
    ],
)
def test_sshd_config(run: Run, tmp_path: Path, config: str) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    (tmp_path / "included.conf").write_text("PermitEmptyPasswords yes\nMatch User x\nPermitEmptyPasswords no\n")
    (tmp_path / "config").write_text(f"Include {tmp_path}/included*.conf\n{config}")
    found = sshd_settings(
        memory_system(
            {
                "/etc/ssh/sshd_config": f"Include included*.conf\n{config}",
                "/etc/ssh/included.conf": (tmp_path / "included.conf").read_text(),
            }
        )
    )
    assert found is not None
    if shutil.which("/usr/sbin/sshd") and not os.path.isdir("/run/sshd"):
        if not os.access("/run", os.W_OK):
            pytest.skip("needs /run/sshd")
        os.mkdir("/run/sshd", 0o755)
    truth: dict[str, str] = {}
    for line in run("/usr/sbin/sshd", "-T", "-f", tmp_path / "config", "-h", tmp_path / "key").splitlines():
        keyword, _, value = line.partition(" ")
        truth[keyword] = f"{truth[keyword]} {value}" if keyword in truth else value
    assert {key: value for key, value in found.items() if key != "listenaddress"} == {
        key: truth[key] for key in found if key != "listenaddress"
    }
