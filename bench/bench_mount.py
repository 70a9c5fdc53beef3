"""find, grep -r and tar over a guest's files: our mount, the kernel's own, and guestmount's where that is installed.

usage: bench_mount.py QCOW2 RAW BYTE_OFFSET, as root; RAW holds at BYTE_OFFSET the filesystem of the guest in QCOW2.
Each round mounts anew and drops the kernel's caches, so that every contestant reads for the first time; then the
same commands run a second time over what is in the caches by then. guestmount, without acceleration, does it once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import ROUNDS

COMMANDS = {
    "find": "find . > /dev/null",
    "find -size": "find . -size +1G",
    "tar": "tar --xattrs --numeric-owner -cf - . | cat > /dev/null",
    "grep -r": "grep -r 'no such text' usr/lib usr/share/doc; true",
    "read large files": "find usr boot -type f -size +1M -exec cat {} + > /dev/null",
}


@contextmanager
def mounted(argv: list[str], unmount: list[str]) -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="bench-mount-")
    environment = {**os.environ, "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    subprocess.run([*argv, directory], check=True, env=environment)
    try:
        yield directory
    finally:
        subprocess.run([*unmount, directory], check=True)
        time.sleep(0.5)  # guestmount's process ends after that
        os.rmdir(directory)


def measure(directory: str, passes: tuple[str, ...]) -> dict[str, float]:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    found = {}
    for again in passes:
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(["sh", "-c", command], cwd=directory, check=True, stdout=subprocess.DEVNULL)
            found[name + again] = time.perf_counter() - started
    return found


def main(qcow2: str, raw: str, offset: str) -> None:
    guestctl = str(Path(sys.executable).with_name("guestctl"))
    contestants = {
        "guestctl": ([guestctl, "mount", qcow2], ["fusermount3", "-u"]),
        "kernel": (["mount", "-o", f"ro,loop,offset={offset}", raw], ["umount"]),
    }
    if shutil.which("guestmount"):
        contestants["guestmount"] = (["guestmount", "--ro", "-i", "-a", qcow2], ["guestunmount"])
    best: dict[str, dict[str, float]] = {}
    for number in range(ROUNDS):
        for name, (argv, unmount) in contestants.items():
            if name == "guestmount" and number:
                continue  # it takes minutes
            with mounted(argv, unmount) as directory:
                found = measure(directory, ("",) if name == "guestmount" else ("", ", again"))
            known = best.setdefault(name, found)
            best[name] = {command: min(seconds, known[command]) for command, seconds in found.items()}
    print(f"files of {Path(qcow2).name} through a mount; each contestant's time, and in times of guestctl's")
    for command, ours in best["guestctl"].items():
        others = (
            f"{name} {found[command]:8.3f} s {found[command] / ours:6.2f} x"
            for name, found in best.items()
            if command in found
        )
        print(f"  {command:<24} {'   '.join(others)}")


main(*sys.argv[1:])
