"""The journal beside ``journalctl``, on files that systemd-journal-remote made of export streams."""

from __future__ import annotations

import io
import json
import lzma
import os
import random
import resource
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block
import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.detectors.linux.journal import journal, open_files
from guestctl.detectors.linux.journal.entries import boot_condition, boots, entries, priority_condition, unit_condition
from guestctl.detectors.linux.journal.file import Entry, JournalFile
from guestctl.detectors.linux.journal.output import as_json, export, short_lines
from host_system import memory_system

Run = Callable[..., str]
_REMOTE = "/usr/lib/systemd/systemd-journal-remote"
_MACHINE = "0123456789abcdef0123456789abcdef"
BOOTS = [f"{0xABC + number:032x}" for number in range(3)]
_START = 1_700_000_000_000_000
_VARIANTS = [(keyed, compact, compress) for keyed in "01" for compact in "01" for compress in ("yes", "no")]


def _message(number: int) -> bytes | None:
    return {
        3: b"line one\nline two \n  three",
        4: b"bin\x00\xff\x01",
        5: b"a long line " * 100 + b"%d" % number,
        6: "ümläut 你好 \t tab".encode(),
        7: None,
    }.get(number % 11, b"message %d" % number)


def _stream(seed: int, count: int = 600) -> bytes:
    """Entries of three boots in the export format: text, lines, bytes, long values, one field twice, no message."""
    chance = random.Random(seed)
    out = io.BytesIO()
    when = _START + seed
    for number in range(count):
        when += chance.randrange(1, 2_000_000)
        boot = BOOTS[number * 3 // count].encode()
        out.write(b"__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n" % (when, when - _START))
        out.write(b"_BOOT_ID=%s\n_HOSTNAME=guest\n" % boot)
        out.write(b"PRIORITY=%d\n_PID=%d\n_UID=0\n" % (chance.choice((3, 4, 6, 6, 7)), chance.choice((1, 77, 400))))
        unit = chance.choice((b"ssh.service", b"cron.service", b"init.scope"))
        out.write(b"_SYSTEMD_UNIT=%s\nSYSLOG_IDENTIFIER=%s\n" % (unit, unit.partition(b".")[0]))
        if number % 7 == 0:
            out.write(b"UNIT=ssh.service\n")
        if number % 5 == 0:
            out.write(b"_SOURCE_REALTIME_TIMESTAMP=%d\n" % (when - 1000))
        message = _message(number)
        if message is not None:
            out.write(b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n")
        if number % 11 == 8:
            out.write(b"TAG=a\nTAG=b\nEMPTY=\n")
        out.write(b"\n")
    return out.getvalue()


def _make(path: Path, stream: bytes, keyed: str = "1", compact: str = "1", compress: str = "yes") -> Path:
    if shutil.which(_REMOTE) is None:
        pytest.skip("needs systemd-journal-remote")
    variant = {"SYSTEMD_JOURNAL_KEYED_HASH": keyed, "SYSTEMD_JOURNAL_COMPACT": compact}
    argv = [_REMOTE, f"--compress={compress}", "-o", str(path), "-"]
    done = subprocess.run(argv, input=stream, capture_output=True, env={**os.environ, **variant})
    assert done.returncode == 0, done.stderr
    return path


def _journalctl(*argv: str | Path) -> bytes:
    if shutil.which("journalctl") is None:
        pytest.skip("needs journalctl")
    done = subprocess.run(["journalctl", "--utc", "--no-pager", *argv], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _open(*paths: Path) -> list[JournalFile]:
    warnings: list[str] = []
    files = [JournalFile(MemoryDevice(path.read_bytes()), path.name, warnings) for path in paths]
    assert not warnings
    return files


def _export(found: Iterator[Entry]) -> bytes:
    return b"".join(map(export, found))


def _without_newer_fields(text: bytes) -> bytes:
    """journalctl of systemd 254 and later adds two address fields."""
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"__SEQNUM"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("journal") / "system.journal", _stream(1))


@pytest.mark.parametrize(("keyed", "compact", "compress"), _VARIANTS)
def test_variants(tmp_path: Path, keyed: str, compact: str, compress: str) -> None:
    path = _make(tmp_path / "a.journal", _stream(1), keyed, compact, compress)
    (file,) = _open(path)
    (flags,) = struct.unpack_from("<I", path.read_bytes(), 12)
    assert (flags & 4 != 0, flags & 16 != 0, flags & 8 != 0) == (keyed == "1", compact == "1", compress == "yes")
    truth = _without_newer_fields(_journalctl("--file", path, "-o", "export"))
    assert truth.count(b"__CURSOR") == 600
    assert _export(entries([file], [])) == truth
    backwards = _without_newer_fields(_journalctl("--file", path, "-o", "export", "-r", "-n", "50"))
    assert _export(entries([file], [], reverse=True)).startswith(backwards)


def test_json_and_short(made: Path) -> None:
    files = _open(made)
    truth = [json.loads(line) for line in _journalctl("--file", made, "-o", "json", "--all").splitlines()]
    for entry in truth:
        entry.pop("__SEQNUM", None), entry.pop("__SEQNUM_ID", None)
    assert [json.loads(as_json(entry)) for entry in entries(files, [])] == truth
    lines = _journalctl("--file", made, "-o", "short").decode()
    assert "\n".join(short_lines(entries(files, []))) + "\n" == lines


@pytest.mark.parametrize("name", ["xz", "lz4"])
def test_older_compressions(tmp_path: Path, name: str) -> None:
    """systemd here writes zstd: the longest value is put in again as systemd 246 and earlier had it."""
    path = _make(tmp_path / "a.journal", _stream(1, 60), compress="no")
    truth = _without_newer_fields(_journalctl("--file", path, "-o", "export"))
    data = bytearray(path.read_bytes())
    changed = 0
    for number in range(5, 60, 11):
        plain = b"MESSAGE=" + (_message(number) or b"")
        payload = data.index(plain)
        if name == "xz":
            packed = lzma.compress(plain, lzma.FORMAT_XZ, lzma.CHECK_NONE)
        else:
            packed = struct.pack("<Q", len(plain)) + bytes(lz4.block.compress(plain, store_size=False))
        data[payload : payload + len(packed)] = packed
        struct.pack_into("<BB6xQ", data, payload - 72, 1, {"xz": 1, "lz4": 2}[name], 72 + len(packed))
        changed += 1
    (flags,) = struct.unpack_from("<I", data, 12)
    struct.pack_into("<I", data, 12, flags | {"xz": 1, "lz4": 2}[name])
    path.write_bytes(data)
    assert changed == 5
    assert _without_newer_fields(_journalctl("--file", path, "-o", "export")) == truth
    assert _export(entries(_open(path), [])) == truth


@pytest.mark.parametrize("unit", ["ssh.service", "init.scope", "none.service"])
def test_units(made: Path, unit: str) -> None:
    truth = _journalctl("--file", made, "-u", unit, "-o", "export") if unit != "none.service" else b""
    assert _export(entries(_open(made), [unit_condition(unit)])) == _without_newer_fields(truth)


def test_conditions(made: Path) -> None:
    files = _open(made)
    for priority in (3, 4, 7):
        truth = _journalctl("--file", made, "-p", str(priority), "-o", "export")
        assert _export(entries(files, [priority_condition(priority)])) == _without_newer_fields(truth)
    truth = _journalctl("--file", made, "-p", "err", "-u", "ssh.service", f"_BOOT_ID={BOOTS[1]}", "-o", "export")
    conditions = [priority_condition(3), unit_condition("ssh.service"), boot_condition(BOOTS[1])]
    assert _export(entries(files, conditions)) == _without_newer_fields(truth)


def test_boots(made: Path) -> None:
    found = boots(_open(made))
    assert [one.id for one in found] == BOOTS
    for one in found:
        times = [
            json.loads(line)["__REALTIME_TIMESTAMP"]
            for line in _journalctl("--file", made, f"_BOOT_ID={one.id}", "-o", "json", "--all").splitlines()
        ]
        assert (one.first_ns, one.last_ns) == (int(times[0]) * 1000, int(times[-1]) * 1000)
    listed = _journalctl("--file", made, "--list-boots").decode()
    assert [word for word in listed.split() if word in BOOTS] == BOOTS


def test_files_interleave(tmp_path: Path) -> None:
    paths = [_make(tmp_path / f"{seed}.journal", _stream(seed, 200)) for seed in (1, 2, 3)]
    paths.append(tmp_path / "copy.journal")
    shutil.copy(paths[0], paths[3])
    for how in ((), ("-r",)):
        truth = _journalctl("--directory", tmp_path, "-o", "export", *how)
        assert truth.count(b"__CURSOR") == 600
        assert _export(entries(_open(*paths), [], reverse=bool(how))) == _without_newer_fields(truth)


def test_a_guest(made: Path) -> None:
    cut = made.read_bytes()[: 200 << 10]
    system = memory_system(
        {
            f"/var/log/journal/{_MACHINE}/system.journal": made.read_bytes(),
            f"/var/log/journal/{_MACHINE}/user-1000.journal": b"LPKSHHRH" + bytes(300),
            f"/run/log/journal/{_MACHINE}/system@0001-0002.journal~": cut,
            f"/var/log/journal/{_MACHINE}/later.journal": cut[:12] + b"\xff" + cut[13:],
        }
    )
    assert len(open_files(system)) == 3
    found = journal(system)
    truth = [
        json.loads(line)
        for line in _journalctl("--file", made, "-p", "err", "-n", "20", "-o", "json", "--all").splitlines()
    ]
    assert [entry.time_ns for entry in found.errors] == [int(one["__REALTIME_TIMESTAMP"]) * 1000 for one in truth]
    assert {entry.priority for entry in found.errors} == {3}
    assert [boot.id for boot in found.boots] == BOOTS
    assert any("later.journal" in warning and "0xe0" in warning for warning in system.warnings)


def test_unfinished_files(tmp_path: Path, made: Path) -> None:
    """Online, and cut off: what is whole is read."""
    data = bytearray(made.read_bytes())
    data[16] = 1
    warnings: list[str] = []
    truth = _export(entries(_open(made), []))
    assert _export(entries([JournalFile(MemoryDevice(data), "online", warnings)], [])) == truth and not warnings
    last = struct.unpack_from("<Q", data, 136)[0]
    for size in (last, last // 2, 20_000, 4_000, 300):
        file = JournalFile(MemoryDevice(data[:size]), "cut", warnings)
        found = list(entries([file], []))
        assert truth.startswith(_export(iter(found))[:100])
    assert warnings
    with pytest.raises(GuestctlError):
        JournalFile(MemoryDevice(data[:100]), "short", warnings)
    data[12] |= 0x20
    with pytest.raises(UnsupportedFeature):
        JournalFile(MemoryDevice(data), "later", warnings)


@pytest.mark.parametrize("compact", ["0", "1"])
def test_mutants(tmp_path: Path, compact: str) -> None:
    path = _make(tmp_path / "a.journal", _stream(1, 60), compact=compact)
    image = bytearray(path.read_bytes())
    used = struct.unpack_from("<Q", image, 136)[0] + 512
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 2
    rounds = whole = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        undo = []
        for _ in range(chance.choice((1, 2, 8))):
            offset = chance.choice((chance.randrange(272), chance.randrange(used), chance.randrange(used) & ~7))
            undo.append((offset, image[offset]))
            image[offset] = chance.choice((0, 1, 2, 4, 8, 0x10, 0x7F, 0xFF, chance.randrange(256)))
        started = time.process_time()
        warnings: list[str] = []
        try:
            file = JournalFile(MemoryDevice(image), "mutant", warnings)
            found = list(entries([file], []))
            whole += len(found) == 60
            list(short_lines(iter(found)))
            _export(iter(found))
            list(map(as_json, found))
            boots([file])
            list(entries([file], [unit_condition("ssh.service"), priority_condition(3)], reverse=True))
            assert len(warnings) <= 1
        except GuestctlError as error:
            assert str(error)
        assert time.process_time() - started < 5, rounds
        for offset, old in reversed(undo):
            image[offset] = old
        rounds += 1
    assert bytes(image) == path.read_bytes()
    assert whole > rounds // 10 > 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) < 300 << 10
