"""``WindowsSystem``: a Windows guest, its system root, and the hives that detectors ask."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.registry import Hive, Key, Value
from guestctl.detectors.system import System
from guestctl.machine import Guest, Machine, windows_root


class WindowsSystem(System):
    """Hives are opened when they are asked for."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        super().__init__(machine, guest)
        root = windows_root(guest.tree)
        assert root is not None  # or it would be no Windows
        self.root: str = root
        self._hives: dict[str, Hive | None] = {}

    def hive(self, name: str) -> Hive | None:
        """A hive of the directory config, or None where there is no such file."""
        if name not in self._hives:
            self._hives[name] = self._open(name)
        return self._hives[name]

    def _open(self, name: str) -> Hive | None:
        try:
            hive = Hive.open(self.tree, f"{self.root}/system32/config/{name}")
        except FileNotFoundError:
            return None
        self.warnings += [f"{name}: {warning}" for warning in hive.warnings]
        return hive

    def software(self, path: str) -> Key | None:
        """A key of SOFTWARE."""
        hive = self.hive("software")
        return hive.key(path) if hive else None

    def system(self, path: str) -> Key | None:
        """A key of SYSTEM."""
        hive = self.hive("system")
        return hive.key(path) if hive else None

    def control(self, path: str) -> Key | None:
        """A key of the current control set."""
        return self.system(rf"{self.control_set}\{path}")

    def subkeys(self, key: Key | None) -> Iterator[Key]:
        """The keys below `key`; damage is a warning."""
        errors: list[InvalidFormat] = []
        if key is not None:
            yield from key.subkeys(errors=errors)
        self._warn(key, errors)

    def values(self, key: Key | None) -> dict[str, Value]:
        """The values of `key` by their names in lower case; damage is a warning."""
        errors: list[InvalidFormat] = []
        found = {value.name.casefold(): value for value in key.values(errors=errors)} if key is not None else {}
        self._warn(key, errors)
        return found

    def _warn(self, key: Key | None, errors: list[InvalidFormat]) -> None:
        if key is not None and errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            self.warnings.append(f"{key.name}: {errors[0]}{more}")

    @cached_property
    def control_set(self) -> str:
        """The name of the current control set."""
        select = self.system("Select")
        current = select.value("Current") if select else None
        return f"ControlSet{current.number if current else 1:03}"
