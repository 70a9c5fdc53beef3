"""Units beside ``systemctl --root``, on the units of this machine and on a tree of odd cases."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.detectors.linux.services import services
from guestctl.detectors.linux.systemd import parse_unit, units
from guestctl.detectors.report.services import Service
from host_system import host_system, memory_system
from memory_filesystem import Link

Run = Callable[..., str]
_VENDOR, _ETC, _RUN = "usr/lib/systemd/system", "etc/systemd/system", "run/systemd/system"
_WANTED = "WantedBy=multi-user.target"


def _states(found: list[Service]) -> dict[str, str]:
    return {service.name: service.start for service in found}


def _systemctl(run: Run, root: Path) -> dict[str, str]:
    listed = json.loads(run("systemctl", f"--root={root}", "list-unit-files", "--output=json"))
    return {unit["unit_file"]: unit["state"] for unit in listed}


def test_this_machine(run: Run, tmp_path: Path) -> None:
    if not Path("/usr/lib/systemd/system").is_dir():
        pytest.skip("needs systemd's units")
    for folder in ("usr/lib/systemd/system", "etc/systemd/system"):
        shutil.copytree(f"/{folder}", tmp_path / folder, symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    truth = _systemctl(run, tmp_path)
    found = _states(units(host_system(tmp_path)))
    assert len(truth) > 50
    assert {name: found[name] for name in truth} == truth
    for name in found.keys() - truth.keys():
        assert run("systemctl", f"--root={tmp_path}", "is-enabled", name).strip() == found[name]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A tree with a unit in each state, and links that mean none."""
    for folder in (_VENDOR, _ETC, _RUN, "opt", "run/systemd/generator", "run/systemd/transient"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")

    def unit(name: str, install: str = _WANTED, folder: str = _VENDOR) -> None:
        text = f"[Unit]\nDescription=Does {name}\n[Service]\nExecStart=/bin/true\n[Install]\n{install}\n"
        (tmp_path / folder / name).write_text(text)

    def link(target: str, *place: str) -> None:
        path = tmp_path.joinpath(*place)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)

    wants, requires = "multi-user.target.wants", "graphical.target.requires"
    for name in ("disabled", "enabled", "required", "runtime", "vendor", "masked", "override", "gone", "other", "null"):
        unit(f"{name}.service")
    link(f"/{_VENDOR}/enabled.service", _ETC, wants, "enabled.service")
    link(f"../../../../{_VENDOR}/required.service", _ETC, requires, "required.service")
    link(f"/{_VENDOR}/runtime.service", _RUN, wants, "runtime.service")
    link("../vendor.service", _VENDOR, wants, "vendor.service")
    link("/nowhere/gone.service", _ETC, wants, "gone.service")
    link(f"/{_VENDOR}/disabled.service", _ETC, wants, "other.service")
    link("/dev/null", _ETC, wants, "null.service")
    link("/dev/null", _ETC, "masked.service")
    link("/dev/null", _RUN, "masked-runtime.service")
    (tmp_path / _ETC / "empty.service").touch()
    unit("override.service", "", _ETC)
    unit("static.service", "")
    link(f"/{_VENDOR}/static.service", _ETC, wants, "static-enabled.service")
    unit("static-enabled.service", "")
    unit("also.service", "Also=disabled.service")
    unit("reset.service", _WANTED + "\nWantedBy=")
    unit("dropped.service", "")
    (tmp_path / _ETC / "dropped.service.d").mkdir()
    (tmp_path / _ETC / "dropped.service.d" / "10-install.conf").write_text(f"[Install]\n{_WANTED}\n")
    for name in ("aliased", "may-alias"):
        unit(f"{name}.service", f"Alias={name}-2.service")
    link(f"/{_VENDOR}/aliased.service", _ETC, "aliased-2.service")
    link("aliased.service", _VENDOR, "aliased-3.service")
    link(f"/{_VENDOR}/may-alias.service", _ETC, "unknown-alias.service")
    link("aliased-3.service", _VENDOR, "chain.service")
    link("masked.service", _VENDOR, "to-masked.service")
    for name, folder in (("linked", _ETC), ("linked-runtime", _RUN)):
        unit(f"{name}.service", folder="opt")
        link(f"/opt/{name}.service", folder, f"{name}.service")
    unit("foreign.service", folder="opt")
    link("/opt/foreign.service", _ETC, "foreign-alias.service")
    unit("same.service")
    link(f"/{_VENDOR}/same.service", _ETC, "same.service")
    link("self.service", _ETC, "self.service")
    link("/nowhere/dangling.service", _ETC, "dangling.service")
    unit("instances@.service", "DefaultInstance=tty1\n" + _WANTED)
    link(f"/{_VENDOR}/instances@.service", _ETC, wants, "instances@tty1.service")
    for name in ("top", "indirect", "vendored", "running", "unused"):
        unit(f"{name}@.service")
    link(f"/{_VENDOR}/top@.service", _ETC, "top@one.service")
    link(f"/{_VENDOR}/indirect@.service", _ETC, wants, "indirect@one.service")
    link("../vendored@.service", _VENDOR, wants, "vendored@one.service")
    link(f"/{_VENDOR}/running@.service", _RUN, wants, "running@one.service")
    unit("generated.service", "", "run/systemd/generator")
    unit("transient.service", "", "run/systemd/transient")
    (tmp_path / _VENDOR / "garbage.service").write_text("garbage\n=\n")
    (tmp_path / _VENDOR / "continued.service").write_text("[Install]\nWantedBy=multi-\\\n# no\nuser.target\n")
    (tmp_path / _VENDOR / "escaped.service").write_text("[Install]\nX-Note=a\\\\\nWantedBy=multi-user.target\n")
    (tmp_path / _VENDOR / "commented.service").write_text("[Install]\n#WantedBy=a.target\n;WantedBy=b.target\n")
    (tmp_path / _VENDOR / "folder.service").mkdir()
    shutil.copy(tmp_path / _VENDOR / "disabled.service", tmp_path / _ETC / wants / "disabled.service")
    return tmp_path


def test_states(run: Run, odd: Path) -> None:
    truth = _systemctl(run, odd)
    found = _states(units(host_system(odd)))
    assert {name: found[name] for name in truth} == truth
    assert {"bad", "linked-runtime", "masked-runtime", "enabled-runtime", "indirect"} <= set(truth.values())
    extra = found.keys() - truth.keys()
    assert extra == {"instances@tty1.service", "indirect@one.service", "vendored@one.service", "running@one.service"}
    for name in extra:
        assert run("systemctl", f"--root={odd}", "is-enabled", name).strip() == found[name]


def test_details() -> None:
    found = services(
        memory_system(
            {
                "/sbin/init": Link("/lib/systemd/systemd"),
                "/lib/systemd/systemd": "",
                # Debian 12: apt, util-linux, openssh-server
                "/lib/systemd/system/apt-daily.timer": (
                    "[Unit]\nDescription=Daily apt download activities\n\n[Timer]\nOnCalendar=*-*-* 6,18:00\n"
                    "RandomizedDelaySec=12h\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
                ),
                "/lib/systemd/system/ssh.socket": (
                    "[Unit]\nDescription=OpenBSD Secure Shell server socket\nBefore=sockets.target\n"
                    "[Socket]\nListenStream=22\nAccept=no\n\n[Install]\nWantedBy=sockets.target\n"
                    "RequiredBy=ssh.service\n"
                ),
                "/etc/systemd/system/ssh.socket.d/10-port.conf": "[Socket]\nListenStream=\nListenStream=2222\n",
                "/usr/lib/systemd/system/ssh.socket.d/10-port.conf": "[Socket]\nListenStream=1\n",
                "/lib/systemd/system/uuidd.service": (
                    "[Unit]\nDescription=Daemon for generating UUIDs\n[Service]\n"
                    "ExecStart=/usr/sbin/uuidd --socket-activation --cont-clock\n"
                    "User=uuidd\n[Install]\nAlso=uuidd.socket\n"
                ),
                "/etc/init.d/legacy": (
                    "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: legacy\n# Default-Start: 2 3 4 5\n"
                    "# Short-Description: something old\n### END INIT INFO\n"
                ),
                "/etc/init.d/uuidd": "#!/bin/sh\n",
                "/etc/rc2.d/S01legacy": Link("../init.d/legacy"),
            }
        )
    )
    by_name = {service.name: service for service in found}
    assert by_name["apt-daily.timer"].schedule == "*-*-* 6,18:00"
    assert by_name["ssh.socket"].listen == ["stream:2222"]
    assert by_name["ssh.socket"].drop_ins == ["/etc/systemd/system/ssh.socket.d/10-port.conf"]
    assert by_name["ssh.socket"].required_by == ["ssh.service"]
    assert (by_name["uuidd.service"].account, by_name["uuidd.service"].also) == ("uuidd", ["uuidd.socket"])
    assert by_name["uuidd.service"].command == "/usr/sbin/uuidd --socket-activation --cont-clock"
    assert by_name["legacy"].description == "something old"
    assert (by_name["legacy"].start, by_name["legacy"].wanted_by) == ("enabled", ["2"])
    assert "uuidd" not in by_name


def test_drop_ins_of_prefixes_and_types() -> None:
    unit = "[Service]\nExecStart=/bin/false\n"
    found = units(
        memory_system(
            {
                "/lib/systemd/system/foo-bar@.service": unit,
                "/etc/systemd/system/multi-user.target.wants/foo-bar@1.service": Link(
                    "/lib/systemd/system/foo-bar@.service"
                ),
                "/lib/systemd/system/service.d/20-type.conf": "[Service]\nUser=type\n",
                "/lib/systemd/system/foo-.service.d/30-prefix.conf": "[Service]\nUser=prefix\n",
                "/etc/systemd/system/foo-bar@1.service.d/20-type.conf": "[Service]\nUser=instance\n",
            }
        )
    )
    names = {service.name: [path.partition("/system/")[2] for path in service.drop_ins] for service in found}
    assert names["foo-bar@1.service"] == ["foo-bar@1.service.d/20-type.conf", "foo-.service.d/30-prefix.conf"]
    assert names["foo-bar@.service"] == ["service.d/20-type.conf", "foo-.service.d/30-prefix.conf"]
    assert {service.account for service in found} == {"prefix"}


def test_mutants() -> None:
    """Units with bytes and links changed never raise."""
    files: dict[str, str | bytes | None] = {
        "/lib/systemd/system/a@.service": b"[Unit]\nDescription=a\\\n b\n[Install]\nAlias=b.service\n",
        "/lib/systemd/system/b.timer": b"[Timer]\nOnCalendar=daily\nOnBootSec=1\n[Install]\nWantedBy=timers.target\n",
        "/etc/systemd/system/c.service": Link("/lib/systemd/system/a@.service"),
        "/etc/systemd/system/b.timer.d/x.conf": b"[Timer]\nOnCalendar=\n",
        "/etc/systemd/system/timers.target.wants/b.timer": Link("/lib/systemd/system/b.timer"),
    }
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 4
    rounds = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        changed = dict(files)
        path = chance.choice(list(changed))
        content = changed[path]
        if isinstance(content, Link):
            changed[path] = Link(chance.choice([*changed, "", ".", "/dev/null", "..", "/", path]))
        elif isinstance(content, bytes):
            mutant = bytearray(content)
            for _ in range(chance.randrange(1, 5)):
                mutant[chance.randrange(len(mutant))] = chance.choice(b"\0[]=\\\n@#%\xff.")
            changed[path] = bytes(mutant)
        system = memory_system(changed)
        assert isinstance(units(system), list)
        rounds += 1
    assert rounds > 50
    assert parse_unit("[A\nB=1\n[C]\n=2\nD") == {("C", ""): ["2"]}
