"""Event logs made from the specification; what is expected is what evtx_dump (of the Rust crate evtx 0.14) reads."""

from __future__ import annotations

import os
import random
import re
import struct
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import pytest

from conftest import Run
from detectors.windows.conftest import system_of
from detectors.windows.evtx_files import Record, make_log, make_old_log
from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.views import view
from guestctl.detectors.windows.binxml import value_text
from guestctl.detectors.windows.evt import OldEventLog
from guestctl.detectors.windows.evtx import Event, EventLog
from guestctl.detectors.windows.journal import journal

_KERNEL = "Microsoft-Windows-Kernel-General"
_START = 1_700_000_000  # 2023-11-14 22:13:20
_RECORDS = (
    Record(1, _START, _KERNEL, 12, 4, [("MajorVersion", "10"), ("BuildVersion", "19045")]),
    Record(2, _START + 1, "EventLog", 6005, 4),
    Record(3, _START + 60, "Service Control Manager", 7000, 2, ["Spooler", "Ünï €"]),
)
_LAST = Record(4, _START + 100, "EventLog", 6006, 4)
# As evtx_dump has it: EventRecordID, SystemTime, Provider, EventID, Level, Computer, EventData
_DUMPED = [
    Event(1, 1700000000 * 10**9, _KERNEL, 12, 4, "WIN-GUEST", [("MajorVersion", "10"), ("BuildVersion", "19045")]),
    Event(2, 1700000001 * 10**9, "EventLog", 6005, 4, "WIN-GUEST", []),
    Event(3, 1700000060 * 10**9, "Service Control Manager", 7000, 2, "WIN-GUEST", [("", "Spooler"), ("", "Ünï €")]),
    Event(4, 1700000100 * 10**9, "EventLog", 6006, 4, "WIN-GUEST", []),
]
_LOGS = "/Windows/System32/winevt/Logs"


def _read(log: bytes | bytearray) -> tuple[list[Event], list[GuestctlError]]:
    opened = EventLog(MemoryDevice(log))
    return list(opened.events()), opened.errors


def test_as_evtx_dump_reads() -> None:
    assert _read(make_log(_RECORDS, [_LAST])) == (_DUMPED, [])


_Exported = tuple[str, str, str, int, list[str]]  # time, computer, provider, event, strings


def _exported(run: Run, tool: str, log: bytes, path: Path) -> list[_Exported]:
    """What libevt's or libevtx's tool says of each event."""
    path.write_bytes(log)
    found = []
    for block in run(tool, path).split("\n\n")[1:]:
        facts = dict(re.findall(r"^([A-Z][a-z ]+?)\t+: (.*)$", block, re.MULTILINE))
        if facts:
            number = int(re.findall(r"\((\d+)\)", facts["Event identifier"])[0]) & 0xFFFF  # without the severity
            moment = re.split(r"\.| UTC", facts["Written time"])[0]
            strings = re.findall(r"^String: \d+\t+: (.*)$", block, re.MULTILINE)
            found.append((moment, facts["Computer name"], facts["Source name"], number, strings))
    return found


def _as_exported(events: Iterable[Event]) -> list[_Exported]:
    moments = [datetime.fromtimestamp(one.time_ns / 10**9, UTC) for one in events]
    return [
        (f"{moment:%b %d, %Y %H:%M:%S}", one.computer, one.provider, one.event_id or 0, [text for _, text in one.data])
        for moment, one in zip(moments, events, strict=True)
    ]


def test_as_evtxexport_says(run: Run, tmp_path: Path) -> None:
    log = make_log(_RECORDS, [_LAST])
    assert _exported(run, "evtxexport", log, tmp_path / "a.evtx") == _as_exported(_read(log)[0])


def test_a_full_log_goes_on_at_its_beginning() -> None:
    log = make_log(_RECORDS, [_LAST])
    assert _read(log[:4096] + log[4096 + 65536 :] + log[4096 : 4096 + 65536]) == (_DUMPED, [])
    # Of a log that is not full yet, the rest of the file is zeros.
    assert _read(make_log(_RECORDS, [_LAST], dirty=True) + bytes(65536)) == (_DUMPED, [])


@pytest.mark.parametrize("place", [200, 520, 1000])
def test_damaged_chunk(place: int) -> None:
    log = bytearray(make_log(_RECORDS, [_LAST]))
    log[4096 + place] ^= 1
    events, (error,) = _read(log)
    assert events == _DUMPED[3:] and "checksum" in str(error)


def _summed(log: bytearray) -> bytearray:
    """With the checksums of the first chunk made right."""
    chunk = memoryview(log)[4096 : 4096 + 65536]
    free = min(struct.unpack_from("<I", chunk, 48)[0], 65536)
    struct.pack_into("<I", chunk, 52, crc32(chunk[512:free]))
    struct.pack_into("<I", chunk, 124, crc32(chunk[128:512], crc32(chunk[:120])))
    return log


def test_damaged_record_fails_alone() -> None:
    log = bytearray(make_log(_RECORDS))
    log[log.index(b"\x0c\x01", 5000)] = 0x3B  # where the second record's template begins
    events, (error,) = _read(_summed(log))
    assert events == [_DUMPED[0], _DUMPED[2]] and "record 2: binary XML" in str(error)


def test_refused() -> None:
    log = bytearray(make_log(_RECORDS))
    with pytest.raises(InvalidFormat, match="no event log"):
        _read(log[:100])
    log[38] = 9
    with pytest.raises(UnsupportedFeature, match=r"version 9\.1"):
        _read(log)


def test_journal() -> None:
    crash = _START + 5000
    system = make_log(
        [*_RECORDS, _LAST],
        [
            Record(5, crash, _KERNEL, 12, 4),
            Record(6, crash + 2, "EventLog", 6008, 2, ["22:00:00", "14.11.2023"]),
            Record(7, crash + 3, "EventLog", 6005, 4),
            Record(8, crash + 9, "EventLog", 6005, 4),
            Record(9, crash + 20, "disk", 11, 1, ["\\Device\\Harddisk0\\DR0"]),
        ],
    )
    application = make_log([Record(1, crash + 5, "Application Error", 1000, 2, [("AppName", "a.exe")])])
    broken = system_of({f"{_LOGS}/System.evtx": system, f"{_LOGS}/Application.evtx": b"Elf"})
    assert len(journal(broken).boots) == 3 and "no event log" in broken.warnings[0]
    found = view("journal", system_of({f"{_LOGS}/System.evtx": system, f"{_LOGS}/Application.evtx": application}))
    assert found.entries == 10
    assert [(one.id, one.first_ns // 10**9, one.last_ns // 10**9) for one in found.boots] == [
        ("1", _START, _START + 100),
        ("5", crash, crash + 3),
        ("8", crash + 9, crash + 20),
    ]
    assert [(one.identifier, one.priority, one.message) for one in found.errors] == [
        ("Service Control Manager", 3, "event 7000: Spooler, Ünï €"),
        ("EventLog", 3, "event 6008: 22:00:00, 14.11.2023"),
        ("Application Error", 3, "event 1000: AppName=a.exe"),
        ("disk", 2, "event 11: \\Device\\Harddisk0\\DR0"),
    ]
    assert view("journal", system_of({})).entries == 0


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (0x01, "name\0".encode("utf-16-le"), "name"),
        (0x02, b"caf\xe9\0", "café"),
        (0x03, b"\xff", "-1"),
        (0x06, b"\x01\x02", "513"),
        (0x0A, bytes(7) + b"\x80", str(1 << 63)),
        (0x0D, b"\x01\0\0\0", "true"),
        (0x0E, b"\x01\xab", "01AB"),
        (0x0F, bytes.fromhex("00112233445566778899aabbccddeeff"), "{33221100-5544-7766-8899-AABBCCDDEEFF}"),
        (0x11, struct.pack("<Q", 116_444_736_000_000_000), "1970-01-01T00:00:00.0000000Z"),
        (0x11, b"\xff" * 8, str((1 << 64) - 1)),
        (0x12, struct.pack("<8H", 2023, 11, 2, 14, 22, 13, 20, 5), "2023-11-14T22:13:20.005Z"),
        (0x13, bytes.fromhex("010100000000000512000000"), "S-1-5-18"),
        (0x14, b"\x10\0\0\0", "0x10"),
        (0x06, b"\x01", "01"),  # a number of the wrong length
    ],
)
def test_values(kind: int, data: bytes, text: str) -> None:
    assert value_text(kind, data) == text


def test_mutants() -> None:
    """The checksums are made right, or nothing behind them would be reached."""
    whole = make_log([*_RECORDS, _LAST])
    end = 4096 + struct.unpack_from("<I", whole, 4096 + 48)[0]
    seconds = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    started, read, rounds = time.monotonic(), 0, 0
    while time.monotonic() - started < seconds:
        chance, log = random.Random(rounds), bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            log[chance.randrange(4096 + 40, end)] = chance.choice((0, 1, 0x0C, 0x0D, 0x21, 0xFF, chance.randrange(256)))
        before = time.process_time()
        events, errors = _read(_summed(log))
        assert all(str(error) for error in errors)
        assert time.process_time() - before < 2
        read, rounds = read + len(events), rounds + 1
    assert read > rounds


def test_fragments_that_refer_to_the_same_template_again() -> None:
    log = bytearray(make_log([Record(1, _START, "One", 1, 4, [(f"N{n}", "sixteen letters.") for n in range(40)])]))
    data = log.index("sixteen".encode("utf-16-le"))
    specifications = data - (2 + 1 + 8 + 8 + 6) - 45 * 4  # before the five values of other kinds
    definition = log.index(bytes(range(16)), 4096) - 4 - 4096
    for number in range(40):
        log[specifications + (5 + number) * 4 + 2] = 0x21
        log[data + number * 32 : data + number * 32 + 14] = struct.pack("<BBIII", 0x0C, 1, 1, definition, 0)
    events, (error,) = _read(_summed(log))
    assert events == [] and "more than 512 texts" in str(error)


_OLD = [*_RECORDS[:2], Record(3, _START + 60, "Service Control Manager", 7000, 2, ["Spooler", "Ünï €"]), _LAST]


@pytest.mark.parametrize("shape", [{}, {"start": 2000}, {"dirty": True}, {"start": 2000, "dirty": True}])
def test_old_log(run: Run, tmp_path: Path, shape: dict[str, int]) -> None:
    log = make_old_log(_OLD, **shape)  # type: ignore[arg-type]
    opened = OldEventLog(MemoryDevice(log))
    events = list(opened.events())
    assert [(one.id, one.level) for one in events] == [(1, 4), (2, 4), (3, 2), (4, 4)] and not opened.errors
    if shape.get("dirty"):
        return  # evtexport goes by the header
    assert _exported(run, "evtexport", log, tmp_path / "a.evt") == _as_exported(events)


def test_journal_of_xp() -> None:
    found = journal(system_of({"SysEvent.Evt": make_old_log(_OLD)}))
    assert (len(found.boots), found.entries) == (1, 4)
    assert [one.message for one in found.errors] == ["event 7000: Spooler, Ünï €"]


def test_mutants_of_old_logs() -> None:
    whole = make_old_log(_OLD, start=2000)
    read = 0
    for seed in range(3000):
        chance, log = random.Random(seed), bytearray(whole)
        for _ in range(chance.choice((1, 4, 16))):
            log[chance.randrange(len(log))] = chance.choice((0, 0x27, 0xFF, chance.randrange(256)))
        try:
            read += len(list(OldEventLog(MemoryDevice(log)).events()))
        except GuestctlError as error:
            assert str(error)
    assert read > 3000
