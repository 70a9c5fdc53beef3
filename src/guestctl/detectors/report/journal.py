"""What a guest logged."""

from __future__ import annotations

import msgspec


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One message; ``priority`` is syslog's, 0 (emergency) to 7 (debug)."""

    time_ns: int  # since 1970
    priority: int | None
    identifier: str  # the program or the provider of events
    message: str
    unit: str = ""
    source: str = ""


class BootRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A boot in the log: its id, first and last message."""

    id: str
    first_ns: int
    last_ns: int


class Journal(msgspec.Struct, kw_only=True):
    """The last boots and the last errors."""

    boots: list[BootRecord] = []
    errors: list[LogEntry] = []
    entries: int = 0  # in all logs
