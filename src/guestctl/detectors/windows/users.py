"""Accounts out of the SAM hive, and the machine's security identifier. No hash is read.

Specification: [MS-SAMR] for the flags, [MS-DTYP] 2.4.2.2 for security identifiers; the values V, F and C are not
documented by Microsoft, and are read as NT 4 to 11 write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, iter_unpack

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.registry import Hive, Key
from guestctl.detectors.report.users import Account
from guestctl.detectors.windows.filetime import filetime_ns
from guestctl.detectors.windows.system import WindowsSystem

# Of F: last logon at 8, relative identifier, that of the primary group, USER_ACCOUNT codes at 48
_F = Struct("<8xQ32xIII")
# V and C begin with a table of these: offset from the table's end, bytes, and a number
_ITEM = Struct("<III")
_USER_ITEMS = 17
_NAME, _FULL_NAME, _COMMENT, _HOME, _NT_HASH = 1, 2, 3, 6, 14
_DOMAIN_ITEMS, _DOMAIN_SID = 4, 1
_ALIAS_ITEMS, _ALIAS_NAME, _ALIAS_MEMBERS = 4, 1, 3
_ALIAS_RID_BYTES = 4  # before the table of C
_MAX_SUB_AUTHORITIES = 15
# The header of a hash alone, and with the hash: encrypted with RC4, and with AES since Windows 10 1607.
_PASSWORDS = {4: "empty", 24: "empty", 20: "set", 56: "set"}

_DISABLED = 1
_FLAGS = {
    0x0002: "home directory required",
    0x0004: "password not required",
    0x0008: "temporary duplicate account",
    0x0020: "MNS logon account",
    0x0040: "interdomain trust account",
    0x0080: "workstation trust account",
    0x0100: "server trust account",
    0x0200: "password never expires",
    0x0400: "locked",
    0x0800: "encrypted text password allowed",
    0x1000: "smart card required",
    0x2000: "trusted for delegation",
    0x4000: "not delegated",
    0x8000: "DES keys only",
    0x10000: "no preauthentication",
    0x20000: "password expired",
}


def users(system: WindowsSystem) -> list[Account]:
    """The accounts of this machine, by their relative identifiers; those of a domain are on its controllers."""
    hive = system.hive("SAM")
    if hive is None:
        return []
    account = hive.key(r"SAM\Domains\Account")
    domain = domain_sid(account) if account is not None else None
    groups = _groups(system, hive)
    profiles = _profiles(system)
    found: list[Account] = []
    for key in system.subkeys(hive.key(r"SAM\Domains\Account\Users")):
        try:
            found += _account(system, key, domain, groups, profiles)
        except InvalidFormat as error:
            system.warnings.append(f"SAM: {error}")
    return sorted(found, key=lambda one: one.uid)


def machine_sid(system: WindowsSystem) -> str | None:
    """The security identifier that those of the machine's accounts begin with."""
    hive = system.hive("SAM")
    account = hive.key(r"SAM\Domains\Account") if hive is not None else None
    return domain_sid(account) if account is not None else None


def domain_sid(key: Key) -> str | None:
    """The security identifier of a key of Domains."""
    value = key.value("V")
    if value is None:
        return None
    return next(sids(_item(key, value.data, _DOMAIN_ITEMS, _DOMAIN_SID)), None)


def _account(
    system: WindowsSystem, key: Key, domain: str | None, groups: dict[str, list[str]], profiles: dict[str, str]
) -> Iterator[Account]:
    values = system.values(key)
    if "v" not in values or "f" not in values:
        return  # the key Names
    v, f = values["v"].data, values["f"].data
    if len(f) < _F.size:
        raise InvalidFormat(f"F has {len(f)} bytes", structure="account", offset=key.offset)
    logon, rid, group, flags = _F.unpack_from(f)
    sid = f"{domain}-{rid}" if domain else None
    texts = [_text(_item(key, v, _USER_ITEMS, index)) for index in (_NAME, _COMMENT, _HOME, _FULL_NAME)]
    yield Account(
        name=texts[0],
        uid=rid,
        gid=group,
        comment=texts[1],
        home=texts[2] or profiles.get(sid or "", ""),
        groups=groups.get(sid or "", []),
        password=_PASSWORDS.get(len(_item(key, v, _USER_ITEMS, _NT_HASH))),
        disabled=bool(flags & _DISABLED),
        flags=[name for bit, name in _FLAGS.items() if flags & bit],
        sid=sid,
        last_login_ns=filetime_ns(logon),
        full_name=texts[3],
    )


def _groups(system: WindowsSystem, hive: Hive) -> dict[str, list[str]]:
    """Security identifier -> the names of the local groups (aliases) that it is a member of."""
    found: dict[str, list[str]] = {}
    for domain in ("Builtin", "Account"):
        for key in system.subkeys(hive.key(rf"SAM\Domains\{domain}\Aliases")):
            value = system.values(key).get("c")
            if value is None:
                continue
            table = value.data[_ALIAS_RID_BYTES:]
            try:
                name = _text(_item(key, table, _ALIAS_ITEMS, _ALIAS_NAME))
                for sid in sids(_item(key, table, _ALIAS_ITEMS, _ALIAS_MEMBERS)):
                    found.setdefault(sid, []).append(name)
            except InvalidFormat as error:
                system.warnings.append(f"SAM: {error}")
    return found


def _profiles(system: WindowsSystem) -> dict[str, str]:
    """Security identifier -> the directory of the profile."""
    keys = system.subkeys(system.software(r"Microsoft\Windows NT\CurrentVersion\ProfileList"))
    found = ((key.name, system.values(key).get("profileimagepath")) for key in keys)
    return {name: value.text for name, value in found if value is not None}


def _item(key: Key, data: bytes, items: int, index: int) -> bytes:
    """Item `index` of the table of `items` that `data` begin with."""
    base = items * _ITEM.size
    if len(data) < base:
        raise InvalidFormat(f"{len(data)} bytes of {base}", structure="account", offset=key.offset)
    offset, length, _ = _ITEM.unpack_from(data, index * _ITEM.size)
    found = data[base + offset : base + offset + length]
    if len(found) != length:
        raise InvalidFormat(f"item {index} ends at {base + offset + length}", structure="account", offset=key.offset)
    return found


def _text(data: bytes) -> str:
    return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")


def sids(data: bytes) -> Iterator[str]:
    """The security identifiers that stand one after the other in `data`, as far as they are sound."""
    at = 0
    while at + 8 <= len(data):
        revision, count = data[at], data[at + 1]
        end = at + 8 + 4 * count
        if revision != 1 or count > _MAX_SUB_AUTHORITIES or end > len(data):
            return
        authority = int.from_bytes(data[at + 2 : at + 8], "big")
        yield "-".join(("S-1", str(authority), *(str(part) for (part,) in iter_unpack("<I", data[at + 8 : end]))))
        at = end
