"""Accounts that can log in, from passwd(5)."""

from __future__ import annotations

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report import Guest, User

_NO_LOGIN = {"nologin", "false", "sync", "halt", "shutdown", "null"}


def detect_users(tree: Tree, guest: Guest) -> None:
    """Every account whose shell is a shell."""
    users = []
    for line in (read_config(tree, "/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) != 7 or not (fields[2].isdecimal() and fields[3].isdecimal()):
            continue
        name, _, uid, gid, comment, home, shell = fields
        # passwd(5): an empty shell means /bin/sh.
        if shell.rpartition("/")[2] not in _NO_LOGIN:
            users.append(User(name, int(uid[:20]), int(gid[:20]), comment.rstrip(","), home, shell or "/bin/sh"))
    guest.users = users
