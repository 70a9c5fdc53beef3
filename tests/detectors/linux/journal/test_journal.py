"""The journal beside ``journalctl``, on files that systemd-journal-remote made of export streams."""

from __future__ import annotations

import json
import lzma
import os
import random
import resource
import shutil
import struct
import time
from collections.abc import Iterator
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
from journal_files import BOOTS, journalctl, make_journal, message, stream, without_newer_fields

_MACHINE = "0123456789abcdef0123456789abcdef"
_VARIANTS = [(keyed, compact, compress) for keyed in "01" for compact in "01" for compress in ("yes", "no")]


def _open(*paths: Path) -> list[JournalFile]:
    warnings: list[str] = []
    files = [JournalFile(MemoryDevice(path.read_bytes()), path.name, warnings) for path in paths]
    assert not warnings
    return files


def _export(found: Iterator[Entry]) -> bytes:
    return b"".join(map(export, found))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_journal(tmp_path_factory.mktemp("journal") / "system.journal", stream(1))


@pytest.mark.parametrize(("keyed", "compact", "compress"), _VARIANTS)
def test_variants(tmp_path: Path, keyed: str, compact: str, compress: str) -> None:
    path = make_journal(tmp_path / "a.journal", stream(1), keyed, compact, compress)
    (file,) = _open(path)
    (flags,) = struct.unpack_from("<I", path.read_bytes(), 12)
    assert (flags & 4 != 0, flags & 16 != 0, flags & 8 != 0) == (keyed == "1", compact == "1", compress == "yes")
    truth = without_newer_fields(journalctl("--file", path, "-o", "export"))
    assert truth.count(b"__CURSOR") == 600
    assert _export(entries([file], [])) == truth
    backwards = without_newer_fields(journalctl("--file", path, "-o", "export", "-r", "-n", "50"))
    assert _export(entries([file], [], reverse=True)).startswith(backwards)


def test_json_and_short(made: Path) -> None:
    files = _open(made)
    truth = [json.loads(line) for line in journalctl("--file", made, "-o", "json", "--all").splitlines()]
    for entry in truth:
        entry.pop("__SEQNUM", None), entry.pop("__SEQNUM_ID", None)
    assert [json.loads(as_json(entry)) for entry in entries(files, [])] == truth
    lines = journalctl("--file", made, "-o", "short").decode()
    assert "\n".join(short_lines(entries(files, []))) + "\n" == lines


@pytest.mark.parametrize("name", ["xz", "lz4"])
def test_older_compressions(tmp_path: Path, name: str) -> None:
    """systemd here writes zstd: the longest value is put in again as systemd 246 and earlier had it."""
    path = make_journal(tmp_path / "a.journal", stream(1, 60), compress="no")
    truth = without_newer_fields(journalctl("--file", path, "-o", "export"))
    data = bytearray(path.read_bytes())
    changed = 0
    for number in range(5, 60, 11):
        plain = b"MESSAGE=" + (message(number) or b"")
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
    assert without_newer_fields(journalctl("--file", path, "-o", "export")) == truth
    assert _export(entries(_open(path), [])) == truth


@pytest.mark.parametrize("unit", ["ssh.service", "init.scope", "none.service"])
def test_units(made: Path, unit: str) -> None:
    truth = journalctl("--file", made, "-u", unit, "-o", "export") if unit != "none.service" else b""
    assert _export(entries(_open(made), [unit_condition(unit)])) == without_newer_fields(truth)


def test_conditions(made: Path) -> None:
    files = _open(made)
    for priority in (3, 4, 7):
        truth = journalctl("--file", made, "-p", str(priority), "-o", "export")
        assert _export(entries(files, [priority_condition(priority)])) == without_newer_fields(truth)
    truth = journalctl("--file", made, "-p", "err", "-u", "ssh.service", f"_BOOT_ID={BOOTS[1]}", "-o", "export")
    conditions = [priority_condition(3), unit_condition("ssh.service"), boot_condition(BOOTS[1])]
    assert _export(entries(files, conditions)) == without_newer_fields(truth)


def test_boots(made: Path) -> None:
    found = boots(_open(made))
    assert [one.id for one in found] == BOOTS
    for one in found:
        times = [
            json.loads(line)["__REALTIME_TIMESTAMP"]
            for line in journalctl("--file", made, f"_BOOT_ID={one.id}", "-o", "json", "--all").splitlines()
        ]
        assert (one.first_ns, one.last_ns) == (int(times[0]) * 1000, int(times[-1]) * 1000)
    listed = journalctl("--file", made, "--list-boots").decode()
    assert [word for word in listed.split() if word in BOOTS] == BOOTS


def test_files_interleave(tmp_path: Path) -> None:
    paths = [make_journal(tmp_path / f"{seed}.journal", stream(seed, 200)) for seed in (1, 2, 3)]
    paths.append(tmp_path / "copy.journal")
    shutil.copy(paths[0], paths[3])
    for how in ((), ("-r",)):
        truth = journalctl("--directory", tmp_path, "-o", "export", *how)
        assert truth.count(b"__CURSOR") == 600
        assert _export(entries(_open(*paths), [], reverse=bool(how))) == without_newer_fields(truth)


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
        for line in journalctl("--file", made, "-p", "err", "-n", "20", "-o", "json", "--all").splitlines()
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
    path = make_journal(tmp_path / "a.journal", stream(1, 60), compact=compact)
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
