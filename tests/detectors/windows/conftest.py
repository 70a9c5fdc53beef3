"""Windows guests that are a few files in memory, and what hivex says of the same hives."""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Run
from guestctl.core.types import GuestType
from guestctl.detectors.windows import WindowsSystem
from guestctl.machine import Guest
from memory_filesystem import MemoryFileSystem

Load = Callable[[str], bytes]
MakeHive = Callable[[str], bytes]
Export = dict[str, dict[str, bytes]]  # key -> name of a value in lower case -> data
ExportHive = Callable[[bytes, str], Export]


class NoMachine(NamedTuple):
    """Of a tree that is on no disk."""

    devices: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()

    def found(self) -> tuple[str, ...]:
        return ()


def system_of(files: Mapping[str, bytes], machine: object = NoMachine()) -> WindowsSystem:
    """A guest whose system root is /Windows; a name without a directory before it is a hive."""
    placed = {
        path if path.startswith("/") else f"/Windows/system32/config/{path}": text for path, text in files.items()
    }
    tree = MemoryFileSystem({"/Windows/system32/cmd.exe": "", **placed})
    guest = Guest("/dev/sda1", GuestType.WINDOWS, {"/": "/dev/sda1"}, tree)
    return WindowsSystem(machine, guest)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def load(shared: Path) -> Load:
    """A hive of the shared test data."""
    return lambda name: lzma.decompress((shared / "registry" / f"{name}.xz").read_bytes())


@pytest.fixture
def make_hive(run: Run, shared: Path, tmp_path: Path) -> MakeHive:
    """A hive that hivexregedit makes out of .reg text; ``[A\\B]`` in it makes A, too."""

    def _make(text: str) -> bytes:
        path = tmp_path / "made"
        path.write_bytes((shared / "registry" / "hivex-minimal").read_bytes())
        lines, known = [], set[str]()
        for line in text.splitlines():
            if line.startswith("["):
                parts = line[1:-1].split("\\")
                for depth in range(1, len(parts)):
                    above = "\\".join(parts[:depth])
                    if above not in known:
                        known.add(above)
                        lines.append(f"\n[\\{above}]\n")
                known.add(line[1:-1])
                line = f"\n[\\{line[1:]}"
            lines.append(line)
        run("hivexregedit", "--merge", path, input="\n".join(lines) + "\n")
        return path.read_bytes()

    return _make


@pytest.fixture
def export_hive(run: Run, tmp_path: Path) -> ExportHive:
    """What hivexregedit exports of a hive below a key."""

    def _export(hive: bytes, top: str) -> Export:
        path = tmp_path / "exported"
        path.write_bytes(hive)
        found: Export = {}
        for part in re.split(r"^(?=\[\\.*\]$)", run("hivexregedit", "--export", path, top), flags=re.MULTILINE)[1:]:
            head, _, lines = part.partition("\n")
            values = found[head[1:-1]] = {}
            for name, kind, data in re.findall(r'^(@|"(?:[^"\\]|\\.)*")=(dword|hex\(\w+\)):(.*)$', lines, re.MULTILINE):
                plain = "" if name == "@" else re.sub(r"\\(.)", r"\1", name[1:-1])
                raw = bytes.fromhex(data.replace(",", ""))
                values[plain.lower()] = raw[::-1] if kind == "dword" else raw
        return found

    return _export


def text_of(data: bytes) -> str:
    return data.decode("utf-16-le").partition("\0")[0]


def number_of(data: bytes) -> int:
    return int.from_bytes(data, "little")
