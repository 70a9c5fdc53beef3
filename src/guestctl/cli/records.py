"""The attributes of a file as commands print them."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from guestctl.cli.output import fail, time_text
from guestctl.disk.filesystem import WalkError
from guestctl.disk.stat import FileStat


def file_json(path: str, status: FileStat, **more: Any) -> str:
    """One line of JSON: `path`, the type, and the attributes, ``mtime`` in seconds with nanoseconds."""
    # Composed by hand since a float has no room for today's date with nanoseconds.
    return (
        f'{{"path": {json.dumps(path)}, "type": "{file_type(status.st_mode)}", "mode": {status.st_mode}, '
        f'"uid": {status.st_uid}, "gid": {status.st_gid}, "size": {status.st_size}, '
        f'"mtime": {decimal_seconds(status.st_mtime_ns)}, "nlink": {status.st_nlink}, "ino": {status.st_ino}'
        + "".join(f', "{key}": {value if isinstance(value, str) else json.dumps(value)}' for key, value in more.items())
        + "}"
    )


def decimal_seconds(nanoseconds: int) -> str:
    """Nanoseconds as a decimal number of seconds with nine places."""
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:09d}"


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def file_type(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), "unknown")


def long_line(status: FileStat) -> str:
    """The columns of ``ls -ln`` before the name."""
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        size = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    else:
        size = str(status.st_size)
    mode = stat.filemode(status.st_mode)
    time = time_text(status.st_mtime_ns)[:19]
    return f"{mode} {status.st_nlink:>3} {status.st_uid:>5} {status.st_gid:>5} {size:>11} {time}"


class FailureCount:
    """Says what could not be read on a walk, and remembers that there was something."""

    def __init__(self) -> None:
        self.exit_status = 0

    def __call__(self, failure: WalkError) -> None:
        self.exit_status = 1
        fail(f"{failure.path}: {failure.error}")
