"""The differences between a guest and an overlay on it with few changes, and between the guest and a copy.

usage: bench_diff.py IMAGE.qcow2 SCRATCH_DIRECTORY
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from common import contest

image, scratch = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
guestctl = Path(sys.executable).parent / "guestctl"
scratch.mkdir(exist_ok=True)
overlay, copy = scratch / "overlay.qcow2", scratch / "copy.qcow2"
try:
    subprocess.run(("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay), check=True)
    shutil.copy(image, copy)
    allowed = ("--allow-dir", image.parent)
    contest(
        f"diff {image.name}",
        {
            "an overlay on it": (guestctl, "diff", *allowed, image, overlay),
            "a copy of it": (guestctl, "diff", *allowed, image, copy),
            "a copy of it, --quick": (guestctl, "diff", "--quick", *allowed, image, copy),
        },
    )
finally:
    shutil.rmtree(scratch)
