"""Accounts."""

from __future__ import annotations

import msgspec


class AuthorizedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key that may log in, by its fingerprint as ``ssh-keygen -l`` prints it."""

    type: str
    fingerprint: str
    comment: str = ""
    options: str = ""
    source: str = ""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account of the system. Never a password's hash: ``password`` is "set", "empty" or "locked"."""

    name: str
    uid: int  # of Windows the relative identifier
    gid: int | None = None
    comment: str = ""
    home: str = ""
    shell: str = ""
    groups: list[str] = []
    password: str | None = None
    disabled: bool = False
    flags: list[str] = []
    sid: str | None = None
    last_login_ns: int | None = None
    authorized_keys: list[AuthorizedKey] = []
    full_name: str = ""
    password_changed_ns: int | None = None  # since 1970
    password_expires_ns: int | None = None
    expires_ns: int | None = None
    sudo: list[str] = []  # the rules of sudoers(5) that name the account or a group of his
