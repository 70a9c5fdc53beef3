"""Volumes that a guest's kernel assembles from other devices: one room for each manager, and the table that finds them.

A room has ``assemble(members, keys)``, which gives an `Assembly`: it gets every device of the machine
that blkid would say holds its kind of member, and makes what can be made of them. Called again with
more members (volumes can lie on volumes), it answers for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError

# blkid's type of a member -> its room, in the order in which volumes usually lie on each other
ROOMS = {
    "linux_raid_member": "md",
    "crypto_LUKS": "luks",
    "BitLocker": "bitlocker",
    "LVM2_member": "lvm2",
}
# Whose rooms also get the devices in which nothing is known: a header can lie on another device than the data.
WITH_UNKNOWN = ("crypto_LUKS",)


class Member(NamedTuple):
    """A device that holds a part of a volume, or an encrypted one."""

    name: str
    device: BlockDevice


class Volume(NamedTuple):
    """What was assembled. ``name`` is libguestfs's; ``parents`` are the names of the devices it lies on."""

    name: str
    device: BlockDevice
    parents: tuple[str, ...]


class Assembly(NamedTuple):
    """The volumes of one room, and what kept others from being assembled.

    ``failures`` are what whoever asks for the content of a member or volume, by its name, is to be told.
    """

    volumes: Sequence[Volume]
    warnings: Sequence[str] = ()
    failures: Mapping[str, GuestctlError] = MappingProxyType({})
