"""Mounting devices, subvolumes and disk images in files into the tree that paths are looked up in."""

from __future__ import annotations

import errno
import os
from typing import Any

from guestctl.disk.filesystem import FileSystem
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle, device_of, normal

_BUSY = os.strerror(errno.EBUSY)


class Mounting(Handle):
    """``mount`` and its kin. Whatever is mounted is only read."""

    @launched
    def mount(self, mountable: str, mountpoint: str) -> None:
        """Mount the device or subvolume `mountable` on the directory `mountpoint`."""
        self._mount(self._mountable(mountable), self._filesystem(mountable), mountpoint)

    @launched
    def mount_ro(self, mountable: str, mountpoint: str) -> None:
        """`mount`, read-only."""
        self.mount(mountable, mountpoint)

    @launched
    def mount_options(self, options: str, mountable: str, mountpoint: str) -> None:
        """`mount`; of its options, ``subvol=PATH`` means something here."""
        self.mount_vfs(options, "", mountable, mountpoint)

    @launched
    def mount_vfs(self, options: str, vfstype: str, mountable: str, mountpoint: str) -> None:
        """`mount` of a filesystem of the type `vfstype`, with mount(8)'s options."""
        words = dict(word.partition("=")[::2] for word in options.split(","))
        subvolume = words.get("subvol", "").strip("/")
        filesystem = self._filesystem(mountable)
        if vfstype and filesystem.type not in TYPES.get(vfstype, (vfstype,)):
            raise GuestFSError(f"{mountable}: wrong fs type: it is {filesystem.type}, not {vfstype}", errno.EINVAL)
        if subvolume:
            filesystem = filesystem.open_subvolume(subvolume)
        self._mount(self._mountable(mountable), filesystem, mountpoint)

    @launched
    def mount_loop(self, file: str, mountpoint: str) -> None:
        """Mount the filesystem in a file that is in a mounted filesystem."""
        self._mount("/dev/loop0", FileSystem.detect(self._tree.device(self._path(file))), mountpoint)

    def _mount(self, mountable: str, filesystem: FileSystem[Any], mountpoint: str) -> None:
        where = normal(self._path(mountpoint))
        if where != "/" and not self._tree.is_dir(where):
            raise OSError(errno.ENOENT, "mount point is not a directory", mountpoint)
        if where == "/" and "/" in self._mounts:
            raise OSError(errno.EBUSY, _BUSY, mountpoint)
        self._mounts[where] = (mountable, filesystem)
        self._tree_or_none = None

    @launched
    def remount(self, mountpoint: str, rw: bool | None = None) -> None:
        """Mount read-only, as everything is; ``rw`` is refused with ``NotImplementedError``."""
        if rw:
            raise NotImplementedError("remount: filesystems are only read")
        if normal(self._path(mountpoint)) not in self._mounts:
            raise OSError(errno.EINVAL, "not a mount point", mountpoint)

    @launched
    def umount(self, pathordevice: str, force: bool | None = None, lazyunmount: bool | None = None) -> None:
        """Unmount what is mounted on a directory, or a device wherever it is mounted."""
        if pathordevice.startswith("/dev/") and pathordevice not in self._mounts:
            name = self._name(pathordevice)
            where = next((path for path, (what, _) in reversed(self._mounts.items()) if device_of(what) == name), None)
        else:
            path = normal(self._path(pathordevice))
            where = path if path in self._mounts else None
        if where is None:
            raise OSError(errno.EINVAL, "not mounted", pathordevice)
        if any(path != where and path.startswith(where.rstrip("/") + "/") for path in self._mounts) and not lazyunmount:
            raise OSError(errno.EBUSY, _BUSY, pathordevice)
        del self._mounts[where]
        self._tree_or_none = None

    umount_opts = umount

    @launched
    def umount_all(self) -> None:
        """Unmount everything."""
        self._mounts.clear()
        self._tree_or_none = None

    @launched
    def mounts(self) -> list[str]:
        """The devices that are mounted."""
        return [device_of(what) for what, _ in self._mounts.values()]

    @launched
    def mountpoints(self) -> Any:
        """Device -> directory on which it is mounted."""
        return self._hash({device_of(what): path for path, (what, _) in self._mounts.items()})

    @launched
    def mkmountpoint(self, exemptpath: str) -> None:
        """Make a directory to mount on, where no root filesystem is mounted."""
        path = normal(self._path(exemptpath))
        if "/" in self._mounts:
            raise NotImplementedError("mkmountpoint: a root filesystem is mounted, and it is only read")
        self._mountpoints.make(path)
        self._tree_or_none = None

    @launched
    def rmmountpoint(self, exemptpath: str) -> None:
        """Remove what `mkmountpoint` made."""
        path = normal(self._path(exemptpath))
        if path in self._mounts:
            raise OSError(errno.EBUSY, _BUSY, exemptpath)
        self._mountpoints.remove(path)
        self._tree_or_none = None


# What mount(8) calls types that blkid calls otherwise.
TYPES = {
    "msdos": ("vfat",),
    "fat": ("vfat",),
    "ext3": ("ext2", "ext3"),
    "ext4": ("ext2", "ext3", "ext4"),
    "ntfs-3g": ("ntfs",),
}
