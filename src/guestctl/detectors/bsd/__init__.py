"""FreeBSD, NetBSD, OpenBSD and DragonFly: release, host name and services, as their rc.conf(5) and motd(5) say.

The kernel is looked at where no file tells the release: it holds the text of its version.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from guestctl.detectors.bsd.kernel import NAMES, search, version_line
from guestctl.detectors.files import Tree, assignments, first_line, read_config
from guestctl.detectors.linux.architecture import detect_architecture
from guestctl.detectors.linux.distribution import split_version
from guestctl.detectors.linux.settings import detect_ssh_keys, detect_timezone
from guestctl.detectors.linux.users import detect_users
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest

_RELEASE_FILES = ("/etc/release", "/etc/motd", "/var/run/motd", "/etc/motd.template")
_KERNELS = ("/boot/kernel/kernel", "/netbsd", "/bsd")
_USERLAND = re.compile(r"^USERLAND_VERSION=[\"']?([\w.-]+)", re.MULTILINE)


def detect_release(tree: Tree, guest: Guest) -> None:
    """Product name and version."""
    guest.distro = guest.type
    name = NAMES[guest.type]
    line = _userland(tree) or _told(tree, name) or _kernel_text(tree, name)
    if line is None:
        return
    version = re.match(rf"{name} v?(\d[\w.-]*)", line)
    guest.product_name = line
    guest.major_version, guest.minor_version = split_version(version[1] if version else None)
    guest.osinfo = osinfo_id(guest.distro, guest.major_version, guest.minor_version)


def _userland(tree: Tree) -> str | None:
    """FreeBSD's own word since 10.0: freebsd-version(1)."""
    found = _USERLAND.search(read_config(tree, "/bin/freebsd-version") or "")
    return f"FreeBSD {found[1]}" if found else None


def _told(tree: Tree, name: str) -> str | None:
    for path in _RELEASE_FILES:
        line = first_line(tree, path)
        # A message that was never completed has question marks in the place of the version.
        if line and re.match(rf"{name} v?\d", line):
            return line
    return None


def _kernel_text(tree: Tree, name: str) -> str | None:
    """The line of a kernel that uname(1) shows a part of."""
    for path in _KERNELS:
        if tree.is_file(path):
            line = search(tree.device(path), {name: version_line(name)}).get(name)
            if line:
                return line
    return None


def detect_hostname(tree: Tree, guest: Guest) -> None:
    """myname(5), then rc.conf(5), of which the local one counts."""
    guest.hostname = first_line(tree, "/etc/myname")
    for path in ("/etc/rc.conf.local", "/etc/rc.conf"):
        guest.hostname = guest.hostname or _rc_conf(tree, path).get("hostname") or None


def detect_services(tree: Tree, guest: Guest) -> None:
    """What rc.conf enables: ``sshd_enable="YES"``, or NetBSD's ``sshd=YES``."""
    values = {**_rc_conf(tree, "/etc/rc.conf"), **_rc_conf(tree, "/etc/rc.conf.local")}
    enabled = {name for name, value in values.items() if value.upper() in ("YES", "TRUE", "ON", "1")}
    if guest.type in ("freebsd", "dragonfly"):
        guest.services = sorted(name.removesuffix("_enable") for name in enabled if name.endswith("_enable"))
    elif guest.type == "netbsd":
        guest.services = sorted(enabled - {"rc_configured"})


def _rc_conf(tree: Tree, path: str) -> dict[str, str]:
    """The assignments; what comes after a value, as a comment does, is no part of it."""
    values = {}
    for key, value in assignments(read_config(tree, path) or ""):
        quoted = re.match(r"([\"'])(.*?)\1", value)
        values[key] = quoted[2] if quoted else value.partition("#")[0].strip()
    return values


DETECTORS: dict[str, Callable[[Tree, Guest], None]] = {
    "release": detect_release,
    "architecture": detect_architecture,
    "hostname": detect_hostname,
    "services": detect_services,
    "timezone": detect_timezone,
    "users": detect_users,
    "ssh host keys": detect_ssh_keys,
}
