"""``WindowsSystem``: a Windows guest, its system root, and the hives that detectors ask."""

from __future__ import annotations

from functools import cached_property

from guestctl.detectors.registry import Hive, Key
from guestctl.detectors.system import System
from guestctl.machine import Guest, Machine, windows_root


class WindowsSystem(System):
    """Hives are opened when they are asked for."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        super().__init__(machine, guest)
        root = windows_root(guest.tree)
        assert root is not None  # or it would be no Windows
        self.root: str = root

    def _hive(self, name: str) -> Hive | None:
        try:
            hive = Hive.open(self.tree, f"{self.root}/system32/config/{name}")
        except FileNotFoundError:
            return None
        self.warnings += [f"{name}: {warning}" for warning in hive.warnings]
        return hive

    @cached_property
    def _software(self) -> Hive | None:
        return self._hive("software")

    @cached_property
    def _system(self) -> Hive | None:
        return self._hive("system")

    def software(self, path: str) -> Key | None:
        """A key of SOFTWARE."""
        return self._software.key(path) if self._software else None

    def system(self, path: str) -> Key | None:
        """A key of SYSTEM."""
        return self._system.key(path) if self._system else None

    @cached_property
    def control_set(self) -> str:
        """The name of the current control set."""
        select = self.system("Select")
        current = select.value("Current") if select else None
        return f"ControlSet{current.number if current else 1:03}"
