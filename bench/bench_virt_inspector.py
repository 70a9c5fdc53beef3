"""The XML of inspection beside virt-inspector's, which starts a kernel of its own, here emulated.

usage: bench_virt_inspector.py IMAGE
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from common import contest

image = Path(sys.argv[1])
if shutil.which("virt-inspector") is None:
    sys.exit("virt-inspector is not installed")
os.environ.update(LIBGUESTFS_BACKEND="direct", LIBGUESTFS_BACKEND_SETTINGS="force_tcg")
contest(
    f"inspect --xml {image.name}",
    {
        "guestctl inspect --xml": (Path(sys.executable).parent / "guestctl", "inspect", "--xml", image),
        # No icon, which guestctl has none of. An overlay is what keeps virt-inspector from the image itself.
        "virt-inspector": ("virt-inspector", "--no-icon", "-a", image),
    },
    rounds=int(os.environ.get("ROUNDS", "2")),
)
