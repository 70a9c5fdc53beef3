"""Windows guests, from NT 4 on, out of their registry. Each detector takes the system and fills in what it knows."""

from __future__ import annotations

from collections.abc import Callable

from guestctl.detectors.report import Guest
from guestctl.detectors.windows.drives import detect_drives
from guestctl.detectors.windows.programs import detect_applications
from guestctl.detectors.windows.release import detect_architecture, detect_release
from guestctl.detectors.windows.settings import detect_hostname, detect_system_root, detect_timezone
from guestctl.detectors.windows.system import WindowsSystem

DETECTORS: dict[str, Callable[[WindowsSystem, Guest], None]] = {
    "system root": detect_system_root,
    "release": detect_release,
    "architecture": detect_architecture,
    "hostname": detect_hostname,
    "timezone": detect_timezone,
    "drives": detect_drives,
}

__all__ = ["DETECTORS", "WindowsSystem", "detect_applications"]
