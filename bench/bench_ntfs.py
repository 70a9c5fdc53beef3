"""Walking many files of NTFS with stat beside pytsk3, and reading large ones beside ``cat`` of ntfs-3g's mount.

usage: bench_ntfs.py FOLDER PEER_BIN [FILES]   (as root; the image is made in FOLDER unless it is there)
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
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
PYTSK3 = """
import sys, time
import pytsk3
def walk(directory):
    count = total = 0
    for entry in directory:
        name, meta = entry.info.name.name, entry.info.meta
        if name in (b".", b"..") or meta is None:
            continue
        count += 1
        total += meta.size
        meta.mode, meta.mtime, meta.mtime_nano
        if meta.type == pytsk3.TSK_FS_META_TYPE_DIR and name != b"$OrphanFiles":
            count += walk(entry.as_directory())
    return count
started = time.perf_counter()
count = walk(pytsk3.FS_Info(pytsk3.Img_Info(sys.argv[1])).open_dir("/"))
print(count, time.perf_counter() - started)
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
FILES_IN_A_DIRECTORY = 1000
LARGE_BYTES = 2 << 30
COMPRESSED = struct.pack("<I", 0x800)


def unmount(top: str) -> None:
    while subprocess.run(["umount", top], stderr=subprocess.DEVNULL).returncode:
        time.sleep(0.1)


def fill(top: Path, files: int) -> None:
    for number in range(files // FILES_IN_A_DIRECTORY):
        directory = top / f"{number // 32:03}" / f"directory-{number:04}"
        directory.mkdir(parents=True)
        for index in range(FILES_IN_A_DIRECTORY):
            (directory / f"file-{index:05}.txt").write_bytes(b"x" * (index % 300 if index % 4 == 0 else 0))
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    (top / "compressed").mkdir()
    os.setxattr(top / "compressed", "system.ntfs_attrib", COMPRESSED)
    # The text of programs, and what compresses to almost nothing.
    for name, size, unit in (
        ("/large", LARGE_BYTES, text),
        ("/compressed/text", LARGE_BYTES // 16, text),
        ("/compressed/log", LARGE_BYTES // 4, b"the same line of a log, again and again\n" * 1000),
    ):
        with open(f"{top}{name}", "wb") as stream:
            while (missing := size - stream.tell()) > 0:
                stream.write(unit[:missing])


def make(image: Path, files: int) -> None:
    partial = image.with_suffix(".partial")
    with partial.open("wb") as stream:
        stream.truncate(2 * LARGE_BYTES + LARGE_BYTES // 2 + files * 4096)
    subprocess.run(["mkntfs", "-F", "-Q", "-q", partial], check=True, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as top:
        subprocess.run(["ntfs-3g", "-o", "rw,compression,async,big_writes", partial, top], check=True)
        try:
            fill(Path(top), files)
        finally:
            unmount(top)
    partial.rename(image)


folder, peers, files = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["1000000"])[0])
image = folder / f"ntfs-{files}.raw"
if not image.exists():
    make(image, files)
contest(
    f"walk and stat {files} files of {image.name}, inside the process",
    {
        "guestctl": (sys.executable, "-c", GUESTCTL, image),
        "pytsk3": (peers / "python", "-c", PYTSK3, image),
    },
    reports_time=True,
)
with tempfile.TemporaryDirectory() as top:
    # A new mount has read nothing yet, while the image is in the host's cache for both.
    cat = "ntfs-3g -o ro $0 $1 && cat $1$2; status=$?; umount $1; exit $status"
    for name in ("/large", "/compressed/log", "/compressed/text"):
        contest(
            f"read {name} of {image.name}, the whole process",
            {
                "guestctl": (sys.executable, "-c", READ, image, name),
                "cat of ntfs-3g's mount": ("sh", "-c", cat, image, top, name),
            },
            rounds=2,
        )
