"""Event callbacks of a handle."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

EVENT_CLOSE = 0x0001
EVENT_SUBPROCESS_QUIT = 0x0002
EVENT_LAUNCH_DONE = 0x0004
EVENT_PROGRESS = 0x0008
EVENT_APPLIANCE = 0x0010
EVENT_LIBRARY = 0x0020
EVENT_TRACE = 0x0040
EVENT_ENTER = 0x0080
EVENT_LIBVIRT_AUTH = 0x0100
EVENT_WARNING = 0x0200
EVENT_ALL = 0x03FF

# What is written to standard error where nobody asked for it.
_PRINTED = {EVENT_TRACE: "libguestfs: trace: ", EVENT_WARNING: "libguestfs: warning: "}

# (event, handle of the callback, text, numbers)
Callback = Callable[[int, int, str, Sequence[int]], object]


class Events:
    """The callbacks that were set, each with its own handle."""

    def __init__(self) -> None:
        self._callbacks: dict[int, tuple[Callback, int]] = {}
        self._next = 0

    def add(self, callback: Callback, events: int) -> int:
        number = self._next
        self._next += 1
        self._callbacks[number] = callback, events
        return number

    def remove(self, handle: int) -> None:
        self._callbacks.pop(handle, None)

    def send(self, event: int, text: str = "", numbers: Sequence[int] = ()) -> None:
        heard = [(number, callback) for number, (callback, events) in self._callbacks.items() if events & event]
        for number, callback in heard:
            try:
                callback(event, number, text, list(numbers))
            except Exception:  # noqa: BLE001  the program's own code: libguestfs's binding prints what it raises, too
                traceback.print_exc()
        if not heard and event in _PRINTED:
            print(_PRINTED[event] + text, file=sys.stderr)
