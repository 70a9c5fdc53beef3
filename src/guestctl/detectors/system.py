"""``System``: one guest and the machine that it is on, as its detectors see them."""

from __future__ import annotations

from guestctl.core.types import GuestType
from guestctl.detectors.files import Tree
from guestctl.machine import Guest, Machine


class System:
    """A guest. What a detector could not read, but need not fail for, it adds to ``warnings``."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        self.machine = machine
        self.guest = guest
        self.warnings: list[str] = []

    @property
    def tree(self) -> Tree:
        return self.guest.tree


def open_system(machine: Machine, guest: Guest) -> System:
    """`guest` of `machine`: a `WindowsSystem` where it is one."""
    if guest.type is GuestType.WINDOWS:
        from guestctl.detectors.windows import WindowsSystem

        return WindowsSystem(machine, guest)
    return System(machine, guest)
