"""The systemd journal, read natively, and the files of syslog where there is none.

Specifications: "Journal File Format" and "Journal Export Formats" of systemd. Read: compressed (xz, lz4, zstd),
keyed-hash and compact files, online, archived (``@``) and damaged (``~``) ones, of every machine id in
/var/log/journal and /run/log/journal. A file with other incompatible flags is refused, and named in a warning.
"""

from __future__ import annotations

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.journal.file import Entry, JournalFile
from guestctl.detectors.report.journal import Journal, LogEntry
from guestctl.detectors.system import System

_DIRECTORIES = ("/var/log/journal", "/run/log/journal")
_SUFFIXES = (".journal", ".journal~")
_MAX_FILES = 4096
_ERROR = 3  # syslog's priority
_SHOWN_BOOTS = 10
_SHOWN_ERRORS = 20


def open_files(system: System) -> list[JournalFile]:
    """Every journal file of the guest; one that cannot be read is a warning."""
    from guestctl.detectors.linux.reading import names_in

    paths: list[str] = []
    for top in _DIRECTORIES:
        folders = [top, *(f"{top}/{name}" for name in names_in(system, top) if system.tree.is_dir(f"{top}/{name}"))]
        for folder in folders:
            paths += [f"{folder}/{name}" for name in names_in(system, folder) if name.endswith(_SUFFIXES)]
    if len(paths) > _MAX_FILES:
        system.warnings.append(f"journal: more than {_MAX_FILES} files")
    files = []
    for path in paths[:_MAX_FILES]:
        try:
            files.append(JournalFile(system.tree.device(path), path, system.warnings))
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{path}: {error}")
    return files


def journal(system: System) -> Journal:
    """The last boots and the last errors."""
    from itertools import islice

    from guestctl.detectors.linux.journal.entries import boots, entries, priority_condition

    files = open_files(system)
    if not files:
        from guestctl.detectors.linux.journal.syslog import syslog

        found = Journal()
        for message in syslog(system):
            found.entries += 1
            if message.priority is not None and message.priority <= _ERROR:
                found.errors = [*found.errors, message][-_SHOWN_ERRORS:]
        return found
    last = list(islice(entries(files, [priority_condition(_ERROR)], reverse=True), _SHOWN_ERRORS))
    return Journal(
        boots=boots(files)[-_SHOWN_BOOTS:],
        errors=[log_entry(entry) for entry in reversed(last)],
        entries=sum(len(file.offsets()) for file in files),
    )


def log_entry(entry: Entry) -> LogEntry:
    """An entry in the few words of the report."""
    fields = dict(reversed(entry.fields()))

    def text(*names: bytes) -> str:
        return next((fields[name].decode("utf-8", "replace") for name in names if name in fields), "")

    priority = text(b"PRIORITY")
    return LogEntry(
        time_ns=entry.realtime * 1000,
        priority=int(priority) if priority in set("01234567") else None,
        identifier=text(b"SYSLOG_IDENTIFIER", b"_COMM"),
        message=text(b"MESSAGE"),
        unit=text(b"UNIT", b"_SYSTEMD_UNIT"),
        source=entry.file.path,
    )
