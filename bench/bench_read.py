"""The contents of all files, beside tar of the kernel's mount. Needs root for the mount.

usage: bench_read.py IMAGE RAW_IMAGE BYTE_OFFSET
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from common import contest

CONTENTS = """
import sys
from guestctl.machine import Machine
with Machine.open(sys.argv[1]) as machine:
    filesystem = machine.filesystem("/dev/sda2")
    for path, node, status in filesystem.find("/"):
        if status.is_file():
            device = filesystem.node_data(node)
            for buffer in device.buffers(0, device.size):
                pass
"""

image, raw, offset = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
guestctl = Path(sys.executable).parent / "guestctl"
with tempfile.TemporaryDirectory() as mount:
    subprocess.run(["mount", "-o", f"ro,loop,offset={offset}", raw, mount], check=True)
    try:
        for source in (raw, image):
            contest(
                f"all contents of {source.name}, the whole process; tar writes to a pipe",
                {
                    "guestctl, read": (sys.executable, "-c", CONTENTS, source),
                    "guestctl tar-out": (guestctl, "tar-out", "-m", "/dev/sda2", source, "/", "-"),
                    "tar of the kernel's mount": ("tar", "-C", mount, "--xattrs", "--numeric-owner", "-c", "."),
                },
            )
    finally:
        subprocess.run(["umount", mount], check=True)
