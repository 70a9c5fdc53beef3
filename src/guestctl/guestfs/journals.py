"""``journal_…``: the systemd journal in a directory, read natively."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestctl.detectors.linux.journal.file import Entry

_SUFFIXES = (".journal", ".journal~")
_DEFAULT_THRESHOLD = 64 << 10
_NOT_OPEN = "you must call 'journal-open' first to initialize the journal handle"


class Journals(Handle):
    """One journal at a time is open, and stands before or on one of its entries."""

    _coming: Iterator[Entry] | None = None
    _entries: list[Entry]  # those that were seen, so that it can go back
    _at: int  # the index of the current entry; -1 before the first
    _threshold: int

    def _end_groups(self) -> None:
        super()._end_groups()
        self._coming = None

    @launched
    def journal_open(self, directory: str) -> None:
        """Open the journal files in a directory; what was open is closed. The place is before the first entry."""
        from guestctl.detectors.linux.journal.entries import entries
        from guestctl.detectors.linux.journal.file import JournalFile

        top = self._path(directory).rstrip("/")
        paths = [f"{top}/{name}" for name in sorted(self._tree.listdir(top or "/")) if name.endswith(_SUFFIXES)]
        files = [JournalFile(self._tree.device(path), path, self._tree.warnings) for path in paths]
        self._coming = entries(files, ()) if files else iter(())
        self._entries, self._at, self._threshold = [], -1, _DEFAULT_THRESHOLD

    @launched
    def journal_close(self) -> None:
        """Close the journal."""
        self._opened_journal()
        self._coming = None

    @launched
    def journal_next(self) -> bool:
        """Go to the next entry. Whether there was one."""
        return self.journal_skip(1) == 1

    @launched
    def journal_skip(self, skip: int) -> int:
        """Go `skip` entries forwards, or backwards where it is negative. Gives how many those were."""
        coming = self._opened_journal()
        if skip < 0:
            moved = min(-skip, max(self._at, 0))
            self._at -= moved
            return moved
        before = self._at
        while self._at - before < skip:
            if self._at + 1 == len(self._entries):
                entry = next(coming, None)
                if entry is None:
                    break
                self._entries.append(entry)
            self._at += 1
        return self._at - before

    @launched
    def journal_get(self) -> list[dict[str, Any]]:
        """The fields of the current entry, in dicts with ``attrname`` and ``attrval``."""
        return [
            {"attrname": name.decode("utf-8", "surrogateescape"), "attrval": value}
            for name, value in self._entry().fields()
        ]

    @launched
    def journal_get_realtime_usec(self) -> int:
        """When the current entry was written: microseconds since 1970."""
        return self._entry().realtime

    @launched
    def journal_get_data_threshold(self) -> int:
        """What `journal_set_data_threshold` set. All fields are whole, whatever it is."""
        self._opened_journal()
        return self._threshold

    @launched
    def journal_set_data_threshold(self, threshold: int) -> None:
        """Set how many bytes of a field, its name included, `journal_get` has to give; 0 for all."""
        self._opened_journal()
        self._threshold = threshold

    def _opened_journal(self) -> Iterator[Entry]:
        if self._coming is None:
            raise GuestFSError(_NOT_OPEN, errno.EINVAL)
        return self._coming

    def _entry(self) -> Entry:
        self._opened_journal()
        if self._at < 0:
            raise GuestFSError("there is no current entry: call journal_next first", errno.EADDRNOTAVAIL)
        return self._entries[self._at]
