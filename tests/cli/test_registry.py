"""``guestctl registry`` on a hive in an image, beside hivexregedit."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from conftest import Run
from guestctl.cli import main

KEY = r"Objects\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\Elements\25000004"


@pytest.fixture(scope="module")
def image(run: Run, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FAT filesystem with the hive BCD in it."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "BCD").write_bytes(lzma.decompress((shared / "registry" / "BCD.xz").read_bytes()))
    image = folder / "image"
    with image.open("wb") as stream:
        stream.truncate(4 << 20)
    run("mkfs.vfat", image)
    run("mcopy", "-i", image, folder / "BCD", "::BCD")
    return image


def _guestctl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(str(exit.value.code)), captured.out, captured.err


def test_text(image: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = _guestctl(capsys, "registry", image, "/bcd", "-r")
    expected = run("hivexregedit", "--export", "--unsafe-printable-strings", image.parent / "BCD", "\\")
    assert code == 0
    ours, theirs = ([block.splitlines()[0] for block in one.split("\n\n") if block] for one in (text, expected))
    assert sorted(ours) == sorted(theirs)
    numbers = [sorted(line for line in one.splitlines() if "=dword:" in line) for one in (text, expected)]
    assert numbers[0] == numbers[1]


def test_key(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = _guestctl(capsys, "registry", image, "/BCD", KEY.upper())
    assert code == 0
    assert text.startswith(f"Windows Registry Editor Version 5.00\n\n[\\{KEY.upper()}]\n")
    assert '"Element"=hex(3):1e,00,00,00,00,00,00,00\n' in text
    code, text, _ = _guestctl(capsys, "registry", image, "/BCD", "Objects", "--json")
    (record,) = json.loads(text)
    assert record["key"] == "\\Objects"
    assert "{9dea862c-5cdd-4e70-acc1-f32b344d4795}" in record["subkeys"]


@pytest.mark.parametrize("words", [("/nothing",), ("/BCD", "Nothing"), ("SYSTEM",)])
def test_what_is_missing(image: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, _, error = _guestctl(capsys, "registry", image, *words)
    assert code == 1
    assert error.startswith("guestctl: error: ") and error.count("\n") == 1
