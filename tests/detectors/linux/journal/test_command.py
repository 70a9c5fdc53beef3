"""``guestctl journal`` on a guest, beside journalctl on the same file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from journal_files import BOOTS, journalctl, make_journal, stream, without_newer_fields

Run = Callable[..., str]
_FOLDER = "var/log/journal/0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def guest(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(an image, the journal file in it)."""
    folder = tmp_path_factory.mktemp("guest")
    root = folder / "root"
    for name in (_FOLDER, "etc", "bin", "usr/lib", "lib"):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    made = make_journal(root / _FOLDER / "system.journal", stream(1))
    run("mke2fs", "-q", "-t", "ext4", "-d", root, folder / "guest.img", "40M")
    return folder / "guest.img", made


def _guestctl(*argv: str | Path) -> bytes:
    done = subprocess.run([sys.executable, "-m", "guestctl", "journal", *argv], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-n", "7"],
        ["-n", "7", "-r"],
        ["-p", "err", "-u", "ssh"],
        ["-b", "-1", "-n", "3"],
        ["-b", "1"],
        ["-b", BOOTS[2], "-p", "4"],
    ],
)
def test_options(guest: tuple[Path, Path], options: list[str]) -> None:
    image, made = guest
    for output in ("export", "short"):
        truth = journalctl("--file", made, "-o", output, *options)
        assert _guestctl(image, "-o", output, *options) == without_newer_fields(truth)


def test_boots_and_errors(guest: tuple[Path, Path]) -> None:
    image, made = guest
    listed = _guestctl(image, "--list-boots").decode().splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [[str(number - 2), boot] for number, boot in enumerate(BOOTS)]
    ((guest_record),) = json.loads(_guestctl(image, "--json"))
    assert [boot["id"] for boot in guest_record["journal"]["boots"]] == BOOTS
    assert guest_record["journal"]["entries"] == 600
    last = json.loads(journalctl("--file", made, "-p", "err", "-n", "1", "-o", "json"))
    assert guest_record["journal"]["errors"][-1]["time_ns"] == int(last["__REALTIME_TIMESTAMP"]) * 1000
