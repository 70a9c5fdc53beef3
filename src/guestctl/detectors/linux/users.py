"""Accounts: passwd(5), shadow(5), group(5); the keys that may log in as them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report import Guest, User
from guestctl.detectors.report.security import Sudoers
from guestctl.detectors.report.users import Account, AuthorizedKey
from guestctl.detectors.system import System

_DAY_NS = 86400 * 10**9
_MAX_ACCOUNTS = 1 << 14
# Of all accounts: many may have one home, the same groups, and the same rules of sudoers.
_MAX_DETAILS = 1 << 18
_MAX_RULE_WORDS = 1 << 25  # that are compared with accounts, some seconds
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


class PasswordState(NamedTuple):
    """What a system says of an account beside passwd(5); ``password`` as in `Account`."""

    password: str | None = None
    flags: Sequence[str] = ()
    disabled: bool = False
    changed_ns: int | None = None
    password_expires_ns: int | None = None
    expires_ns: int | None = None


def users(system: System) -> list[Account]:
    """Every account of passwd(5)."""
    from guestctl.detectors.linux.reading import text_of
    from guestctl.detectors.linux.ssh import sshd_settings
    from guestctl.detectors.linux.sudoers import sudoers

    shadow = {name: rest for name, *rest in records(text_of(system, "/etc/shadow"), 9)}
    found = [
        (fields, _password_state(fields[1], shadow.get(fields[0])))
        for fields in records(text_of(system, "/etc/passwd"), 7)
    ]
    return accounts(system, found, sshd_settings(system), sudoers(system))


def accounts(
    system: System,
    found: Iterable[tuple[list[str], PasswordState]],
    sshd: dict[str, str] | None,
    rules: Sudoers | None,
) -> list[Account]:
    """The accounts of the records of passwd(5) that are `found`, with their groups, keys and rights."""
    from guestctl.detectors.linux.reading import text_of
    from guestctl.detectors.linux.ssh import authorized_keys, parse_authorized_keys
    from guestctl.detectors.linux.sudoers import rules_for, words_in

    names, members = _groups(text_of(system, "/etc/group"))
    patterns = (sshd or {}).get("authorizedkeysfile", ".ssh/authorized_keys")
    texts = {id(rule): str(rule) for rule in rules.rules} if rules else {}
    words = words_in(rules) if rules else 0
    if words > _MAX_RULE_WORDS:
        system.warnings.append("users: there are too many rules of sudoers to tell whose they are")
        rules, words = None, 0

    @lru_cache(maxsize=16)  # accounts may share one file
    def keys_in(path: str) -> list[AuthorizedKey]:
        return list(parse_authorized_keys(text_of(system, path), path))

    details = 0
    listed: list[Account] = []
    for (name, _, uid, gid, comment, home, shell), state in found:
        if not (uid.isdecimal() and gid.isdecimal()):
            continue
        if len(listed) == _MAX_ACCOUNTS or details > _MAX_DETAILS or len(listed) * words > _MAX_RULE_WORDS:
            system.warnings.append(f"users: only the first {len(listed)} accounts are shown: there is too much of them")
            break
        primary = [names[gid]] if gid in names else []
        groups = [*primary, *(group for group in members.get(name, ()) if group not in primary)]
        keys = authorized_keys(patterns, name, home, keys_in)
        sudo = [texts[id(rule)] for rule in rules_for(rules, name, int(uid[:20]), groups)] if rules else []
        details += len(groups) + len(keys) + sum(map(len, sudo)) // 64
        listed.append(
            Account(
                name=name,
                uid=int(uid[:20]),
                gid=int(gid[:20]),
                comment=comment,
                home=home,
                shell=shell,
                groups=groups,
                password=state.password,
                disabled=state.disabled,
                flags=list(state.flags),
                authorized_keys=keys,
                password_changed_ns=state.changed_ns,
                password_expires_ns=state.password_expires_ns,
                sudo=sudo,
                expires_ns=state.expires_ns,
            )
        )
    return listed


def can_log_in(account: Account) -> bool:
    """Whether the shell is one, and a password or a key opens it."""
    has_shell = account.shell.rpartition("/")[2] not in _NO_LOGIN
    return has_shell and not account.disabled and (account.password != "locked" or bool(account.authorized_keys))


def records(text: str, count: int) -> list[list[str]]:
    """The lines that have `count` fields between colons."""
    return [fields for fields in (line.split(":") for line in text.splitlines()) if len(fields) == count]


def _groups(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Names by identifiers, and by user the groups that name him."""
    names: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for name, _, gid, users in records(text, 4):
        names.setdefault(gid, name)
        for user in users.split(","):
            members.setdefault(user, []).append(name)
    return names, members


def secret_state(secret: str) -> str:
    """As ``passwd -S`` has it: P, NP and L."""
    return "empty" if not secret else "locked" if secret[0] in "!*" else "set"


def _password_state(secret: str, shadow: list[str] | None) -> PasswordState:
    aging = shadow or [""] * 8
    there = secret if secret != "x" else aging[0] if shadow else None
    changed, maximum, expires = (_days(aging[number]) for number in (1, 3, 6))
    return PasswordState(
        password=None if there is None else secret_state(there),
        flags=["password expired"] if changed == 0 else [],
        changed_ns=changed * _DAY_NS if changed else None,
        password_expires_ns=(changed + maximum) * _DAY_NS if changed and maximum is not None else None,
        expires_ns=None if expires is None else expires * _DAY_NS,
    )


def _days(text: str) -> int | None:
    """A field of shadow(5) that counts days; 99999 of them mean never."""
    return int(text) if text.isdecimal() and len(text) < 6 and text != "99999" else None
