"""``Turns``: threads that work side by side do one thing in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_ASK_SECONDS = 0.1


class Stopped(Exception):
    """The work was called off while a thread waited for its turn."""


class Turns:
    """Numbered turns, from 0 on: ``with turns.take(n)`` waits until all before `n` were taken.

    One thread, the caller's, waits with `ask`, which may raise.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._is_stopped = False

    def take(self, number: int, ask: Callable[[], None] | None = None) -> Self:
        """Wait for turn `number`; raises `Stopped`."""
        while True:
            with self._changed:
                self.check()
                if self._next == number:
                    return self
                self._changed.wait(_ASK_SECONDS if ask else None)
            if ask:
                ask()

    def check(self) -> None:
        """Raise `Stopped` where the work was called off."""
        if self._is_stopped:
            raise Stopped

    def stop(self) -> None:
        """Nobody gets a turn any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            with self._changed:
                self._next += 1
                self._changed.notify_all()
