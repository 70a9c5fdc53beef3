"""Accounts of a BSD system: master.passwd(5), or passwd(5) where it is missing, and group(5)."""

from __future__ import annotations

from guestctl.detectors.bsd.rights import rights, sshd
from guestctl.detectors.linux.reading import text_of
from guestctl.detectors.linux.users import PasswordState, accounts, records, secret_state
from guestctl.detectors.report.users import Account
from guestctl.detectors.system import System

# What pw(8) puts before a password: such an account cannot log in by its keys either.
_LOCKED = "*LOCKED*"


def users(system: System) -> list[Account]:
    """Every account. The passwords of passwd(5), which are but asterisks, say nothing."""
    found = [_account(fields) for fields in records(text_of(system, "/etc/master.passwd"), 10)]
    if not found:
        found = [(fields, PasswordState()) for fields in records(text_of(system, "/etc/passwd"), 7)]
    return accounts(system, found, sshd(system), rights(system))


def _account(fields: list[str]) -> tuple[list[str], PasswordState]:
    name, secret, uid, gid, login_class, change, expire, comment, home, shell = fields
    return [name, "", uid, gid, comment, home, shell], PasswordState(
        password=secret_state(secret),
        flags=[f"class {login_class}"] if login_class else [],
        disabled=secret.startswith(_LOCKED),
        password_expires_ns=_time_ns(change),
        expires_ns=_time_ns(expire),
    )


def _time_ns(text: str) -> int | None:
    """Seconds since 1970; 0 is never."""
    seconds = int(text) if text.isdecimal() and len(text) < 12 else 0
    return seconds * 10**9 or None
