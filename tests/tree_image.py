"""A small guest tree on the host, and an ext4 image that mke2fs makes of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

from conftest import Run


def make_tree(top: Path) -> None:
    """Files, links inside the tree, names with dots and without text, an empty directory."""
    for directory in ("etc", "var/log/apt", "var/lib", "usr/bin", "deep/a/b/c/d", "empty", ".hidden/inner"):
        (top / directory).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nbad line\nalice:x:1000:1000::/:\nagain:x:1000:1::/:\n")
    (top / "etc/group").write_text("root:x:0:\nstaff:x:1000:\n")
    (top / "etc/fstab").write_bytes(b"# one\r\n/dev/sda1 / ext4\n\n\xc3\xa4\n")
    (top / "etc/latin").write_bytes(b"caf\xe9\n")
    (top / "var/log/syslog").write_text("line\n" * 3000)
    (top / "var/log/apt/history.log").write_text("x")
    (top / "var/log/data.tar.gz").write_bytes(random.Random(1).randbytes(300_000))
    (top / ".hidden/inner/x.log").write_text("hidden")
    (top / "deep/a/b/c/d/leaf.txt").write_text("leaf")
    (top / "table.csv").write_text("name,number\n" + "".join(f"row {n},{n}\n" for n in range(2000)))
    os.symlink("var/log", top / "log")
    os.symlink("syslog", top / "var/log/current")
    os.symlink("../../etc/fstab", top / "var/log/fstab")
    os.symlink("nothing", top / "broken")
    os.symlink("loop", top / "loop")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"no \xff text")).write_text("bytes")


def make_image(run: Run, top: Path, path: Path) -> None:
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", top, path, "8M")
    run("debugfs", "-w", "-R", "sif /etc/fstab uid 1000", path)
    run("debugfs", "-w", "-R", "sif /etc/fstab gid 1000", path)
    run("debugfs", "-w", "-R", "sif /table.csv uid 4711", path)
