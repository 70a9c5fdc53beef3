"""A handle's launch, inspection, packages and a file beside libguestfs's, which starts a kernel, here emulated.

usage: bench_handle.py IMAGE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import ROUNDS, Result, run_once

image = Path(sys.argv[1])
os.environ.update(LIBGUESTFS_BACKEND="direct", LIBGUESTFS_BACKEND_SETTINGS="force_tcg")

PROGRAM = """
import sys
import {module}
g = {module}.GuestFS(python_return_dict=True)
g.add_drive_opts(sys.argv[1], readonly=1)
g.launch()
root, = g.inspect_os()
for path, device in sorted(g.inspect_get_mountpoints(root).items()):
    g.mount_ro(device, path)
assert g.inspect_list_applications2(root) and g.cat("/etc/os-release")
g.shutdown()
g.close()
"""


def best(python: str, module: str, rounds: int) -> Result:
    return min(run_once((python, "-c", PROGRAM.format(module=module), image)) for _ in range(rounds))


theirs = best("/usr/bin/python3", "guestfs", max(1, ROUNDS // 3))
ours = best(sys.executable, "guestctl.guestfs", 2 * ROUNDS)
print(f"launch, inspect, list packages, cat {image.name}")
print(f"  guestctl.guestfs  {ours.seconds:8.3f} s {ours.peak / 1e6:6.1f} MB")
print(f"  guestfs           {theirs.seconds:8.3f} s {theirs.peak / 1e6:6.1f} MB")
print(f"  guestfs takes {theirs.seconds / ours.seconds:.0f} times as long")
