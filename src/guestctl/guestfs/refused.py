"""The calls of libguestfs that are refused, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from guestctl.guestfs.calls import call

WRITES = "changes a disk"

_REASONS: dict[str, str] = {
    WRITES: "",
}

REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def refusal(name: str, reason: str) -> Callable[..., Any]:
    """A method that only says that, and why, there is no such call."""

    def refuse(self: Any, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"{name}: not supported: it {reason}")

    refuse.__name__ = name
    refuse.__doc__ = f"Refused with ``NotImplementedError``: it {reason}."
    return call(refuse)
