"""Walking many files with stat beside dissect's readers, and reading a large one beside ``cat`` of the kernel's mount.

usage: bench_trees.py IMAGE PEER_BIN xfs|btrfs FILES [FILE...]   (an image of tools/make-large-trees; as root)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import contest

GUESTCTL = """
import sys, time
from guestctl.block import FileDevice
from guestctl.disk import FileSystem
started = time.perf_counter()
with FileDevice.open(sys.argv[1]) as disk:
    filesystem = FileSystem.detect(disk)
    count = total = 0
    for path, node, status in filesystem.find("/"):
        count += 1
        total += status.st_size
        status.st_mode, status.st_mtime_ns
print(count, time.perf_counter() - started)
"""

# Of a million files dissect would need long: it walks the first LIMIT, and its time is scaled to all.
LIMIT = 20_000
DISSECT = """
import importlib, itertools, sys, time
kind, name, total, limit = sys.argv[2], {"xfs": "XFS", "btrfs": "Btrfs"}[sys.argv[2]], *map(int, sys.argv[3:])
module = importlib.import_module(f"dissect.{kind}")
def walk(directory):
    for name, child in directory.listdir().items():
        if name not in (".", ".."):
            yield child.size, child.mtime
            if (child.filetype if kind == "xfs" else child.type) == 0o040000:
                yield from walk(child)
started = time.perf_counter()
with open(sys.argv[1], "rb") as disk:
    count = sum(1 for _ in itertools.islice(walk(getattr(module, name)(disk).get("/")), limit))
print(count, (time.perf_counter() - started) * total / count)
"""
READ = """
import sys
from guestctl.block import FileDevice
from guestctl.disk import FileSystem
with FileDevice.open(sys.argv[1]) as disk:
    content = FileSystem.detect(disk).device(sys.argv[2])
    for buffer in content.buffers(0, content.size):
        pass
"""

image, peers, kind, files = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
contest(
    f"walk and stat {files} files of {image.name}, inside the process",
    {
        "guestctl": (sys.executable, "-c", GUESTCTL, image),
        "dissect, scaled": (peers / "python", "-c", DISSECT, image, kind, files, str(min(LIMIT, int(files)))),
    },
    reports_time=True,
    rounds=3,
)
with tempfile.TemporaryDirectory() as top:
    # A new mount has read nothing yet, while the image is in the host's cache for both.
    cat = "mount -o ro,loop $0 $1 && cat $1$2; status=$?; umount $1; exit $status"
    for name in sys.argv[5:]:
        contest(
            f"read {name} of {image.name}, the whole process",
            {
                "guestctl": (sys.executable, "-c", READ, image, name),
                "cat of the kernel's mount": ("sh", "-c", cat, image, top, name),
            },
            rounds=3,
        )
