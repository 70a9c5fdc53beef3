"""rc.conf(5): the variables that start a BSD system, the files that set them in the order in which they are read."""

from __future__ import annotations

import re

from guestctl.core.types import GuestType
from guestctl.detectors.bsd.shell import assigned
from guestctl.detectors.bsd.shell_words import Values
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.system import System

_TRUE = ("YES", "TRUE", "ON", "1")
_FILES = {
    GuestType.NETBSD: ("/etc/defaults/rc.conf", "/etc/rc.conf"),
    GuestType.OPENBSD: ("/etc/rc.conf", "/etc/rc.conf.local"),
}
# FreeBSD and DragonFly, whose rc_conf_files may name others
_DEFAULTS = ("/etc/defaults/rc.conf", "/etc/defaults/vendor.conf")
_LOCAL = "/etc/rc.conf /etc/rc.conf.local"
_MAX_FILES = 64


def rc_conf(system: System) -> Values:
    """The variables; None is the value of one that only running the files would tell."""
    values: Values = {}
    if system.guest.type is GuestType.OPENBSD and "local_rcconf" not in text_of(system, "/etc/rc.conf"):
        return {key: value for path in _FILES[system.guest.type] for key, value in _lines(text_of(system, path))}
    paths = _FILES.get(system.guest.type, _DEFAULTS)
    for path in paths:
        values = assigned(text_of(system, path), values)
    if paths is _DEFAULTS:
        for path in (values.get("rc_conf_files") or _LOCAL).split()[:_MAX_FILES]:
            values = assigned(text_of(system, path), values)
    return values


def _lines(text: str) -> list[tuple[str, str]]:
    """rc.conf(5) of OpenBSD since 5.7, which is no script any more: a value may hold blanks without quotes."""
    found = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        value = value.partition("#")[0].strip()
        if equals and re.fullmatch(r"\w+", key.strip()):
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found.append((key.strip(), value[1:-1] if quoted else value))
    return found


def directories(system: System, values: Values) -> list[str]:
    """Where scripts are: the system's own, and those of packages."""
    if system.guest.type in _FILES:
        return ["/etc/rc.d"]
    return ["/etc/rc.d", *(values.get("local_startup") or "/usr/local/etc/rc.d").split()[:_MAX_FILES]]


def of_service(system: System, name: str, values: Values) -> Values:
    """`values` with what the files for one service alone set."""
    for directory in directories(system, values):
        path = f"{directory.removesuffix('/rc.d')}/rc.conf.d/{name}"
        if system.tree.is_dir(path):
            for file in names_in(system, path):
                values = assigned(text_of(system, f"{path}/{file}"), values)
        elif system.tree.is_file(path):
            values = assigned(text_of(system, path), values)
    return values


def is_true(value: str) -> bool:
    """checkyesno of rc.subr(8): what is none of its words is no."""
    return value.upper() in _TRUE
