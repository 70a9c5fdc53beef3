"""What an administrator set: host name, time zone, locale, and the ssh host keys made at first start."""

from __future__ import annotations

from guestctl.detectors.files import Tree, assignments, first_line, list_directory, read_config
from guestctl.detectors.report import Guest


def detect_hostname(tree: Tree, guest: Guest) -> None:
    """hostname(5), then what Red Hat and Gentoo had before it."""
    line = next((first_line(tree, path) for path in ("/etc/hostname", "/etc/HOSTNAME") if tree.is_file(path)), None)
    if line and not line.startswith("#"):
        guest.hostname = line
        return
    for path in ("/etc/sysconfig/network", "/etc/conf.d/hostname"):
        values = {key.upper(): value for key, value in assignments(read_config(tree, path) or "")}
        if values.get("HOSTNAME"):
            guest.hostname = values["HOSTNAME"]
            return


def detect_timezone(tree: Tree, guest: Guest) -> None:
    """The zone that /etc/localtime points into, else the one that a file names."""
    if tree.is_symlink("/etc/localtime"):
        _, marker, zone = tree.readlink("/etc/localtime").partition("zoneinfo/")
        if marker and zone:
            guest.timezone = zone
            return
    for path in ("/etc/timezone", "/var/db/zoneinfo"):  # the second is that of FreeBSD's tzsetup(8)
        guest.timezone = first_line(tree, path)
        if guest.timezone:
            return
    for path in ("/etc/sysconfig/clock", "/etc/conf.d/clock"):
        values = dict(assignments(read_config(tree, path) or ""))
        guest.timezone = values.get("ZONE") or values.get("TIMEZONE") or None
        if guest.timezone:
            return


def detect_locale(tree: Tree, guest: Guest) -> None:
    """LANG, from wherever the distribution keeps it."""
    for path in ("/etc/locale.conf", "/etc/default/locale", "/etc/sysconfig/i18n", "/etc/env.d/02locale"):
        values = dict(assignments(read_config(tree, path) or ""))
        if values.get("LANG"):
            guest.locale = values["LANG"]
            return


def detect_ssh_keys(tree: Tree, guest: Guest) -> None:
    """The types of the ssh host keys, by their public halves."""
    types = set()
    for name in list_directory(tree, "/etc/ssh"):
        if name.startswith("ssh_host_") and name.endswith("_key.pub"):
            line = first_line(tree, f"/etc/ssh/{name}")
            if line:
                types.add(line.split()[0])
    guest.ssh_host_keys = sorted(types)
