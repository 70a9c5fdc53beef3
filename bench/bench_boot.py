"""What boots, the whole process from a cold start, beside inspection; and the files of an initramfs beside lsinitramfs.

usage: bench_boot.py IMAGE
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import contest

from guestctl.detectors.linux.kernels import find_kernels
from guestctl.machine import Machine

image = Path(sys.argv[1])
guestctl = Path(sys.executable).parent / "guestctl"
with Machine.open(image) as machine, tempfile.TemporaryDirectory() as folder:
    tree = machine.guests()[0].tree
    path = next(kernel.initramfs for kernel in find_kernels(tree) if kernel.initramfs)
    copy = Path(folder) / "initramfs"
    copy.write_bytes(tree.read_bytes(path))
    contest(
        f"boot of {image.name}",
        {
            "guestctl boot --json": (guestctl, "boot", "--json", image),
            "guestctl inspect --json": (guestctl, "inspect", "--json", image),
        },
    )
    contest(
        f"files of {path}",
        {
            "guestctl boot --initramfs": (guestctl, "boot", image, "--initramfs", path),
            "lsinitramfs, of a copy": ("lsinitramfs", copy),
        },
    )
