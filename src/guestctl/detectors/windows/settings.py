"""Where Windows is; host name and time zone, out of the current control set."""

from __future__ import annotations

from guestctl.detectors.report import Guest
from guestctl.detectors.windows.system import WindowsSystem


def detect_system_root(system: WindowsSystem, guest: Guest) -> None:
    """The directory of Windows, and the control set in use."""
    guest.windows_systemroot = system.root
    if system.system("Select") is not None:
        guest.windows_current_control_set = system.control_set


def detect_hostname(system: WindowsSystem, guest: Guest) -> None:
    """The name of the TCP/IP settings."""
    key = system.system(rf"{system.control_set}\Services\Tcpip\Parameters")
    value = key.value("Hostname") if key else None
    guest.hostname = value.text or None if value else None


def detect_timezone(system: WindowsSystem, guest: Guest) -> None:
    """Windows's own name of the zone: that of the key since Vista, else of standard time."""
    key = system.system(rf"{system.control_set}\Control\TimeZoneInformation")
    if key is not None:
        value = key.value("TimeZoneKeyName") or key.value("StandardName")
        guest.timezone = value.text or None if value else None
