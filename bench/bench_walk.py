"""Walking a raw image's filesystem and looking at every file's size, mode and time, beside pytsk3.

usage: bench_walk.py IMAGE BYTE_OFFSET PEER_BIN. Each contestant walks three times in its process; the best counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import contest

GUESTCTL = """
import sys, time
from guestctl.block import FileDevice, SliceDevice
from guestctl.disk import FileSystem
def walk():
    with FileDevice.open(sys.argv[1]) as disk:
        start = int(sys.argv[2])
        filesystem = FileSystem.detect(SliceDevice(disk, start, disk.size - start))
        count = total = 0
        for path, node, status in filesystem.find("/"):
            count += 1
            total += status.st_size
            status.st_mode, status.st_mtime_ns
        filesystem.close()
    return count
best = 1e9
for _ in range(3):
    started = time.perf_counter()
    count = walk()
    best = min(best, time.perf_counter() - started)
print(count, best)
"""

PYTSK3 = """
import sys, time
import pytsk3
def walk_directory(directory):
    count = total = 0
    for entry in directory:
        name, meta = entry.info.name.name, entry.info.meta
        if name in (b".", b"..") or meta is None:
            continue
        count += 1
        total += meta.size
        meta.mode, meta.mtime, meta.mtime_nano
        if meta.type == pytsk3.TSK_FS_META_TYPE_DIR and name != b"$OrphanFiles":
            count += walk_directory(entry.as_directory())
    return count
def walk():
    filesystem = pytsk3.FS_Info(pytsk3.Img_Info(sys.argv[1]), offset=int(sys.argv[2]))
    return walk_directory(filesystem.open_dir("/"))
best = 1e9
for _ in range(3):
    started = time.perf_counter()
    count = walk()
    best = min(best, time.perf_counter() - started)
print(count, best)
"""

image, offset, peers = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
contest(
    f"walk and stat every file of {image.name}, inside the process",
    {
        "guestctl": (sys.executable, "-c", GUESTCTL, image, offset),
        "pytsk3": (peers / "python", "-c", PYTSK3, image, offset),
    },
    reports_time=True,
)
