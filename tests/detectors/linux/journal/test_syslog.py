"""Lines of rsyslog (both of its file formats), of busybox, and of RFC 5424; years from a file's own time."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

from guestctl.detectors.linux.journal import journal
from guestctl.detectors.linux.journal.syslog import parse_line, syslog
from host_system import system_of
from tree_filesystem import TreeFileSystem, directory, file

_JANUARY = datetime(2024, 1, 2, tzinfo=UTC)


def _time(line: str) -> str:
    entry = parse_line(line, _JANUARY, "")
    assert entry is not None
    return datetime.fromtimestamp(entry.time_ns / 1e9, UTC).isoformat()


def test_times() -> None:
    assert (
        _time("Dec 31 23:59:59 debian sshd[712]: Server listening on 0.0.0.0 port 22.") == "2023-12-31T23:59:59+00:00"
    )
    assert _time("Jan  2 10:00:00 debian cron[1]: x") == "2024-01-02T10:00:00+00:00"
    assert _time("Feb 29 10:00:00 debian cron[1]: x") == "2020-02-29T10:00:00+00:00"
    assert _time("2024-01-01T10:00:00.250000+02:00 debian kernel: x") == "2024-01-01T08:00:00.250000+00:00"
    for line in ("", "nonsense", "Foo 31 23:59:59 h t: x", "Feb 31 23:59:59 h t: x", "2024-13-01T10:00:00Z h t: x"):
        assert parse_line(line, _JANUARY, "") is None


def test_logs() -> None:
    january = int(_JANUARY.timestamp()) * 10**9
    old = gzip.compress(b"Dec 30 01:00:00 h a: first\n")
    logs = [
        (
            "syslog",
            file(b"Jan  1 00:00:01 h b[2]: fourth\n<11>Jan  1 00:00:02 h c: last\n\xff\xfe\n", mtime_ns=january),
        ),
        ("syslog.1", file(b"Dec 31 01:00:00 h b[2]: second\n", mtime_ns=january)),
        ("syslog.2.gz", file(old, mtime_ns=january)),
        ("auth.log", file(b"Dec 31 02:00:00 h sshd[9]: third\n", mtime_ns=january)),
        ("auth.log.1.gz", file(old[:-12], mtime_ns=january)),
        ("messages-20231201.gz", file(b"no gzip", mtime_ns=january)),
    ]
    system = system_of(TreeFileSystem(directory(("var", directory(("log", directory(*logs)))))))
    found = list(syslog(system))
    messages = [entry.message for entry in found if not "first".startswith(entry.message)]
    assert messages == ["second", "third", "fourth", "last"]
    assert found[-1].priority == 3 and found[-1].identifier == "c"
    assert len(system.warnings) == 1 and "messages-20231201.gz" in system.warnings[0]
    record = journal(system)
    assert [entry.message for entry in record.errors] == ["last"]
    assert record.entries == len(found)
