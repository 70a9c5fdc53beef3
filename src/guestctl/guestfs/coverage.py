"""The table of libguestfs's calls: ``python -m guestctl.guestfs.coverage`` prints it as the documentation has it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.guestfs import GuestFS
from guestctl.guestfs.refused import REFUSED

_OURS = ("last_errno", "last_error")  # of libguestfs's C interface, and not of its Python binding
_COMPRESSIONS = "gzip, bzip2, xz"
_MAGIC = "needs the package python-magic"
_PARTLY = {
    "add_domain": "needs the package libvirt-python",
    "add_drive": "local files; other protocols are refused",
    "add_drive_opts": "local files; other protocols are refused",
    "blkid": "who it is and where its partition lies",
    "compress_device_out": _COMPRESSIONS,
    "compress_out": _COMPRESSIONS,
    "download_blocks": "ext2, ext3, ext4",
    "download_inode": "files that are there",
    "file": _MAGIC,
    "filesystem_walk": "files that are there",
    "find_inode": "files that are there",
    **dict.fromkeys(("egrep", "egrepi", "grep", "grep_opts", "grepi"), "back-references are refused"),
    **dict.fromkeys(("zegrep", "zegrepi", "zgrep", "zgrepi"), "back-references are refused"),
    "hivex_open": "`write` is refused",
    "inspect_get_icon": "always empty",
    "lvs_full": "numbers of kernel devices and percentages, which only a running kernel knows, are -1 and None",
    "md_detail": "without the members, which `md_stat` gives",
    "mkmountpoint": "where no root filesystem is mounted",
    "mount": "read-only",
    "mount_local": "read-only; mounted while `mount_local_run` runs",
    "mount_loop": "read-only",
    "mount_options": "read-only; of the options, `subvol`",
    "mount_vfs": "read-only; of the options, `subvol`",
    "remount": "`rw` is refused",
    "tar_out": f"owners are numbers; {_COMPRESSIONS}",
    "tar_out_opts": f"owners are numbers; {_COMPRESSIONS}",
    "user_cancel": "does nothing: a call ends before it",
    **dict.fromkeys(("yara_destroy", "yara_load", "yara_scan"), "needs the package yara-python"),
    "zfile": _MAGIC,
}


class Row(NamedTuple):
    """What there is of one call."""

    name: str
    state: str  # works, partly, refused
    note: str


def rows() -> Iterator[Row]:
    """Every call, by name."""
    for name, _ in inspect.getmembers(GuestFS, callable):
        if name.startswith("_") or name in _OURS:
            continue
        if name in REFUSED:
            yield Row(name, "refused", f"it {REFUSED[name]}")
        else:
            yield Row(name, "partly" if name in _PARTLY else "works", _PARTLY.get(name, ""))


def as_markdown() -> str:
    """The rows as a table."""
    lines = [f"| `{row.name}` | {row.state} | {row.note} |" for row in rows()]
    return "\n".join(("| call | | |", "|---|---|---|", *lines)) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
