"""SELinux, AppArmor, sudo, the ssh server's settings and the firewall, by their configuration files."""

from __future__ import annotations

from guestctl.detectors.files import assignments
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.linux.ssh import sshd_settings
from guestctl.detectors.linux.sudoers import sudoers
from guestctl.detectors.report.security import Security
from guestctl.detectors.system import System

_APPARMOR = "/etc/apparmor.d"
# (firewall, a file with its rules)
_RULES = (
    ("nftables", "/etc/nftables.conf"),
    ("nftables", "/etc/sysconfig/nftables.conf"),
    ("iptables", "/etc/iptables/rules.v4"),
    ("iptables", "/etc/sysconfig/iptables"),
)


def security(system: System) -> Security:
    """What restrains users and programs."""
    selinux = dict(assignments(text_of(system, "/etc/selinux/config")))
    mode = selinux.get("SELINUX", "").lower()
    disabled = names_in(system, f"{_APPARMOR}/disable")
    return Security(
        selinux_mode=mode if mode in ("enforcing", "permissive", "disabled") else None,
        selinux_policy=selinux.get("SELINUXTYPE") or None,
        apparmor_profiles=[name for name in _profiles(system) if name not in disabled],
        apparmor_disabled=disabled,
        sshd=sshd_settings(system),
        sudoers=sudoers(system),
        firewall=_firewalls(system),
    )


def _profiles(system: System) -> list[str]:
    return [
        name
        for name in names_in(system, _APPARMOR)
        if not name.startswith(".") and system.tree.is_file(f"{_APPARMOR}/{name}")
    ]


def _firewalls(system: System) -> list[str]:
    found = list(dict.fromkeys(name for name, path in _RULES if system.tree.is_file(path)))
    ufw = dict(assignments(text_of(system, "/etc/ufw/ufw.conf"))).get("ENABLED")
    if ufw:
        found.append(f"ufw ({'enabled' if ufw.lower() == 'yes' else 'disabled'})")
    zone = dict(assignments(text_of(system, "/etc/firewalld/firewalld.conf"))).get("DefaultZone")
    if zone:
        found.append(f"firewalld ({zone})")
    return found
