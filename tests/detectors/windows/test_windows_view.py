"""The view of what is particular to Windows: hives that hivexregedit makes, and a real one."""

from __future__ import annotations

from collections.abc import Iterator

from detectors.windows.conftest import Load, MakeHive, NoMachine, system_of
from guestctl.detectors.views import view
from guestctl.detectors.windows.windows import windows
from guestctl.disk.filesystem import Identity
from guestctl.machine.machine import FoundFilesystem

# As Windows 10 22H2 in a domain has it.
_SOFTWARE = r"""
[Microsoft\Windows NT\CurrentVersion]
"CurrentBuildNumber"="19045"
"UBR"=dword:00000edb
"DisplayVersion"="22H2"
"InstallDate"=dword:5f000000
"RegisteredOwner"="An Owner"
"RegisteredOrganization"=""
[Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending]
[Microsoft\Windows\CurrentVersion\Group Policy\State\Machine]
"Distinguished-Name"="CN=PC,CN=Computers,DC=example,DC=org"
"Domain"="example.org"
[Microsoft\Windows\CurrentVersion\Group Policy\History\{35378EAC-683F-11D2-A89A-00C04FBBCFA2}\0]
"DisplayName"="Local Group Policy"
[Microsoft\Windows\CurrentVersion\Group Policy\History\{35378EAC-683F-11D2-A89A-00C04FBBCFA2}\1]
"DisplayName"="Default Domain Policy"
[Policies\Microsoft\Windows\Safer\CodeIdentifiers]
"DefaultLevel"=dword:00040000
[Policies\Microsoft\Windows\SrpV2\Exe]
"EnforcementMode"=dword:00000001
[Policies\Microsoft\Windows\SrpV2\Msi]
"EnforcementMode"=dword:00000000
[Policies\Microsoft\Windows\SrpV2\Script]
"""
_SYSTEM = r"""
[ControlSet001\Services\Tcpip\Parameters]
"NV Domain"="example.org"
[ControlSet001\Control\Session Manager\Power]
"HiberbootEnabled"=dword:00000001
"""
_USER = r"""
[Software\Microsoft\Windows\CurrentVersion\Uninstall\Editor]
"DisplayName"="An Editor (User)"
"DisplayVersion"="1.85"
"""


class _Encrypted(NoMachine):
    def found(self) -> Iterator[FoundFilesystem]:  # type: ignore[override]
        yield FoundFilesystem("/dev/sda3", 1, Identity("BitLocker", "crypto", uuid="6fd39767"))
        yield FoundFilesystem("/dev/sda4", 1, Identity("ntfs"))

    def parents(self, device: str) -> tuple[str, ...]:
        return ("/dev/sda3",)


def test_all(make_hive: MakeHive) -> None:
    files = {
        "software": make_hive(_SOFTWARE),
        "system": make_hive(_SYSTEM),
        "/Users/someone/NTUSER.DAT": make_hive(_USER),
        "/Users/broken/NTUSER.DAT": b"regf",
        "/hiberfil.sys": b"hibr" + bytes(4092),
    }
    system = system_of(files, _Encrypted(("/dev/mapper/sda3",)))
    found = view("windows", system)
    assert (found.build, found.update_revision, found.display_version) == ("19045", 3803, "22H2")
    assert (found.install_time, found.registered_owner, found.registered_organization) == (0x5F000000, "An Owner", None)
    assert (found.dns_domain, found.joined_domain) == ("example.org", "example.org")
    assert (found.hibernation, found.fast_startup, found.pending_reboot) == (
        "hibernated",
        True,
        ["component servicing"],
    )
    assert found.group_policies == ["Default Domain Policy", "Local Group Policy"]
    assert found.software_restriction == "unrestricted"
    assert found.applocker == {"Exe": "enforced", "Msi": "audited", "Script": "not configured"}
    assert [(one.device, one.unlocked) for one in found.bitlocker] == [("/dev/sda3", "/dev/mapper/sda3")]
    assert [(one.user, one.name, one.version) for one in found.user_programs] == [("/Users/someone", "Editor", "1.85")]
    assert system.warnings == ["/Users/broken: base block at offset 0x0: no hive: its signature or version is missing"]


def test_real_hives(load: Load) -> None:
    found = windows(system_of({"system": load("SYSTEM_B"), "SAM": load("SAM")}))
    assert found.fast_startup is True
    assert found.machine_sid == "S-1-5-21-1760460187-1592185332-161725925"  # a key's name in the hive
    assert (found.dns_domain, found.joined_domain, found.hibernation, found.build) == (None, None, None, None)
