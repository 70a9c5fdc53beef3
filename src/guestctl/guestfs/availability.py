"""Which groups of libguestfs's calls are there."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Sequence
from typing import Any

from guestctl.guestfs.calls import GuestFSError, call, launched
from guestctl.guestfs.handle import Handle
from guestctl.guestfs.mounting import TYPES

# The groups in guestfs(3), AVAILABILITY; True for those of which every call that reads is there.
_GROUPS = {
    "acl": True,
    "augeas": False,
    "blkdiscard": False,
    "blkdiscardzeroes": False,
    "btrfs": False,
    "extlinux": False,
    "f2fs": False,
    "fstrim": False,
    "gdisk": True,
    "grub": False,
    "hivex": True,
    "inotify": False,
    "journal": True,
    "ldm": False,
    "libtsk": False,
    "libyara": False,
    "linuxcaps": True,
    "linuxfsuuid": False,
    "linuxmodules": False,
    "linuxxattrs": True,
    "luks": True,
    "lvm2": True,
    "mdadm": True,
    "mknod": False,
    "ntfs3g": False,
    "ntfsprogs": False,
    "realpath": True,
    "rsync": False,
    "scrub": False,
    "selinux": False,
    "selinuxrelabel": False,
    "sleuthkit": False,
    "squashfs": False,
    "syslinux": False,
    "wipefs": False,
    "xfs": True,
    "xz": True,
    "zerofree": False,
}


class Availability(Handle):
    """``available`` and its kin."""

    @launched
    def available(self, groups: Sequence[str]) -> None:
        """Fail unless every group of calls is there, as far as it reads."""
        for group in groups:
            if group not in _GROUPS:
                raise GuestFSError(f"{group}: unknown group", errno.EINVAL)
            if not _GROUPS[group]:
                raise GuestFSError(f"{group}: group not available", errno.ENOTSUP)

    @launched
    def feature_available(self, groups: Sequence[str]) -> bool:
        """Whether every group of calls is there, as far as it reads; an unknown group is an error."""
        for group in groups:
            if group not in _GROUPS:
                raise GuestFSError(f"{group}: unknown group", errno.EINVAL)
        return all(_GROUPS[group] for group in groups)

    @call
    def available_all_groups(self) -> list[str]:
        """All groups that guestfs(3) names."""
        return list(_GROUPS)

    @launched
    def filesystem_available(self, filesystem: str) -> bool:
        """Whether filesystems of a type, in mount(8)'s words, can be read."""
        from guestctl.disk.filesystems import PROBES

        rooms = {probe.module or "" for probe in PROBES} | {probe.type for probe in PROBES if probe.module}
        return bool(rooms.intersection(TYPES.get(filesystem, (filesystem,))))

    @launched
    def utsname(self) -> dict[str, Any]:
        """The host's system: no kernel of our own runs."""
        found = os.uname() if hasattr(os, "uname") else platform.uname()
        words = {"sysname": found[0], "release": found[2], "version": found[3], "machine": found[4]}
        return {f"uts_{key}": value for key, value in words.items()}
