"""Entries as ``journalctl -o short``, ``json`` and ``export`` print them; times are UTC.

"Journal Export Formats" (systemd.io/JOURNAL_EXPORT_FORMATS) for the last two.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from guestctl.detectors.linux.journal.file import Entry, Field

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LENGTH = struct.Struct("<Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROSECOND = 253402300799 * 10**6  # of the year 9999


def _text(value: bytes) -> str | None:
    """`value` where it is text that a terminal may show."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def cursor(entry: Entry) -> str:
    """What ``journalctl --cursor`` takes."""
    return (
        f"s={entry.file.seqnum_id.hex()};i={entry.seqnum:x};b={entry.boot_id.hex()};"
        f"m={entry.monotonic:x};t={entry.realtime:x};x={entry.xor_hash:x}"
    )


def _addressed(entry: Entry) -> list[Field]:
    """The address fields and then those of the entry."""
    return [
        (b"__CURSOR", cursor(entry).encode()),
        (b"__REALTIME_TIMESTAMP", b"%d" % entry.realtime),
        (b"__MONOTONIC_TIMESTAMP", b"%d" % entry.monotonic),
        (b"_BOOT_ID", entry.boot_id.hex().encode()),
        *(field for field in entry.fields() if field[0] != b"_BOOT_ID"),
    ]


def export(entry: Entry) -> bytes:
    parts = []
    for name, value in _addressed(entry):
        if b"\n" in value or _text(value) is None:
            parts += [name, b"\n", _LENGTH.pack(len(value)), value, b"\n"]
        else:
            parts += [name, b"=", value, b"\n"]
    return b"".join([*parts, b"\n"])


def as_json(entry: Entry) -> str:
    """One line; a value that is no text is a list of its bytes, a field that is there twice a list."""
    found: dict[str, list[str | list[int]]] = {}
    for name, value in _addressed(entry):
        text = _text(value)
        found.setdefault(name.decode("utf-8", "replace"), []).append(list(value) if text is None else text)
    return json.dumps({name: values[0] if len(values) == 1 else values for name, values in found.items()})


def short(realtime: int, fields: Mapping[bytes, bytes]) -> str | None:
    """The line of an entry, those after the first indented; None where it has no message."""
    message = fields.get(b"MESSAGE")
    if message is None:
        return None
    name = fields.get(b"SYSLOG_IDENTIFIER") or fields.get(b"_COMM") or b"unknown"
    pid = fields.get(b"_PID") or fields.get(b"SYSLOG_PID")
    when = _EPOCH + timedelta(microseconds=min(realtime, _LAST_MICROSECOND))
    words = [_text(word) for word in (fields.get(b"_HOSTNAME", b""), name, pid or b"")]
    host, identifier, number = (word or "" for word in words)
    prefix = f"{when:%b %d %H:%M:%S} {host + ' ' if host else ''}{identifier}{f'[{number}]' if number else ''}: "
    text = _text(message)
    if text is None:
        text = f"[{size_text(len(message))} blob data]"
    return prefix + ("\n" + " " * len(prefix)).join(text.rstrip().replace("\t", " " * 8).split("\n"))


def source_time(realtime: int, fields: Mapping[bytes, bytes]) -> int:
    """When the message was sent, where its sender says so; else when it came, in microseconds."""
    sent = fields.get(b"_SOURCE_REALTIME_TIMESTAMP", b"")
    return int(sent) if sent.isdigit() and len(sent) < 19 else realtime


def size_text(size: int) -> str:
    """As systemd prints sizes: ``137B``, ``1.2K``."""
    unit = next((number for number in (4, 3, 2, 1) if size >= 1024**number), 0)
    if not unit:
        return f"{size}B"
    tenths = size * 10 // 1024**unit
    return f"{tenths // 10}.{tenths % 10}{' KMGT'[unit]}"


def short_lines(found: Iterable[Entry]) -> Iterator[str]:
    """With a line between boots, as journalctl has it."""
    boot: bytes | None = None
    for entry in found:
        # The first of a name is the one that counts.
        fields = dict(reversed(entry.fields()))
        line = short(source_time(entry.realtime, fields), fields)
        if line is not None:
            if boot not in (None, entry.boot_id):
                yield f"-- Boot {entry.boot_id.hex()} --"
            boot = entry.boot_id
            yield line
