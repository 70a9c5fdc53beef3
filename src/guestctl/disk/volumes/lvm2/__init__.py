"""LVM2, the Linux volume manager: its text metadata format, which explains itself, and labels of version 001.

=======================================  ====================================================
labels, physical volume headers          read, their checksums verified
metadata areas                           read; of all physical volumes the newest sound copy counts,
                                         also where it wraps around the end of its buffer
linear, striped, raid0, zero             assembled
raid1, raid4, raid5, raid6, raid10       assembled in every layout of LVM2; legs that are stale or being
                                         rebuilt are told by the kernel's superblocks, and not used
mirror                                   assembled from the first leg that is there
thick snapshots                          assembled from their exception store, and their origins
thin volumes and their snapshots         read through the pool's metadata, its checksums verified
caches                                   in writeback mode what is cached is read from the cache
missing physical volumes                 what does not need them is assembled, a warning names the others
vdo, writecache, integrity, reshaped     refused by name, in a warning
RAID
=======================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import Identity
from guestctl.disk.volumes import Assembly, Member, Volume
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.volumes.lvm2.builder import assemble_group
from guestctl.disk.volumes.lvm2.group import VolumeGroup, newest
from guestctl.disk.volumes.lvm2.physical import PhysicalVolume, read_physical_volume, read_uuid


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a physical volume."""
    uuid = read_uuid(device)
    return None if uuid is None else Identity("LVM2_member", "raid", version="LVM2 001", uuid=uuid)


def assemble(members: Sequence[Member], keys: Keys) -> Assembly:
    """The visible logical volumes of every volume group, as ``/dev/VG/LV``."""
    warnings: list[str] = []
    physical: dict[str, PhysicalVolume] = {}
    for name, device in members:
        try:
            found = read_physical_volume(name, device)
        except GuestctlError as error:
            warnings.append(f"{name}: {error}")
            continue
        if found.uuid in physical:
            warnings.append(f"{name}: the same physical volume as {physical[found.uuid].name}, and not used")
        else:
            physical[found.uuid] = found
    groups: dict[str, VolumeGroup] = {}
    for group in newest(physical.values(), warnings):
        if group.name in groups:
            warnings.append(f"two volume groups are called {group.name}; that of {group.uuid} is not assembled")
        else:
            groups[group.name] = group
    volumes: list[Volume] = []
    for group in groups.values():
        volumes += assemble_group(group, physical, warnings)
    return Assembly(volumes, warnings)
