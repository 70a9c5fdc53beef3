"""``Devices``: disks, their partitions, and the volumes that lie on them, under libguestfs's names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import DetectionError, GuestctlError
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.disk.partition import Partition, PartitionTable
from guestctl.disk.reader import DiskReader
from guestctl.disk.volumes import ROOMS, WITH_UNKNOWN, Assembly, Member, Volume
from guestctl.disk.volumes.keys import Key, Keys

_MAX_VOLUME_LEVELS = 16  # one on the other
_MD_PREFIX = "/dev/md"
# Where the superblock of an array can lie before the end of a member.
_MD_END_BYTES = 128 << 10


class Disk(NamedTuple):
    """A disk of the machine. ``table`` is None where it has no partition table."""

    name: str
    reader: DiskReader
    table: PartitionTable | None


class Devices:
    """Every device that may hold something, by name: disks and partitions in their order, then volumes.

    Those in whose place there are partitions are in ``partitioned``; ``failures`` are why what a device
    holds, or a volume on it, cannot be had.
    """

    def __init__(self, readers: Sequence[DiskReader], keys: Keys, warnings: list[str]) -> None:
        self.disks: list[Disk] = []
        self.by_name: dict[str, BlockDevice] = {}
        self.partitioned: dict[str, BlockDevice] = {}
        self.failures: dict[str, GuestctlError] = {}
        self._warnings = warnings
        self._keys = keys
        self._partitions: dict[str, Partition] = {}
        self._parents: dict[str, tuple[str, ...]] = {}
        self._identities: dict[str, Identity | None] = {}
        self._assembled: dict[str, list[Member]] = {}
        for index, reader in enumerate(readers):
            name = f"/dev/sd{letters(index)}"
            warnings.extend(f"{name}: {warning}" for warning in reader.warnings)
            self.disks.append(Disk(name, reader, self._add(name, name, reader)))
        self._assemble()

    def _add(self, name: str, prefix: str, device: BlockDevice) -> PartitionTable | None:
        """Add a device, or in its place the partitions that its table names."""
        self.by_name[name] = device
        table = self._partition_table(name, device)
        if table is None or not table.partitions:
            return table
        if not self._is_member(name, table):
            self.partitioned[name] = self.by_name.pop(name)
            self._warnings.extend(f"{name}: {warning}" for warning in table.warnings)
            for partition in table.partitions:
                if not partition.extended:
                    part = f"{prefix}{partition.number}"
                    self.by_name[part] = partition.device(device)
                    self._partitions[part] = partition
                    self._parents[part] = (name,)
            return table
        return None

    def _partition_table(self, name: str, device: BlockDevice) -> PartitionTable | None:
        try:
            return PartitionTable.detect(device)
        except GuestctlError as error:
            self._warnings.append(f"{name}: partition table: {error}")
            return None

    def _is_member(self, name: str, table: PartitionTable) -> bool:
        """Whether a whole disk is a member of an array whose content, with this table, begins where the disk does.

        A superblock at the end that a partition covers is that of the partition.
        """
        device = self.by_name[name]
        end = device.size - _MD_END_BYTES
        if any(partition.start + partition.size > end for partition in table.partitions):
            return False
        try:
            return FileSystem.identify(device, "raid") is not None
        except GuestctlError:
            return False  # and the partitions are looked at

    def _assemble(self) -> None:
        """Volumes lie on disks, partitions and other volumes: look again until there is nothing new."""
        warnings: dict[str, Sequence[str]] = {}
        for _ in range(_MAX_VOLUME_LEVELS):
            before = len(self.by_name)
            for type_, room in ROOMS.items():
                members = self._members(type_)
                if members and members != self._assembled.get(type_):
                    self._assembled[type_] = members
                    assembly = _assemble(room, members, self._keys)
                    warnings[type_] = assembly.warnings
                    self.failures.update(assembly.failures)
                    for volume in assembly.volumes:
                        self._add_volume(volume)
            if len(self.by_name) == before:
                break
        for messages in warnings.values():
            self._warnings.extend(message for message in messages if message not in self._warnings)

    def unlock(self, device: str, secret: bytes, name: str) -> None:
        """Open the encrypted `device` as the volume `name`, and assemble what lies on that. As `Machine.unlock`."""
        identity = self.identity(device) if device in self.by_name else None
        if identity is None or identity.usage != "crypto" or identity.type not in ROOMS:
            raise DetectionError(f"{device} is not encrypted in a way that is known")
        members = [Member(device, self.by_name[device])]
        assembly = _assemble(ROOMS[identity.type], members, Keys([Key(device, secret)]))
        for error in assembly.failures.values():
            raise error
        self._add_volume(assembly.volumes[0]._replace(name=name))
        self._assemble()

    def lock(self, name: str) -> None:
        """Take back what `unlock` made."""
        del self.by_name[name], self._parents[name]
        self._identities.pop(name, None)

    def _add_volume(self, volume: Volume) -> None:
        """Add a volume, in the place of what it was with fewer members."""
        old = [name for name, parents in self._parents.items() if volume.name in parents and name in self._partitions]
        for name in (volume.name, *old):
            self.by_name.pop(name, None)
            self.partitioned.pop(name, None)
            self._identities.pop(name, None)
        self._parents[volume.name] = volume.parents
        if volume.name.startswith(_MD_PREFIX):  # the kernel looks for partitions on arrays, and on no other volumes
            self._add(volume.name, f"{volume.name}p", volume.device)
        else:
            self.by_name[volume.name] = volume.device

    def _members(self, type_: str) -> list[Member]:
        """The devices that hold `type_`, and for types whose parts do not show it those in which nothing is known."""
        types = {name: identity.type if (identity := self.identity(name)) else None for name in self.by_name}
        if type_ not in types.values():
            return []
        wanted = (type_, None) if type_ in WITH_UNKNOWN else (type_,)
        return [Member(name, self.by_name[name]) for name, found in types.items() if found in wanted]

    def parents(self, device: str) -> tuple[str, ...]:
        """The devices that `device` lies on: those of a volume, the disk of a partition."""
        return self._parents.get(device, ())

    def partition(self, device: str) -> Partition | None:
        """The partition that `device` is, or None for any other."""
        return self._partitions.get(device)

    def identity(self, device: str) -> Identity | None:
        """What `device` holds; a device that cannot be identified is a warning and None."""
        if device not in self._identities:
            try:
                self._identities[device] = FileSystem.identify(self.by_name[device])
            except GuestctlError as error:
                self._identities[device] = None
                self.failures[device] = error
                self._warnings.append(f"{device}: {error}")
        return self._identities[device]

    def siblings(self, device: str) -> list[BlockDevice]:
        """The other devices with the same identity: members of one filesystem, or copies of it."""
        identity = self.identity(device)
        if identity is None or identity.uuid is None:
            return []
        return [
            other
            for name, other in self.by_name.items()
            if name != device
            and (found := self.identity(name)) is not None
            and (found.type, found.uuid) == (identity.type, identity.uuid)
        ]

    def find(self, spec: str) -> str | None:
        """The device that an fstab or kernel command line names: ``UUID=…``, ``/dev/vda1``, ``/dev/disk/by-…``."""
        key, equals, value = spec.partition("=")
        value = value.strip('"')
        if equals and key in _TAGS:
            return self._find_by(key, value)
        if spec.startswith("/dev/disk/by-"):
            kind, _, value = spec.removeprefix("/dev/disk/by-").partition("/")
            if kind.upper() in _TAGS:
                return self._find_by(kind.upper(), _unescape_udev(value))
            # by-id and by-path name a disk in ways that the image does not record.
            number = value.rpartition("-part")[2]
            return f"/dev/sda{number}" if len(self.disks) == 1 and f"/dev/sda{number}" in self.by_name else None
        if spec in self.by_name:
            return spec
        if spec.startswith("/dev/mapper/"):
            return self._find_mapped(spec.removeprefix("/dev/mapper/"))
        name = _as_sd_name(spec)
        return name if name in self.by_name else None

    def _find_mapped(self, name: str) -> str | None:
        """A logical volume by the name the device mapper gives it: ``VG-LV``, hyphens inside doubled."""
        for device in self._parents:
            group, slash, volume = device.removeprefix("/dev/").partition("/")
            if slash and f"{group.replace('-', '--')}-{volume.replace('-', '--')}" == name:
                return device
        return None

    def _find_by(self, tag: str, value: str) -> str | None:
        for name in self.by_name:
            partition = self._partitions.get(name)
            if tag == "PARTUUID":
                found = partition.uuid if partition else None
            elif tag == "PARTLABEL":
                found = partition.name if partition else None
            else:
                identity = self.identity(name)
                found = (identity.label if tag == "LABEL" else identity.uuid) if identity else None
            if found == value or (tag.endswith("UUID") and found and found.lower() == value.lower()):
                return name
        return None


def _assemble(room: str, members: Sequence[Member], keys: Keys) -> Assembly:
    assembly: Assembly = importlib.import_module(f"guestctl.disk.volumes.{room}").assemble(members, keys)
    return assembly


_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")


def letters(index: int) -> str:
    """What names the disk at `index`: a, b … z, aa, ab …"""
    text = ""
    index += 1
    while index:
        index, remainder = divmod(index - 1, 26)
        text = chr(ord("a") + remainder) + text
    return text


def _as_sd_name(spec: str) -> str | None:
    """``/dev/vda1``, ``/dev/xvda1``, ``/dev/hda1``, ``/dev/nvme0n1p1`` and ``/dev/mmcblk0p1`` as ``/dev/sda1``."""
    import re

    match = re.fullmatch(r"/dev/(?:vd|xvd|hd|sd)([a-z]{1,3})(\d*)", spec)
    if match:
        return f"/dev/sd{match[1]}{match[2]}"
    match = re.fullmatch(r"/dev/(?:nvme(\d{1,3})n1|mmcblk(\d{1,3}))(?:p(\d+))?", spec)
    if match:
        return f"/dev/sd{letters(int(match[1] or match[2]))}{match[3] or ''}"
    return None


def _unescape_udev(name: str) -> str:
    """udev writes characters of a label that are not plain as ``\\x20``."""
    import re

    raw = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), name)
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name
