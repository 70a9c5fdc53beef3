"""The event logs System and Application: boots, and the last errors.

Events that mark boots: EventLog 6005 (the log was started), 6006 (stopped, in order), 6008 (the last shutdown was
unexpected), Kernel-General 12 (the system started) and 13 (it shuts down).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.detectors.report.journal import BootRecord, Journal, LogEntry
from guestctl.detectors.windows.evt import OldEventLog
from guestctl.detectors.windows.evtx import Event, EventLog
from guestctl.detectors.windows.system import WindowsSystem

# log -> its file, and that of Windows NT 4 to 2003, below the system root
_LOGS = {
    "System": ("System32/winevt/Logs/System.evtx", "system32/config/SysEvent.Evt"),
    "Application": ("System32/winevt/Logs/Application.evtx", "system32/config/AppEvent.Evt"),
}
_MAX_ERRORS = 100
_MAX_BOOTS = 100
_KERNEL, _EVENT_LOG = "Microsoft-Windows-Kernel-General", "EventLog"
_STARTED = {(_KERNEL, 12), (_EVENT_LOG, 6005)}
_CRITICAL, _ERROR = 1, 2
_PRIORITIES = {_CRITICAL: 2, _ERROR: 3}  # of syslog


def journal(system: WindowsSystem) -> Journal:
    """What the logs say; damage in them is a warning."""
    found = Journal()
    errors: deque[LogEntry] = deque(maxlen=_MAX_ERRORS * len(_LOGS))
    for name, files in _LOGS.items():
        path = next((path for file in files if system.tree.is_file(path := f"{system.root}/{file}")), None)
        if path is None:
            continue
        boots = _Boots()
        kept: deque[LogEntry] = deque(maxlen=_MAX_ERRORS)
        for event in _events(system, path):
            found.entries += 1
            if name == "System":
                boots.add(event)
            if event.level in _PRIORITIES:
                kept.append(_entry(event, path))
        errors += kept
        found.boots += boots.found
    found.errors = sorted(errors, key=lambda one: one.time_ns)[-_MAX_ERRORS:]
    return found


def _events(system: WindowsSystem, path: str) -> Iterator[Event]:
    try:
        log = (OldEventLog if path.endswith(".Evt") else EventLog)(system.tree.device(path))
        yield from log.events()
    except (GuestctlError, OSError) as error:
        system.warnings.append(f"{path}: {error}")
    else:
        if log.errors:
            system.warnings.append(f"{path}: {log.errors[0]}" + (f" (of {len(log.errors)})" if log.errors[1:] else ""))


def _entry(event: Event, path: str) -> LogEntry:
    values = ", ".join(f"{name}={text}" if name else text for name, text in event.data)
    return LogEntry(
        time_ns=event.time_ns,
        priority=_PRIORITIES.get(event.level or 0),
        identifier=event.provider,
        message=f"event {event.event_id}" + (f": {values}" if values else ""),
        source=path,
    )


class _Boots:
    """Boots in the order of their events: each from the event of its start to the last one before the next."""

    def __init__(self) -> None:
        self.found: deque[BootRecord] = deque(maxlen=_MAX_BOOTS)
        self._by_kernel = False  # whether the kernel, and not the log yet, has said that it started

    def add(self, event: Event) -> None:
        mark = (event.provider, event.event_id)
        if mark in _STARTED and not (mark[0] == _EVENT_LOG and self._by_kernel):
            self.found.append(BootRecord(id=str(event.id), first_ns=event.time_ns, last_ns=event.time_ns))
        elif self.found:
            one = self.found[-1]
            self.found[-1] = BootRecord(id=one.id, first_ns=one.first_ns, last_ns=max(one.last_ns, event.time_ns))
        if mark in _STARTED:
            self._by_kernel = mark[0] == _KERNEL
