"""Journal files as systemd-journal-remote makes them of export streams, and journalctl's word on them."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_REMOTE = "/usr/lib/systemd/systemd-journal-remote"
BOOTS = [f"{0xABC + number:032x}" for number in range(3)]
_START = 1_700_000_000_000_000


def message(number: int) -> bytes | None:
    return {
        3: b"line one\nline two \n  three",
        4: b"bin\x00\xff\x01",
        5: b"a long line " * 100 + b"%d" % number,
        6: "ümläut 你好 \t tab".encode(),
        7: None,
    }.get(number % 11, b"message %d" % number)


def stream(seed: int, count: int = 600) -> bytes:
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
        text = message(number)
        if text is not None:
            out.write(b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n")
        if number % 11 == 8:
            out.write(b"TAG=a\nTAG=b\nEMPTY=\n")
        out.write(b"\n")
    return out.getvalue()


def make_journal(path: Path, text: bytes, keyed: str = "1", compact: str = "1", compress: str = "yes") -> Path:
    if shutil.which(_REMOTE) is None:
        pytest.skip("needs systemd-journal-remote")
    variant = {"SYSTEMD_JOURNAL_KEYED_HASH": keyed, "SYSTEMD_JOURNAL_COMPACT": compact}
    argv = [_REMOTE, f"--compress={compress}", "-o", str(path), "-"]
    done = subprocess.run(argv, input=text, capture_output=True, env={**os.environ, **variant})
    assert done.returncode == 0, done.stderr
    return path


def journalctl(*argv: str | Path) -> bytes:
    if shutil.which("journalctl") is None:
        pytest.skip("needs journalctl")
    done = subprocess.run(["journalctl", "--utc", "--no-pager", *argv], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_newer_fields(text: bytes) -> bytes:
    """journalctl of systemd 254 and later adds two address fields."""
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"__SEQNUM"))
