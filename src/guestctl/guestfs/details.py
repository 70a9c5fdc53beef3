"""Calls for one kind of filesystem: Btrfs, NTFS."""

from __future__ import annotations

import errno
from typing import Any

from guestctl.disk.filesystem import FileSystem
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.downloads import Downloads

_TOP_LEVEL = 5  # the id of the subvolume that holds all others


class Details(Downloads):
    """``btrfs_…`` and ``ntfs_…``, as far as they read."""

    @launched
    def btrfs_subvolume_list(self, fs: str) -> list[dict[str, Any]]:
        """The subvolumes of the Btrfs that is mounted at, or on the device, `fs`."""
        return [
            {
                "btrfssubvolume_id": one.id,
                "btrfssubvolume_top_level_id": one.parent_id,
                "btrfssubvolume_path": one.path,
            }
            for one in self._btrfs(fs).subvolumes()
            if one.path is not None
        ]

    @launched
    def btrfs_subvolume_get_default(self, fs: str) -> int:
        """The id of the default subvolume."""
        return self._btrfs(fs).subvolume_id or _TOP_LEVEL

    @launched
    def btrfs_subvolume_show(self, subvolume: str) -> Any:
        """``Name``, ``UUID``, ``Subvolume ID`` and so on of the subvolume that is mounted at a path."""
        filesystem = self._btrfs(subvolume)
        for one in filesystem.subvolumes():
            if one.id == filesystem.subvolume_id:
                return self._hash(
                    {
                        "Name": (one.path or "").rpartition("/")[2],
                        "UUID": one.uuid or "-",
                        "Parent UUID": one.parent_uuid or "-",
                        "Subvolume ID": str(one.id),
                        "Generation": str(one.generation),
                        "Parent ID": str(one.parent_id),
                        "Flags": "readonly" if one.read_only else "-",
                    }
                )
        return self._hash({"Name": "<FS_TREE>", "UUID": filesystem.uuid or "-", "Subvolume ID": str(_TOP_LEVEL)})

    @launched
    def btrfs_filesystem_sync(self, fs: str) -> None:
        """Nothing, for a Btrfs: it is only read."""
        self._btrfs(fs)

    @launched
    def btrfs_filesystem_show(self, device: str) -> list[str]:
        """The devices that a Btrfs lies on."""
        filesystem = self._btrfs(device)
        members = [name for name, one in self._machine.devices.items() if any(one is m for m in filesystem.members)]
        return members or [self._name(device)]

    def _btrfs(self, fs: str) -> FileSystem[Any]:
        mountable, filesystem = self._mounts[fs] if fs in self._mounts else (fs, self._filesystem(fs))
        if filesystem.type != "btrfs":
            raise GuestFSError(f"{mountable}: not a Btrfs", errno.EINVAL)
        return filesystem

    @launched
    def ntfscat_i(self, device: str, inode: int, filename: str) -> None:
        """Write the content of the file with a record number of the MFT to the host's `filename`."""
        if self._filesystem(device).type != "ntfs":
            raise GuestFSError(f"{device}: not an NTFS", errno.EINVAL)
        self.download_inode(device, inode, filename)

    @launched
    def ntfs_3g_probe(self, rw: bool, device: str) -> int:
        """Whether an NTFS can be mounted, as ntfs-3g.probe(8) says it: 0, 12 for no NTFS, 13 for a damaged one."""
        from guestctl.core.errors import GuestctlError

        identity = self._identity(device)
        if identity is None or identity.type != "ntfs":
            return _NO_NTFS
        try:
            self._filesystem(device)
        except GuestctlError:
            return _DAMAGED_NTFS
        return 0


_NO_NTFS, _DAMAGED_NTFS = 12, 13  # of ntfs-3g.probe(8)
