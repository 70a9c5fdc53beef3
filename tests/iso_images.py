"""What trees of files hold, and what other tools read from images of them: to be compared."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., str]
Facts = dict[str, tuple[Any, ...]]


def make(run: Run, image: Path, command: str, *sources: Path) -> Path:
    """An image by a program that takes arguments as mkisofs."""
    program, *arguments = command.split()
    run(program, "--version" if program == "genisoimage" else "-version")
    done = subprocess.run([program, *arguments, "-o", image, *sources], capture_output=True)
    assert done.returncode == 0, done.stderr
    return image


def facts_of_tree(top: Path) -> Facts:
    """By path: st_mode, owners and whole seconds; of what is no directory also links and size; target or hash."""
    found: Facts = {}
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files, "."):
            path = os.path.normpath(os.path.join(folder, name))
            status = os.lstat(path)
            digest = None
            if stat.S_ISREG(status.st_mode):
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                digest = os.readlink(path)
            found[path[len(str(top)) :] or "/"] = (*facts(status), digest)
    return found


def facts(status: Any) -> tuple[Any, ...]:
    own = () if stat.S_ISDIR(status.st_mode) else (status.st_nlink, status.st_size, status.st_rdev)
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns // 10**9, own


def facts_of_bsdtar(image: Path, run: Run) -> dict[str, tuple[int, str | None]]:
    """By path: seconds, and the hash of files that are no further links, as libarchive reads them."""
    options = ",".join(f"mtree:{word}" for word in ("!all", "type", "size", "sha256", "time", "link"))
    run("bsdtar", "--version")
    argv = ["bsdtar", "-cf", "-", "--format=mtree", "--options", options, f"@{image}"]
    done = subprocess.run(argv, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    found = {}
    for line in done.stdout.splitlines()[1:]:
        name, *words = line.split(b" ")
        name = re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match[1], 8),)), name)
        values = dict(word.split(b"=", 1) for word in words)
        is_first = values[b"type"] == b"file" and values[b"size"] != b"0"
        digest = values[b"sha256digest"].decode() if is_first else None
        found[os.fsdecode(name).removeprefix(".") or "/"] = (int(float(values[b"time"])), digest)
    return found
