"""MD, the software RAID of Linux: metadata 0.90, 1.0, 1.1 and 1.2 (Documentation/admin-guide/md.rst, md(4)).

=======================================  ====================================================
superblocks                              their checksums verified; 0.90 of both byte orders
linear, RAID0                            assembled, also of members of different sizes, in the
                                         original and the alternate layout
RAID1, RAID4, RAID5, RAID6, RAID10       assembled in every layout of the kernel
missing members                          computed from parity, or read from another copy
stale members, by their event counts     not used, and a warning says so
members being rebuilt or with bad        not used
blocks; spares
an array that was not stopped            assembled; refused where that and missing members
                                         leave parity in doubt
a journal of writes                      assembled where it is empty, else refused by name
reshape, multipath, faulty               refused by name
bitmaps, partial parity logs             not needed to read
=======================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.filesystem import Identity
from guestctl.disk.volumes import Assembly, Member, Volume
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.volumes.md.array import Array, Component
from guestctl.disk.volumes.md.superblock import find_superblock, read_superblock

_FIRST_MINOR = 127


def identify(device: BlockDevice) -> Identity | None:
    """The array that `device` is a member of, as ``blkid -p`` reports it."""
    if find_superblock(device) is None:
        return None
    superblock = read_superblock(device, verify=False)
    return Identity("linux_raid_member", "raid", superblock.version, superblock.label, superblock.uuid)


def assemble(members: Sequence[Member], keys: Keys) -> Assembly:
    """Every array, as ``/dev/md127`` and downwards in the order of their first members.

    An array that cannot be assembled keeps its number, for further members may turn up.
    """
    warnings: list[str] = []
    arrays: dict[str, list[Component]] = {}
    for name, device in members:
        try:
            superblock = read_superblock(device)
        except GuestctlError as error:
            warnings.append(f"{name}: {error}")
            continue
        arrays.setdefault(superblock.uuid, []).append(Component(name, device, superblock))
    volumes = []
    for index, components in enumerate(arrays.values()):
        name = f"/dev/md{_FIRST_MINOR - index}" if index <= _FIRST_MINOR else f"/dev/md{index}"
        array = Array(name, components, warnings)
        try:
            device = array.open(warnings)
        except GuestctlError as error:
            warnings.append(f"{name}: {error}")
            continue
        volumes.append(Volume(name, device, tuple(component.name for component in array.used.values())))
    return Assembly(volumes, warnings)
