"""The ssh server's settings, the rights of sudo and doas, and the firewalls of a BSD system, by their configuration."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.types import GuestType
from guestctl.detectors.bsd.rc_conf import is_true, rc_conf
from guestctl.detectors.bsd.rights import rights, sshd
from guestctl.detectors.report.security import Security
from guestctl.detectors.system import System

# firewall -> (what enables it, the file of its rules)
_FREEBSD = {
    "pf": ("pf_enable", "/etc/pf.conf"),
    "ipfw": ("firewall_enable", None),
    "ipfilter": ("ipfilter_enable", "/etc/ipf.rules"),
}
_FIREWALLS: dict[GuestType, dict[str, tuple[str, str | None]]] = {
    GuestType.FREEBSD: _FREEBSD,
    GuestType.DRAGONFLY: _FREEBSD,
    GuestType.NETBSD: {
        "npf": ("npf", "/etc/npf.conf"),
        "pf": ("pf", "/etc/pf.conf"),
        "ipfilter": ("ipfilter", "/etc/ipf.conf"),
    },
    GuestType.OPENBSD: {"pf": ("pf", "/etc/pf.conf")},
}


def security(system: System) -> Security:
    """What restrains users and programs."""
    return Security(sshd=sshd(system), sudoers=rights(system), firewall=list(_firewalls(system)))


def _firewalls(system: System) -> Iterator[str]:
    """Those that are enabled, and those that are not although they have rules."""
    values = rc_conf(system)
    for name, (switch, rules) in _FIREWALLS[system.guest.type].items():
        value = values.get(switch, "")
        if value is None:
            yield name
        elif is_true(value):
            kind = values.get("firewall_type") if name == "ipfw" else None
            yield f"{name} (enabled{f', {kind}' if kind else ''})"
        elif rules and system.tree.is_file(rules):
            yield f"{name} (disabled)"
