"""What is particular to Windows: its exact build, domain, encryption, hibernation, restarts that wait, policies.

Specification: Microsoft's documentation of Group Policy ("History"), of software restriction policies and of
AppLocker ("SrpV2"). The state of hiberfil.sys is its signature, as the boot manager reads and writes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import list_directory
from guestctl.detectors.registry import Hive, Value
from guestctl.detectors.report.windows import BitLockerVolume, UserProgram, Windows
from guestctl.detectors.windows.programs import programs_of
from guestctl.detectors.windows.system import WindowsSystem
from guestctl.detectors.windows.users import machine_sid

_CURRENT_VERSION = r"Microsoft\Windows NT\CurrentVersion"
_TCPIP = r"Services\Tcpip\Parameters"
_HISTORY = r"Microsoft\Windows\CurrentVersion\Group Policy\History"
_SAFER = r"Policies\Microsoft\Windows\Safer\CodeIdentifiers"
_APPLOCKER = r"Policies\Microsoft\Windows\SrpV2"
_REBOOTS = {
    "component servicing": r"Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
    "Windows Update": r"Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
}
_HIBERNATION = {b"HIBR": "hibernated", b"RSTR": "resuming", b"WAKE": "woken", bytes(4): "empty"}
_LEVELS = {0: "disallowed", 0x1000: "untrusted", 0x10000: "constrained", 0x20000: "basic user", 0x40000: "unrestricted"}
_ENFORCEMENT = {0: "audited", 1: "enforced"}
_MAX_PROFILES = 1000


def windows(system: WindowsSystem) -> Windows:
    """Facts from both hives, from hiberfil.sys, and from what the machine's devices hold."""
    release = system.values(system.software(_CURRENT_VERSION))
    tcpip = system.values(system.control(_TCPIP))
    power = system.values(system.control(r"Control\Session Manager\Power")).get("hiberbootenabled")
    level = system.values(system.software(_SAFER)).get("defaultlevel")
    return Windows(
        build=_text(release, "currentbuildnumber") or _text(release, "currentbuild"),
        update_revision=_number(release, "ubr"),
        display_version=_text(release, "displayversion") or _text(release, "releaseid"),
        install_time=_number(release, "installdate"),
        registered_owner=_text(release, "registeredowner"),
        registered_organization=_text(release, "registeredorganization"),
        machine_sid=_machine_sid(system),
        dns_domain=_text(tcpip, "domain") or _text(tcpip, "nv domain"),
        joined_domain=_joined_domain(system),
        bitlocker=list(_bitlocker(system)),
        hibernation=_hibernation(system),
        fast_startup=bool(power.number) if power is not None else None,
        pending_reboot=list(_pending_reboot(system)),
        group_policies=_group_policies(system),
        software_restriction=_LEVELS.get(level.number, f"level {level.number:#x}") if level is not None else None,
        applocker=dict(_applocker(system)),
        user_programs=list(_user_programs(system)),
    )


def _text(values: dict[str, Value], name: str) -> str | None:
    return values[name].text or None if name in values else None


def _number(values: dict[str, Value], name: str) -> int | None:
    return values[name].number if name in values else None


def _machine_sid(system: WindowsSystem) -> str | None:
    try:
        return machine_sid(system)
    except GuestctlError as error:
        system.warnings.append(f"SAM: {error}")
        return None


def _joined_domain(system: WindowsSystem) -> str | None:
    """What group policy was last applied for: the machine's domain, as long as it is a member of one."""
    state = system.values(system.software(r"Microsoft\Windows\CurrentVersion\Group Policy\State\Machine"))
    return _text(state, "domain") if "distinguished-name" in state else None


def _bitlocker(system: WindowsSystem) -> Iterator[BitLockerVolume]:
    opened = {parent: name for name in system.machine.devices for parent in system.machine.parents(name)}
    for device, _, identity in system.machine.found():
        if identity is not None and identity.type == "BitLocker":
            yield BitLockerVolume(device=device, uuid=identity.uuid, unlocked=opened.get(device))


def _hibernation(system: WindowsSystem) -> str | None:
    if not system.tree.is_file("/hiberfil.sys"):
        return None
    file = system.tree.device("/hiberfil.sys")
    return _HIBERNATION.get(bytes(file.read(0, min(4, file.size))).upper())


def _pending_reboot(system: WindowsSystem) -> Iterator[str]:
    yield from (name for name, path in _REBOOTS.items() if system.software(path) is not None)
    renames = system.values(system.control(r"Control\Session Manager")).get("pendingfilerenameoperations")
    if renames is not None and renames.data.strip(b"\0"):
        yield "file renames"


def _group_policies(system: WindowsSystem) -> list[str]:
    """The names of the group policy objects that each extension last applied."""
    objects = (one for extension in system.subkeys(system.software(_HISTORY)) for one in system.subkeys(extension))
    names = (_text(system.values(one), "displayname") for one in objects)
    return sorted({name for name in names if name})


def _applocker(system: WindowsSystem) -> Iterator[tuple[str, str]]:
    for collection in system.subkeys(system.software(_APPLOCKER)):
        mode = system.values(collection).get("enforcementmode")
        yield collection.name, _ENFORCEMENT.get(mode.number, "unknown") if mode is not None else "not configured"


def _user_programs(system: WindowsSystem) -> Iterator[UserProgram]:
    """What stands to be uninstalled in the hives of users. One that cannot be read is a warning."""
    for directory in ("/Users", "/Documents and Settings"):
        for user in list_directory(system.tree, directory)[:_MAX_PROFILES]:
            profile = f"{directory}/{user}"
            try:
                if not system.tree.is_symlink(profile) and system.tree.is_file(f"{profile}/NTUSER.DAT"):
                    hive = Hive.open(system.tree, f"{profile}/NTUSER.DAT")
                    system.warnings += [f"{profile}: {warning}" for warning in hive.warnings]
                    yield from _of_user(hive, profile)
            except (GuestctlError, OSError) as error:
                system.warnings.append(f"{profile}: {error}")


def _of_user(hive: Hive, profile: str) -> Iterator[UserProgram]:
    for one in programs_of(hive.key(r"Software\Microsoft\Windows\CurrentVersion\Uninstall")):
        yield UserProgram(
            user=profile,
            name=one.name,
            display_name=one.display_name,
            version=one.version,
            publisher=one.publisher,
        )
