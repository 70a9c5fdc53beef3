"""The text files that syslog daemons write, with those that logrotate and newsyslog put aside.

RFC 3164 times have no year: it is the last one in which the file's own time is not passed. RFC 3339 times are
those of rsyslog's file format and of RFC 5424. A time without a zone is taken for UTC. FreeBSD's syslogd may be told
to put a facility and a priority after the time.
"""

from __future__ import annotations

import heapq
import io
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.linux.reading import names_in
from guestctl.detectors.report.journal import LogEntry
from guestctl.detectors.system import System

_LOGS = ("syslog", "messages", "auth.log", "secure", "authlog", "daemon")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_ROTATED = re.compile(r"[.-](\d{1,8})(\.(?:gz|bz2|xz|zst))?")
_MAX_LOG_BYTES = 64 << 20  # of one file; of a larger one its end is read
_MAX_LINE = 8192
_LINE = re.compile(
    r"(?:<(?P<pri>\d{1,3})>(?:1 )?)?"
    r"(?:(?P<bsd>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)|(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S{0,16})) "
    r"(?:<[\w-]{1,16}\.(?P<level>\w{1,8})> )?"
    r"(?P<host>\S+) (?P<tag>[^\s:\[]+)(?:\[(?P<pid>\d+)\])?:? ?(?P<message>.*)"
)


def syslog(system: System) -> Iterator[LogEntry]:
    """The messages of all logs by their times."""
    names = names_in(system, "/var/log")
    streams = [_messages(system, [f"/var/log/{name}" for name in _in_order(log, names)]) for log in _LOGS]
    return heapq.merge(*streams, key=lambda entry: entry.time_ns)


def _in_order(log: str, names: list[str]) -> list[str]:
    """A log's files from the oldest to the one that is written; a number counts back, a date does not."""
    rotated = []
    for name in names:
        match = _ROTATED.fullmatch(name.removeprefix(log)) if name.startswith(log) else None
        if match:
            number = int(match[1])
            rotated.append((number if len(match[1]) == 8 else -number, name))
    return [name for _, name in sorted(rotated)] + ([log] if log in names else [])


def _messages(system: System, paths: list[str]) -> Iterator[LogEntry]:
    for path in paths:
        try:
            data = _content(system, path)
            written = _date(system.tree.stat(path).st_mtime_ns)
        except (GuestctlError, OSError, zlib.error) as error:
            system.warnings.append(f"{path}: {error}")
            continue
        for line in io.BytesIO(data):
            entry = parse_line(line[:_MAX_LINE].rstrip(b"\n").decode("utf-8", "replace"), written, path)
            if entry is not None:
                yield entry


def parse_line(line: str, written: datetime, source: str) -> LogEntry | None:
    """The message in a line of a file that was last `written` then."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        if match["iso"]:
            when = datetime.fromisoformat(match["iso"])
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
        else:
            when = _with_year(match["bsd"], written)
        time_ns = (when - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError):
        return None
    return LogEntry(
        time_ns=time_ns,
        priority=int(match["pri"]) & 7 if match["pri"] else _PRIORITIES.get(match["level"]),
        identifier=match["tag"],
        message=match["message"],
        source=source,
    )


_PRIORITIES = {
    name: number for number, name in enumerate(("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"))
} | {str(number): number for number in range(8)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _with_year(text: str, written: datetime) -> datetime:
    hour, minute, second = map(int, text[7:].split(":"))
    month, day = _MONTHS.index(text[:3]), int(text[4:6])
    last = written + timedelta(days=1)
    for year in range(written.year, written.year - 5, -1):
        if (month, day) == (2, 29) and (year % 4 or (year % 100 == 0 and year % 400)):
            continue
        when = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if when <= last:
            return when
    raise ValueError(text)


def _date(time_ns: int) -> datetime:
    """A file's time, between the years 1970 and 9998."""
    return _EPOCH + timedelta(seconds=min(max(time_ns // 10**9, 10 * 366 * 86400), 253370764800))


def _content(system: System, path: str) -> bytes:
    device = system.tree.device(path)
    compressed = path.endswith(_COMPRESSED)
    start = max(0, device.size - _MAX_LOG_BYTES) if not compressed else 0
    data = bytes(device.read(start, min(device.size - start, _MAX_LOG_BYTES)))
    return _decompressed(data, path.rpartition(".")[2]) if compressed else data


def _decompressed(data: bytes, suffix: str) -> bytes:
    """What there is of a file that was cut short."""
    if suffix == "gz":
        return zlib.decompressobj(wbits=31).decompress(data, _MAX_LOG_BYTES)
    if suffix == "bz2":
        import bz2

        return bz2.BZ2Decompressor().decompress(data, _MAX_LOG_BYTES)
    if suffix == "xz":
        import lzma

        try:
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_LOG_BYTES * 2)
            return stream.decompress(data, _MAX_LOG_BYTES)
        except lzma.LZMAError as error:
            raise InvalidFormat(str(error), structure="xz stream", offset=0) from error
    import zstandard

    try:
        return zstandard.ZstdDecompressor(max_window_size=_MAX_LOG_BYTES).stream_reader(data).read(_MAX_LOG_BYTES)
    except zstandard.ZstdError as error:
        raise InvalidFormat(str(error), structure="zstd stream", offset=0) from error
