"""What a BSD system starts: the scripts of rc.d(8) by rc.conf(5), jobs of cron(8) and periodic(8)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.core.types import GuestType
from guestctl.detectors.bsd.rc_conf import directories, is_true, of_service, rc_conf
from guestctl.detectors.bsd.shell import assigned
from guestctl.detectors.bsd.shell_words import Values
from guestctl.detectors.linux.cron import cron
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.services import Service
from guestctl.detectors.system import System

_PERIODIC = ("/etc/periodic", "/usr/local/etc/periodic")
_PERIODS = ("daily", "weekly", "monthly", "security")
_PERIODIC_FILES = (
    *("/etc/defaults/periodic.conf", "/etc/periodic.conf", "/etc/periodic.conf.local", "/usr/local/etc/periodic.conf"),
)
_SWITCH = re.compile(r"\$\{?(\w+_enable)\b|\bcheck_yesno_period (\w+_enable)\b")
_NAME = re.compile(r"[A-Za-z_]\w*")
_KEYWORDS = re.compile(r"^# KEYWORDS?:(.*)", re.MULTILINE)
_NO_SCRIPTS = ("rc.subr", "README")
_MAX_SCRIPT_BYTES = 8 << 20  # of all


def services(system: System) -> list[Service]:
    """A record of each script and each job."""
    found: list[Service] = []
    for read in (_scripts, _periodic):
        try:
            found.extend(read(system))
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"services: {error}")
    # Those of periodic(8) depend on its own configuration.
    return found + [job for job in cron(system) if not job.source.startswith(_PERIODIC)]


def _texts(system: System, folders: list[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of the files in directories."""
    size = 0
    for folder in folders:
        for name in names_in(system, folder):
            path = f"{folder}/{name}"
            if not system.tree.is_file(path) or name.startswith(".") or name in _NO_SCRIPTS:
                continue
            text = text_of(system, path)
            size += len(text)
            if size > _MAX_SCRIPT_BYTES:
                system.warnings.append(f"{path}: there is too much in the scripts, the rest is not read")
                return
            yield path, text


def _scripts(system: System) -> Iterator[Service]:
    values = rc_conf(system)
    for path, text in _texts(system, directories(system, values)):
        first, loads, rest = text.partition("\nload_rc_config")
        script = assigned(first)
        if system.guest.type is GuestType.OPENBSD:
            yield _openbsd_script(path, script, values)
        elif script.get("name"):
            yield _script(system, path, text, (script, loads + rest), values)


def _script(system: System, path: str, text: str, parts: tuple[Values, str], values: Values) -> Service:
    """A script of rc.d(8) with its ``rcvar``, which says whether it is started.

    Of `parts` the first is what it sets before it loads rc.conf, the second what comes then.
    """
    script, rest = parts
    name = script["name"] or ""
    own = of_service(system, name, values)
    # FreeBSD's scripts were once to write rcvar=`set_rcvar`, which is the name with _enable.
    usual = name if system.guest.type is GuestType.NETBSD else f"{name}_enable"
    switch = (script["rcvar"] if script["rcvar"] is not None else usual) if "rcvar" in script else ""
    used = {word: own[word] for word in {switch, *_NAME.findall(text)} if word in own}
    script = assigned(rest, {**script, **used})
    if switch:
        value = script.get(switch, "")
        start = "unknown" if value is None else "enabled" if is_true(value) else "disabled"
    else:
        start = "static"
    if any("nostart" in words.split() for words in _KEYWORDS.findall(text)):
        start = "manual"
    return Service(
        name=name,
        kind="script",
        start=start,
        description=script.get("desc") or "",
        command=" ".join(filter(None, (script.get("command"), own.get(f"{name}_flags")))),
        account=own.get(f"{name}_user") or script.get(f"{name}_user") or "",
        source=path,
    )


def _openbsd_script(path: str, script: Values, values: Values) -> Service:
    """A script of OpenBSD's rc.d(8): one of pkg_scripts, or the system's own, which starts unless its flags are NO."""
    name = path.rpartition("/")[2]
    flags = values.get(f"{name}_flags", "NO")
    if name in (values.get("pkg_scripts") or "").split():
        start, flags = "enabled", values.get(f"{name}_flags")
    else:
        start = "unknown" if flags is None else "disabled" if flags == "NO" else "enabled"
    shown = flags if flags and flags != "NO" else script.get("daemon_flags")
    return Service(
        name=name,
        kind="script",
        start=start,
        command=" ".join(filter(None, (script.get("daemon"), shown))),
        account=values.get(f"{name}_user") or script.get("daemon_user") or "",
        source=path,
    )


def _periodic(system: System) -> Iterator[Service]:
    """The scripts of periodic(8), which look for the variable of periodic.conf(5) that enables them."""
    values: Values = {"_localbase": "/usr/local"}
    for path in _PERIODIC_FILES:
        values = assigned(text_of(system, path), values)
    for period in _PERIODS:
        for path, text in _texts(system, [f"{folder}/{period}" for folder in _PERIODIC]):
            switch = _SWITCH.search(text)
            value = values.get(switch[1] or switch[2], "") if switch else "YES"
            if not system.tree.stat(path).st_mode & 0o111:
                value = "NO"
            yield Service(
                name=path.rpartition("/")[2],
                kind="cron",
                start="unknown" if value is None else "disabled" if value.upper() in ("", "NO") else "enabled",
                command=path,
                account="root",
                source=path,
                schedule=f"@{period}",
            )
