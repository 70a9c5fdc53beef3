"""What the init systems beside systemd start: OpenRC's, System V's and upstart's scripts, services of runit and s6.

OpenRC: rc-update(8). System V: insserv(8) and the LSB's "Comment Conventions for Init Scripts". upstart: init(5).
runit: runsvdir(8), sv(8). s6-overlay: its services.d and s6-rc.d.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.services import Service
from guestctl.detectors.system import System

_START_LINK = re.compile(r"S\d\d(.+)")
_LSB_FIELD = re.compile(r"#[ \t]*(Short-Description|Default-Start):[ \t]*(.*)")
_NO_SCRIPTS = {"README", "functions", "halt", "killall", "single", "rc", "rcS", "skeleton"}


def openrc(system: System) -> Iterator[Service]:
    """The scripts of /etc/init.d, ``wanted_by`` their runlevels."""
    levels: dict[str, list[str]] = {}
    for level in names_in(system, "/etc/runlevels"):
        for name in names_in(system, f"/etc/runlevels/{level}"):
            levels.setdefault(name, []).append(level)
    for name in names_in(system, "/etc/init.d"):
        path = f"/etc/init.d/{name}"
        text = text_of(system, path)
        if not text.startswith("#!") or "openrc-run" not in text.partition("\n")[0]:
            continue
        values = dict(re.findall(r"^(description|command|command_user)=[\"']?([^\"'\n]*)", text, re.MULTILINE))
        yield Service(
            name=name,
            kind="script",
            start="enabled" if name in levels else "disabled",
            description=values.get("description", ""),
            command=values.get("command", ""),
            account=values.get("command_user", "").partition(":")[0],
            source=path,
            wanted_by=levels.get(name, []),
        )


def system_v(system: System) -> Iterator[Service]:
    """The scripts of /etc/init.d (/etc/rc.d/init.d), ``wanted_by`` the runlevels whose S links name them."""
    base = next((path for path in ("/etc/init.d", "/etc/rc.d/init.d") if system.tree.is_dir(path)), None)
    if base is None:
        return
    levels: dict[str, list[str]] = {}
    for level in "S0123456":
        directory = next((p for p in (f"/etc/rc{level}.d", f"/etc/rc.d/rc{level}.d") if system.tree.is_dir(p)), "")
        directory = directory or f"{base}/rc{level}.d"
        for link in names_in(system, directory):
            match = _START_LINK.fullmatch(link)
            if match:
                levels.setdefault(match[1], []).append(level)
    for name in names_in(system, base):
        text = text_of(system, f"{base}/{name}")
        if name in _NO_SCRIPTS or not text.startswith("#!") or "openrc-run" in text.partition("\n")[0]:
            continue
        fields = dict(_LSB_FIELD.findall(text))
        yield Service(
            name=name,
            kind="script",
            start="enabled" if name in levels else "disabled",
            description=fields.get("Short-Description", "").strip(),
            source=f"{base}/{name}",
            wanted_by=levels.get(name) or fields.get("Default-Start", "").split(),
        )


def upstart(system: System) -> Iterator[Service]:
    """The jobs of /etc/init; "manual" is the word of a job or of its override."""
    for file in names_in(system, "/etc/init"):
        if not file.endswith(".conf"):
            continue
        name = file.removesuffix(".conf")
        text = text_of(system, f"/etc/init/{file}")
        text += "\n" + text_of(system, f"/etc/init/{name}.override")
        stanzas: dict[str, str] = {}
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "manual":
                stanzas.pop("start", None)
            elif word in ("start", "description", "exec", "setuid"):
                stanzas[word] = rest.strip().strip("\"'")
        yield Service(
            name=name,
            kind="job",
            start="enabled" if "start" in stanzas else "manual",
            description=stanzas.get("description", ""),
            command=stanzas.get("exec", ""),
            account=stanzas.get("setuid", ""),
            source=f"/etc/init/{file}",
            schedule=stanzas.get("start", "").removeprefix("on "),
        )


# (what holds a directory for each service, where its supervisor looks for those that it starts)
_SUPERVISED = (
    ("/etc/sv", ("/etc/runit/runsvdir/default", "/etc/service", "/var/service", "/service")),
    ("/etc/services.d", ("/etc/services.d",)),
    ("/etc/s6-overlay/s6-rc.d", ("/etc/s6-overlay/s6-rc.d/user/contents.d",)),
)


def supervised(system: System) -> Iterator[Service]:
    """Directories with a ``run`` file; one with a file ``down`` is not started."""
    for base, started in _SUPERVISED:
        names = {name for directory in started for name in names_in(system, directory)}
        for name in names_in(system, base):
            path = f"{base}/{name}"
            if system.tree.is_file(f"{path}/run"):
                enabled = name in names and not system.tree.exists(f"{path}/down")
                yield Service(name=name, kind="service", start="enabled" if enabled else "disabled", source=path)
