"""Entries of several journal files in journalctl's order, filtered as journalctl does."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator, Sequence

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.linux.journal.file import Entry, JournalFile
from guestctl.detectors.report.journal import BootRecord

# A condition: any of the groups, of which each asks for one of the values in every one of its fields.
Condition = Sequence[tuple[tuple[bytes, frozenset[bytes]], ...]]


def unit_condition(unit: str) -> Condition:
    """What ``journalctl -u`` looks for: messages of the unit, its core dumps, and the manager's about it."""
    name = frozenset([unit.encode("utf-8", "surrogateescape")])
    root = (b"_UID", frozenset([b"0"]))
    coredump = (b"MESSAGE_ID", frozenset([b"fc2e22bc6ee647b6b90729ab34a250b1"]))
    groups = [
        ((b"_SYSTEMD_UNIT", name),),
        (coredump, root, (b"COREDUMP_UNIT", name)),
        ((b"_PID", frozenset([b"1"])), (b"UNIT", name)),
        (root, (b"OBJECT_SYSTEMD_UNIT", name)),
    ]
    if unit.endswith(".slice"):
        groups.append(((b"_SYSTEMD_SLICE", name),))
    return groups


def priority_condition(priority: int) -> Condition:
    """Messages of `priority` and of more urgent ones."""
    return [((b"PRIORITY", frozenset(b"%d" % value for value in range(priority + 1))),)]


def boot_condition(boot_id: str) -> Condition:
    return [((b"_BOOT_ID", frozenset([boot_id.encode()])),)]


def entries(files: Sequence[JournalFile], conditions: Sequence[Condition], *, reverse: bool = False) -> Iterator[Entry]:
    """The entries that meet all conditions; one that stands in two files comes once."""
    streams = [_entries_of(file, conditions, reverse) for file in files]
    merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_SORT_KEY, reverse=reverse)
    before: Entry | None = None
    for entry in merged:
        if before is None or not _same(before, entry):
            yield entry
        before = entry


def boots(files: Sequence[JournalFile]) -> list[BootRecord]:
    """The boots that left a message, the oldest first."""
    times: dict[bytes, tuple[int, int]] = {}
    for file in files:
        try:
            for _, boot_id, *where in file.values(b"_BOOT_ID"):
                offsets = file.entries_of(*where)
                if offsets:
                    ends = [file.entry(offset).realtime for offset in (offsets[0], offsets[-1])]
                    first, last = times.get(boot_id, ends)
                    times[boot_id] = min(first, ends[0]), max(last, ends[1])
        except InvalidFormat as error:
            file.damaged(error)
    return [
        BootRecord(id=boot_id.decode("ascii", "replace"), first_ns=first * 1000, last_ns=last * 1000)
        for boot_id, (first, last) in sorted(times.items(), key=lambda item: item[1])
    ]


def _entries_of(file: JournalFile, conditions: Sequence[Condition], reverse: bool) -> Iterator[Entry]:
    try:
        offsets: Sequence[int] = _offsets(file, conditions) if conditions else file.offsets()
    except GuestctlError as error:
        return file.damaged(error)
    for offset in reversed(offsets) if reverse else offsets:
        try:
            yield file.entry(offset)
        except InvalidFormat as error:
            file.damaged(error)


def _offsets(file: JournalFile, conditions: Sequence[Condition]) -> list[int]:
    """Entries are written one after the other: sorted offsets are in order."""
    found: set[int] | None = None
    for condition in conditions:
        met: set[int] = set()
        for group in condition:
            matches = [set(file.matching(name, values)) for name, values in group]
            met |= set.intersection(*matches)
        found = met if found is None else found & met
    return sorted(found or ())


def _compare(one: Entry, other: Entry) -> int:
    """By sequence numbers where both have one source, by the clock of the boot, else by the time of the day."""
    if one.file.seqnum_id == other.file.seqnum_id and one.seqnum != other.seqnum:
        return one.seqnum - other.seqnum
    if one.boot_id == other.boot_id and one.monotonic != other.monotonic:
        return one.monotonic - other.monotonic
    return one.realtime - other.realtime or one.xor_hash - other.xor_hash


_SORT_KEY = functools.cmp_to_key(_compare)


def _same(one: Entry, other: Entry) -> bool:
    return (one.boot_id, one.monotonic, one.realtime, one.xor_hash) == (
        other.boot_id,
        other.monotonic,
        other.realtime,
        other.xor_hash,
    ) and (one.file.seqnum_id != other.file.seqnum_id or one.seqnum == other.seqnum)
