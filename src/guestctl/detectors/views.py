"""Views: one question about a guest each, answered by a room of its family (``linux/``, ``windows/``).

A room is imported, and a view computed, when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from guestctl.core.errors import UnsupportedFeature
from guestctl.core.types import GuestType
from guestctl.detectors.system import System

_BSD = (GuestType.FREEBSD, GuestType.NETBSD, GuestType.OPENBSD, GuestType.DRAGONFLY)
# view -> family -> the room in its folder, or with a dot in this one; the room has a function called as the view
_ROOMS: dict[str, dict[GuestType, str]] = {
    "boot": {GuestType.LINUX: "boot", GuestType.WINDOWS: "boot"} | dict.fromkeys(_BSD, ".bsd.boot"),
    "kernels": {GuestType.LINUX: "modules"} | dict.fromkeys(_BSD, ".bsd.kernels"),
    "storage": {GuestType.LINUX: "storage"},
    "network": {GuestType.LINUX: "network", GuestType.WINDOWS: "network"} | dict.fromkeys(_BSD, ".bsd.network"),
    "services": {GuestType.LINUX: "services", GuestType.WINDOWS: "services"} | dict.fromkeys(_BSD, ".bsd.services"),
    "users": {GuestType.LINUX: "users", GuestType.WINDOWS: "users"} | dict.fromkeys(_BSD, ".bsd.users"),
    "packages": {family: ".packages" for family in GuestType if family is not GuestType.WINDOWS},
    "journal": {GuestType.LINUX: "journal", GuestType.WINDOWS: "journal"} | dict.fromkeys(_BSD, ".linux.journal"),
    "windows": {GuestType.WINDOWS: "windows"},
    "security": {GuestType.LINUX: "security"} | dict.fromkeys(_BSD, ".bsd.security"),
    "containers": {GuestType.LINUX: "containers"},
    "cloud_init": {GuestType.LINUX: "cloud_init"},
}
VIEWS = tuple(_ROOMS)


def view(name: str, system: System) -> Any:
    """The view called `name` of a guest. Raises `UnsupportedFeature` where its family has no such view."""
    family = system.guest.type
    room = _ROOMS[name].get(family)
    if room is None:
        raise UnsupportedFeature(f"no view of {name} for {family}", feature=f"{name} of {family}")
    module = importlib.import_module(f".{room}", f"guestctl.detectors.{family.value}")
    return getattr(module, name)(system)
