"""Devices: which there are, their names and sizes, and what they hold in blkid's words."""

from __future__ import annotations

import errno
import re
from typing import Any

from guestctl.disk.filesystem import Identity
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import SUBVOLUME_PREFIX, Handle, device_of

_SECTOR_BYTES = 512
_BLOCK_BYTES = 4096  # what the kernel takes for devices without a mounted filesystem
# Partitions that cannot hold a filesystem (GPT type GUIDs): Microsoft reserved, LDM metadata.
_RESERVED = (
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
)


class BlockDevices(Handle):
    """``list_…``, ``blockdev_…``, ``vfs_…`` and ``blkid``."""

    @launched
    def list_devices(self) -> list[str]:
        """The disks."""
        return [disk.name for disk in self._machine.disks]

    @launched
    def list_partitions(self) -> list[str]:
        """The partitions of all disks, extended ones too."""
        return [
            f"{disk.name}{partition.number}"
            for disk in self._machine.disks
            for partition in (disk.table.partitions if disk.table else ())
        ]

    @launched
    def list_filesystems(self) -> Any:
        """Device or subvolume -> type of what it holds: a filesystem's, ``swap``, or ``unknown``."""
        found = {}
        for device in self._machine.devices:
            partition = self._machine.partition(device)
            identity = self._machine.identity(device)
            if (partition and partition.type in _RESERVED) or (identity and identity.usage in ("raid", "crypto")):
                continue
            found[device] = identity.type if identity else "unknown"
            found |= dict.fromkeys(self._subvolumes(device, identity), "btrfs")
        return self._hash(dict(sorted(found.items())))

    def _subvolumes(self, device: str, identity: Identity | None) -> list[str]:
        return list(self._machine.subvolumes(device)) if identity and identity.type == "btrfs" else []

    @launched
    def list_md_devices(self) -> list[str]:
        """The Linux MD arrays."""
        names = {**self._machine.partitioned, **self._machine.devices}
        return [name for name in names if re.fullmatch(r"/dev/md\d+", name)]

    @launched
    def list_dm_devices(self) -> list[str]:
        """The encrypted devices that were opened; logical volumes are in `lvs`."""
        return [name for name in self._machine.devices if name.startswith("/dev/mapper/")]

    @launched
    def list_disk_labels(self) -> Any:
        """Label that ``add_drive`` gave a disk, with a partition's number after it -> device."""
        labels = {}
        for disk, drive in zip(self._machine.disks, self._drives, strict=True):
            if drive.label:
                labels[drive.label] = disk.name
                for partition in disk.table.partitions if disk.table else ():
                    labels[f"{drive.label}{partition.number}"] = f"{disk.name}{partition.number}"
        return self._hash(labels)

    @launched
    def list_ldm_volumes(self) -> list[str]:
        """None: Windows dynamic disks are not assembled."""
        return []

    list_ldm_partitions = list_ldm_volumes

    @launched
    def nr_devices(self) -> int:
        """How many disks there are."""
        return len(self._machine.disks)

    @launched
    def device_index(self, device: str) -> int:
        """0 for /dev/sda, and so on."""
        letters = re.fullmatch(r"/dev/(?:sd|vd|hd)([a-z]{1,3})", device)
        if letters is None:
            raise GuestFSError(f"{device}: device not found", errno.EINVAL)
        index = 0
        for letter in letters[1]:
            index = index * 26 + ord(letter) - ord("a") + 1
        return index - 1

    @launched
    def canonical_device_name(self, device: str) -> str:
        """/dev/vda1 or /dev/hda1 as /dev/sda1, /dev/mapper/VG-LV as /dev/VG/LV; others as they are."""
        if re.match("/dev/mapper/", device):
            return self._machine.find_device(device) or device
        return re.sub("^/dev/[vh]d", "/dev/sd", device)

    @launched
    def is_whole_device(self, device: str) -> bool:
        """Whether it is a disk and no part of one."""
        name = self._name(device)
        return any(disk.name == name for disk in self._machine.disks)

    @launched
    def mountable_device(self, mountable: str) -> str:
        """The device of a device or subvolume."""
        return device_of(mountable)

    @launched
    def mountable_subvolume(self, mountable: str) -> str:
        """The path of a subvolume, without a slash before it."""
        device = device_of(mountable)
        if device == mountable:
            raise GuestFSError("not a btrfs subvolume identifier", errno.EINVAL)
        return mountable.removeprefix(f"{SUBVOLUME_PREFIX}{device}/")

    # Sizes

    @launched
    def blockdev_getsize64(self, device: str) -> int:
        """Size in bytes."""
        return self._device(device).size

    @launched
    def blockdev_getsz(self, device: str) -> int:
        """Size in units of 512 bytes."""
        return self._device(device).size // _SECTOR_BYTES

    @launched
    def blockdev_getss(self, device: str) -> int:
        """Size of a sector in bytes."""
        return self._device(device).sector_size

    @launched
    def blockdev_getbsz(self, device: str) -> int:
        """Size of a block in bytes."""
        return _BLOCK_BYTES if self._device(device) else 0

    @launched
    def blockdev_getro(self, device: str) -> bool:
        """Whether the drive was added read-only."""
        name = self._name(device)
        name = self._machine.parents(name)[0] if self._machine.partition(name) else name
        disks = {disk.name: drive for disk, drive in zip(self._machine.disks, self._drives, strict=True)}
        return name in disks and disks[name].read_only

    @launched
    def blockdev_flushbufs(self, device: str) -> None:
        """Nothing, for a device that there is."""
        self._device(device)

    blockdev_rereadpt = blockdev_flushbufs

    # What a device holds

    @launched
    def vfs_type(self, mountable: str) -> str:
        """The type of what is there; empty where nothing known is."""
        identity = self._identity(device_of(mountable))
        return identity.type if identity else ""

    @launched
    def vfs_label(self, mountable: str) -> str:
        """The label of a filesystem; empty where it has none."""
        identity = self._identity(device_of(mountable))
        return (identity.label or "") if identity else ""

    @launched
    def vfs_uuid(self, mountable: str) -> str:
        """The UUID of a filesystem; empty where it has none."""
        identity = self._identity(device_of(mountable))
        return (identity.uuid or "") if identity else ""

    @launched
    def get_e2label(self, device: str) -> str:
        """`vfs_label`."""
        return self.vfs_label(device)

    @launched
    def get_e2uuid(self, device: str) -> str:
        """`vfs_uuid`."""
        return self.vfs_uuid(device)

    @launched
    def findfs_label(self, label: str) -> str:
        """The device whose filesystem has the label."""
        return self._find_device(f"LABEL={label}")

    @launched
    def findfs_uuid(self, uuid: str) -> str:
        """The device whose filesystem has the UUID."""
        return self._find_device(f"UUID={uuid}")

    def _find_device(self, spec: str) -> str:
        found = self._machine.find_device(spec)
        if found is None:
            raise GuestFSError(f"unable to resolve '{spec}'", errno.ENOENT)
        return found

    @launched
    def blkid(self, device: str) -> Any:
        """What ``blkid -p -i`` says of a device, in its words: the identity, the sector size and the partition."""
        name = self._name(device)
        sector = str(self._device(name).sector_size)
        table = {"DEVNAME": name}
        identity = self._identity(name)
        if identity:
            facts = {"LABEL": identity.label, "UUID": identity.uuid, "VERSION": identity.version}
            facts |= {"TYPE": identity.type, "USAGE": identity.usage}
            table |= {key: value for key, value in facts.items() if value}
        table |= dict.fromkeys(("MINIMUM_IO_SIZE", "PHYSICAL_SECTOR_SIZE", "LOGICAL_SECTOR_SIZE"), sector)
        table |= self._table_facts(name) if name in self._machine.partitioned else self._entry_facts(name)
        return self._hash(table)

    def _table_facts(self, name: str) -> dict[str, str]:
        table = next((disk.table for disk in self._machine.disks if disk.name == name), None)
        if table is None:
            return {}
        return {**({"PTUUID": table.uuid} if table.uuid else {}), "PTTYPE": _SCHEMES.get(table.type, table.type)}

    def _entry_facts(self, name: str) -> dict[str, str]:
        partition = self._machine.partition(name)
        if partition is None:
            return {}
        disk = self._machine.parents(name)[0]
        table = next((one.table for one in self._machine.disks if one.name == disk), None)
        scheme = _SCHEMES.get(table.type, table.type) if table else "unknown"
        units = partition.sector_size // _SECTOR_BYTES
        facts = {
            "PART_ENTRY_SCHEME": scheme,
            "PART_ENTRY_NAME": partition.name,
            "PART_ENTRY_UUID": partition.uuid,
            "PART_ENTRY_TYPE": partition.type,
            "PART_ENTRY_FLAGS": "0x80" if partition.bootable and scheme == "dos" else None,
            "PART_ENTRY_NUMBER": str(partition.number),
            "PART_ENTRY_OFFSET": str(partition.start_lba * units),
            "PART_ENTRY_SIZE": str(partition.size_sectors * units),
            "PART_ENTRY_DISK": f"8:{16 * self.device_index(disk)}" if disk.startswith("/dev/sd") else None,
        }
        if scheme == "gpt" and partition.attributes:
            facts["PART_ENTRY_FLAGS"] = hex(partition.attributes)
        return {key: value for key, value in facts.items() if value}


_SCHEMES = {"msdos": "dos"}
