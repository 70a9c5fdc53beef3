"""Running commands side by side: each round runs every contestant once, and the best round of each counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROUNDS = int(os.environ.get("ROUNDS", "5"))


class Result(NamedTuple):
    """The best of several rounds: ``seconds`` of wall time, ``peak`` resident bytes, ``made`` bytes of output."""

    seconds: float
    peak: int
    made: int = 0


def run_once(argv: Sequence[str | Path], *, reports_time: bool = False) -> Result:
    """Run a command; with `reports_time` it prints the seconds that count itself, on its last line."""
    started = time.perf_counter()
    with subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        output = b""
        while chunk := process.stdout.read(1 << 20):
            output = chunk[-100:]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{argv[0]} exited with {process.returncode}")
    if reports_time:
        seconds = float(output.split()[-1])
    return Result(seconds, usage.ru_maxrss * 1024)


def contest(
    title: str,
    contestants: dict[str, Sequence[str | Path]],
    *,
    reports_time: bool = False,
    makes: Path | None = None,
    rounds: int = ROUNDS,
) -> None:
    """Print each contestant's best, and its ratio to the first, which is guestctl.

    `makes` is a file that each run makes, and that is removed before.
    """
    best: dict[str, Result] = {}
    for _ in range(rounds):
        for name, argv in contestants.items():
            if makes is not None:
                _remove(makes)
            result = run_once(argv, reports_time=reports_time)
            if makes is not None:
                result = result._replace(made=_size(makes))
            known = best.setdefault(name, result)
            best[name] = Result(min(known.seconds, result.seconds), min(known.peak, result.peak), result.made)
    if makes is not None:
        _remove(makes)
    print(title)
    ours = next(iter(best.values()))
    for name, result in best.items():
        ratio = result.seconds / ours.seconds
        made = f"  {result.made / 1e6:9.1f} MB made" if makes is not None else ""
        print(f"  {name:<34} {result.seconds:8.3f} s {result.peak / 1e6:6.1f} MB {ratio:6.2f} x the first's time{made}")


def _files(path: Path) -> list[Path]:
    """The file, and those whose names begin with its stem and a dash: the extents of a VMDK."""
    return [path, *path.parent.glob(f"{path.stem}-*")]


def _remove(path: Path) -> None:
    for file in _files(path):
        file.unlink(missing_ok=True)
    os.sync()


def _size(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in _files(path))
