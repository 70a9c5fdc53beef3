"""Commands that show a view, where there is nothing to show, or nothing of the kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guestctl.cli import main

DEMO = Path(__file__).resolve().parents[1] / "data" / "debian-12.qcow2"


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return exit.value.code, out, err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("packages", "--files", "no-such"), "no package no-such is installed, or none of its files are listed"),
        (("packages", "--owner", "/no/such"), "/no/such belongs to no package"),
        (("journal", "-p", "err"), "there is no journal of systemd; of text logs only -n is known"),
    ],
)
def test_nothing_is_an_error(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], error: str) -> None:
    command, *options = words
    assert _run(capsys, command, DEMO, *options) == (1, "", f"guestctl: error: {error}\n")


def test_no_guest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.raw").write_bytes(bytes(1 << 20))
    for command in ("boot", "services", "users", "journal", "security", "containers", "packages", "sbom", "network"):
        code, out, err = _run(capsys, command, tmp_path / "empty.raw")
        assert (code, out, err) == (1, "", "guestctl: error: no operating system found\n"), command


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("-n", "9" * 30), ("-n", "-1"), ("-p", "loud"), ("--json", "-n", "3"), ("--json", "-o", "export")):
        code, out, err = _run(capsys, "journal", DEMO, *words)
        assert (code, out) == (2, "")
        assert err.startswith("Usage: ")


def test_empty_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "containers", DEMO)[:2] == (0, "No container images.\n\nNo containers.\n")
    assert _run(capsys, "users", DEMO)[:2] == (0, "No account can log in.\n")


def test_several_guests(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "other.qcow2")
    code, out, err = _run(capsys, "packages", DEMO, tmp_path / "other.qcow2", "--files", "no-such")
    assert (code, out.strip()) == (1, "")
    assert err.count("guestctl: error: /dev/") == 2
    code, out, _ = _run(capsys, "journal", DEMO, tmp_path / "other.qcow2")
    assert code == 0
    assert out.startswith("/dev/sda")
