"""What restrains a guest's users and programs."""

from __future__ import annotations

import msgspec


class SudoRule(msgspec.Struct, frozen=True, kw_only=True):
    """A user specification of sudoers(5); names of aliases stay as they are."""

    users: list[str]
    hosts: list[str]
    run_as_users: list[str] = []  # none: root
    run_as_groups: list[str] = []
    tags: list[str] = []  # "NOPASSWD", "SETENV"…, and options such as "CWD=/"
    commands: list[str] = []
    source: str = ""

    def __str__(self) -> str:
        groups = f" : {', '.join(self.run_as_groups)}" if self.run_as_groups else ""
        run_as = f"({', '.join(self.run_as_users)}{groups}) " if self.run_as_users or groups else ""
        tags = "".join(f"{tag} " if "=" in tag else f"{tag}: " for tag in self.tags)
        return f"{', '.join(self.hosts)} = {run_as}{tags}{', '.join(self.commands)}"


class Sudoers(msgspec.Struct, kw_only=True):
    """All rules, the aliases that they use, and the lines of Defaults."""

    rules: list[SudoRule] = []
    aliases: dict[str, list[str]] = {}
    defaults: list[str] = []


class Security(msgspec.Struct, kw_only=True):
    """As configuration files have it: what a kernel's command line overrides is not looked at."""

    selinux_mode: str | None = None  # "enforcing", "permissive", "disabled"
    selinux_policy: str | None = None  # "targeted", "mls"…
    apparmor_profiles: list[str] = []
    apparmor_disabled: list[str] = []
    sshd: dict[str, str] | None = None  # settings by their keywords, as sshd -T prints them
    sudoers: Sudoers | None = None
    firewall: list[str] = []  # those that have a configuration: "nftables", "ufw (enabled)", "firewalld (public)"…
