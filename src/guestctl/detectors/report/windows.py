"""What is particular to Windows."""

from __future__ import annotations

import msgspec


class BitLockerVolume(msgspec.Struct, frozen=True, kw_only=True):
    """An encrypted device; ``unlocked`` is the device of its content, None without a key."""

    device: str
    uuid: str | None
    unlocked: str | None


class UserProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program that one user installed for themselves."""

    user: str  # the directory of the profile
    name: str
    display_name: str
    version: str = ""
    publisher: str = ""


class Windows(msgspec.Struct, kw_only=True):
    """Release, domain, what a migration must know of, and policies. Unknown is None."""

    build: str | None = None
    update_revision: int | None = None  # UBR: the last part of "10.0.19045.3803"
    display_version: str | None = None  # "22H2"
    install_time: int | None = None  # seconds since 1970
    registered_owner: str | None = None
    registered_organization: str | None = None
    machine_sid: str | None = None
    dns_domain: str | None = None
    joined_domain: str | None = None  # the domain of Active Directory that it is a member of
    bitlocker: list[BitLockerVolume] = []
    hibernation: str | None = None  # what hiberfil.sys holds: "hibernated", "resuming", "woken", "empty"
    fast_startup: bool | None = None  # whether shutting down is to hibernate the kernel
    pending_reboot: list[str] = []  # who waits for one: "component servicing", "Windows Update", "file renames"
    group_policies: list[str] = []  # applied
    software_restriction: str | None = None  # the level of programs without a rule of their own
    applocker: dict[str, str] = {}  # collection of rules -> "enforced", "audited", "not configured"
    user_programs: list[UserProgram] = []
