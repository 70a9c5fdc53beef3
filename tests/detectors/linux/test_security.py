"""sudoers beside ``cvtsudoers``; the other files with texts that Fedora, Debian and Ubuntu ship."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guestctl.detectors.linux.security import security
from guestctl.detectors.linux.sudoers import sudoers
from guestctl.detectors.linux.users import users
from host_system import memory_system
from memory_filesystem import Link

Run = Callable[..., str]

SUDOERS = r"""# Debian 12's, and what an administrator adds
Defaults	env_reset
Defaults	mail_badpass
Defaults	secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin"
User_Alias ADMINS = ada, bob : OPERATORS = %operators, \
    !mallory
Cmnd_Alias SHUTDOWN = /sbin/shutdown, /sbin/reboot
Runas_Alias DB = postgres, mysql
Host_Alias WEB = www1, www2
root	ALL=(ALL:ALL) ALL
%sudo	ALL=(ALL:ALL) ALL
ADMINS ALL = (DB) NOPASSWD: /usr/bin/psql, /usr/bin/mysql, (root) PASSWD: /bin/cat /etc/shadow
OPERATORS, eve WEB, localhost = SHUTDOWN : mailhost = NOPASSWD: NOEXEC: /usr/bin/mailq # why
#1005 ALL = NOPASSWD: SETENV: sha224:0GomF8mNN3wlDt1HD9XldjJ3SNgpFdbjO1+NsQ== /bin/ls
dave ALL = (: adm) /usr/bin/id, !/usr/bin/passwd
frank ALL = CWD=/tmp TIMEOUT=10m /usr/bin/make -C\=/x a\,b
#includedir DIR
"""


def _word(item: dict[str, Any]) -> str:
    keys = {"usergroup": "%", "userid": "#"}
    ((kind, value),) = [(key, value) for key, value in item.items() if key not in ("negated", "sha224")]
    return ("!" if item.get("negated") else "") + keys.get(kind, "") + str(value)


def _expected(text: str) -> list[tuple[Any, ...]]:
    """(users, hosts, users to run as, groups to run as, may go without a password, commands)."""
    found = []
    # sudo 1.9.13 forgets the braces.
    text = re.sub(r'^\s*("runcwd": "[^"]*")', r"{\1}", text, flags=re.MULTILINE)
    for spec in json.loads(text)["User_Specs"]:
        for commands in spec["Cmnd_Specs"]:
            options = {key: value for option in commands.get("Options", ()) for key, value in option.items()}
            lists = [
                spec["User_List"],
                spec["Host_List"],
                commands.get("runasusers", ()),
                commands.get("runasgroups", ()),
            ]
            words = [list(map(_word, items)) for items in lists]
            words[3] = [word.removeprefix("%") for word in words[3]]
            found.append((*words, options.get("authenticate", True) is False, list(map(_word, commands["Commands"]))))
    return found


def test_sudoers(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "sudoers.d"
    folder.mkdir()
    files = {"10-ada": "ada ALL=(ALL) NOPASSWD:ALL\n", "README.txt": "x ALL=ALL\n", "old~": "y ALL=ALL\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    (tmp_path / "sudoers").write_text(SUDOERS.replace("DIR", str(folder)))
    truth = _expected(run("cvtsudoers", "-c", "/dev/null", "-f", "json", tmp_path / "sudoers"))
    system = memory_system(
        {
            "/etc/sudoers": SUDOERS.replace("DIR", "sudoers.d"),
            **{f"/etc/sudoers.d/{name}": text for name, text in files.items()},
        }
    )
    found = sudoers(system)
    assert found is not None
    ours = [
        (
            rule.users,
            rule.hosts,
            rule.run_as_users,
            rule.run_as_groups,
            "NOPASSWD" in rule.tags,
            [command.rpartition("== ")[2].replace("\\", "") for command in rule.commands],
        )
        for rule in found.rules
    ]
    assert sorted(ours, key=str) == sorted(truth, key=str)
    assert found.aliases["OPERATORS"] == ["%operators", "!mallory"]
    assert found.rules[-1].source == "/etc/sudoers.d/10-ada"
    assert found.defaults[0] == "env_reset"


def test_rights_of_accounts() -> None:
    accounts = "ada:x:1:1::/:/bin/sh\nmallory:x:2:2::/:/bin/sh\neve:x:1005:3::/:/bin/sh\njoe:x:4:4::/:/bin/sh\n"
    group = "operators:x:9:mallory,joe\nsudo:x:27:joe\n"
    files = {"/etc/passwd": accounts, "/etc/group": group, "/etc/sudoers": SUDOERS}
    found = {one.name: one.sudo for one in users(memory_system(files))}
    assert found["ada"][0] == "ALL = (DB) NOPASSWD: /usr/bin/psql, /usr/bin/mysql"
    assert found["mallory"] == []
    assert found["joe"][0] == "ALL = (ALL : ALL) ALL" and len(found["joe"]) == 3
    assert len(found["eve"]) == 3


def test_includes_have_a_limit() -> None:
    system = memory_system({"/etc/sudoers": "@include sudoers\nroot ALL=ALL\n"})
    assert sudoers(system) is not None
    assert system.warnings == ["/etc/sudoers: too many included files"]


def test_security() -> None:
    found = security(
        memory_system(
            {
                "/etc/selinux/config": "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
                "/etc/apparmor.d/usr.sbin.ntpd": "profile ntpd {}\n",
                "/etc/apparmor.d/usr.bin.man": "",
                "/etc/apparmor.d/abstractions/base": "",
                "/etc/apparmor.d/disable/usr.sbin.ntpd": Link("/etc/apparmor.d/usr.sbin.ntpd"),
                "/etc/ufw/ufw.conf": "ENABLED=yes\nLOGLEVEL=low\n",
                "/etc/firewalld/firewalld.conf": "DefaultZone=public\n",
                "/etc/nftables.conf": "flush ruleset\n",
            }
        )
    )
    assert (found.selinux_mode, found.selinux_policy) == ("enforcing", "targeted")
    assert (found.apparmor_profiles, found.apparmor_disabled) == (["usr.bin.man"], ["usr.sbin.ntpd"])
    assert found.firewall == ["nftables", "ufw (enabled)", "firewalld (public)"]
    assert found.sudoers is None and found.sshd is None
    assert security(memory_system({"/etc/selinux/config": "SELINUX=%s"})).selinux_mode is None


def test_mutants() -> None:
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 4
    rounds = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        text = list(SUDOERS)
        for _ in range(chance.randrange(1, 20)):
            text[chance.randrange(len(text))] = chance.choice('\\"(),:=!#%@ \n')
        found = sudoers(memory_system({"/etc/sudoers": "".join(text)}))
        assert found is not None and len(found.rules) < 200
        rounds += 1
    assert rounds > 20
