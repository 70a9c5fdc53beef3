"""What all levels say when too much is missing."""

from __future__ import annotations

from collections.abc import Iterable

from guestctl.core.errors import GuestctlError


class TooManyMissing(GuestctlError):
    """More legs are missing than the others can stand for."""

    def __init__(self, level: str, missing: Iterable[int]) -> None:
        super().__init__(f"{level} cannot be read without its members {', '.join(map(str, missing))}")
