"""Logical volumes, MD arrays and encrypted devices."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guestctl.core.errors import GuestctlError
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestctl.disk.volumes.lvm2.group import VolumeGroup
    from guestctl.disk.volumes.lvm2.physical import PhysicalVolume

_CRYPT_TYPES = {"luks": "crypto_LUKS", "luks1": "crypto_LUKS", "luks2": "crypto_LUKS", "bitlk": "BitLocker"}
_MAPPER = "/dev/mapper/"


class Volumes(Handle):
    """``pvs``, ``vgs``, ``lvs``, ``md_…``, ``luks_…`` and ``cryptsetup_…``. All that can be assembled is, always."""

    # LVM2

    def _physical_volumes(self) -> list[PhysicalVolume]:
        """Those that can be read, of each UUID the first."""
        from guestctl.disk.volumes.lvm2.physical import read_physical_volume

        found: dict[str, PhysicalVolume] = {}
        for name in self.pvs():
            try:
                volume = read_physical_volume(name, self._device(name))
            except GuestctlError:
                continue
            found.setdefault(volume.uuid, volume)
        return list(found.values())

    def _groups(self) -> list[VolumeGroup]:
        from guestctl.disk.volumes.lvm2.group import newest

        return sorted(newest(self._physical_volumes(), []), key=lambda group: group.name)

    def _group(self, name: str) -> VolumeGroup:
        found = [group for group in self._groups() if group.name == name]
        if not found:
            raise GuestFSError(f'Volume group "{name}" not found', errno.ENOENT)
        if len(found) > 1:
            raise GuestFSError(f"{name}: Multiple VGs found with the same name", errno.EINVAL)
        return found[0]

    @launched
    def pvs(self) -> list[str]:
        """The devices that are physical volumes."""
        return [found.device for found in self._machine.found() if found.identity and found.identity.type == _LVM]

    @launched
    def vgs(self) -> list[str]:
        """The names of the volume groups."""
        return [group.name for group in self._groups()]

    @launched
    def lvs(self) -> list[str]:
        """The logical volumes, as /dev/VG/LV, but those that LVM2 activates only when it is told to."""
        return self._logical_volumes(skipped=False)

    def _logical_volumes(self, *, skipped: bool = True) -> list[str]:
        return sorted(
            f"/dev/{group.name}/{name}"
            for group in self._groups()
            for name in group.visible()
            if skipped or not group.skips_activation(name)
        )

    @launched
    def is_lv(self, mountable: str) -> bool:
        """Whether it is a logical volume."""
        return self._mountable(mountable) in self._logical_volumes()

    @launched
    def lvm_canonical_lv_name(self, lvname: str) -> str:
        """/dev/VG/LV for /dev/mapper/VG-LV."""
        name = self._name(lvname)
        if name not in self._logical_volumes():
            raise GuestFSError(f"{lvname}: not a logical volume", errno.EINVAL)
        return name

    @launched
    def pvuuid(self, device: str) -> str:
        """The UUID of a physical volume."""
        from guestctl.disk.volumes.lvm2.physical import read_uuid

        uuid = read_uuid(self._device(device))
        if uuid is None:
            raise GuestFSError(f"{device}: not a physical volume", errno.EINVAL)
        return uuid

    @launched
    def vguuid(self, vgname: str) -> str:
        """The UUID of a volume group."""
        return self._group(vgname).uuid

    @launched
    def lvuuid(self, device: str) -> str:
        """The UUID of a logical volume."""
        group, _, volume = self.lvm_canonical_lv_name(device).removeprefix("/dev/").partition("/")
        return self._group(group).logical_uuids[volume]

    @launched
    def vgpvuuids(self, vgname: str) -> list[str]:
        """The UUIDs of the physical volumes of a group."""
        return list(self._group(vgname).physical_uuids.values())

    @launched
    def vglvuuids(self, vgname: str) -> list[str]:
        """The UUIDs of the logical volumes of a group."""
        group = self._group(vgname)
        uuids = group.logical_uuids
        return [uuids[name] for name in group.visible()]

    @launched
    def lvm_scan(self, activate: bool) -> None:
        """Nothing: all volumes are always active."""

    @launched
    def vgscan(self) -> None:
        """Nothing: all volumes are always known."""

    @launched
    def vg_activate(self, activate: bool, volgroups: Sequence[str]) -> None:
        """Nothing for groups that there are: all volumes are always active."""
        for name in volgroups:
            self._group(name)

    @launched
    def vg_activate_all(self, activate: bool) -> None:
        """Nothing: all volumes are always active."""

    @launched
    def lvm_clear_filter(self) -> None:
        """Nothing: all devices are always looked at."""

    # MD

    @launched
    def md_detail(self, md: str) -> Any:
        """``level``, ``devices``, ``metadata``, ``uuid`` and, where it has one, ``name`` of an array."""
        from guestctl.disk.volumes.md.superblock import read_superblock

        found = read_superblock(self._device(self._array_members(md)[0]))
        level = f"raid{found.level}" if found.level >= 0 else "linear"
        table = {"level": level, "devices": str(found.disk_count), "metadata": found.version[:3]}
        table["uuid"] = re.sub("(.{8})(?!$)", r"\1:", found.uuid.replace("-", ""))
        return self._hash({**table, **({"name": found.label} if found.label else {})})

    @launched
    def md_stat(self, md: str) -> list[dict[str, Any]]:
        """``mdstat_device``, ``mdstat_index`` and ``mdstat_flags`` of each member of an array."""
        from guestctl.disk.volumes.md.superblock import read_superblock

        members = []
        for name in self._array_members(md):
            found = read_superblock(self._device(name))
            flags = "W" if found.write_mostly else ""
            members.append({"mdstat_device": name, "mdstat_index": found.number, "mdstat_flags": flags})
        return members

    def _array_members(self, md: str) -> Sequence[str]:
        members = self._machine.parents(self._name(md))
        if not members or not md.startswith("/dev/md"):
            raise GuestFSError(f"{md}: not an MD device", errno.EINVAL)
        return members

    # Encryption

    @launched
    def cryptsetup_open(
        self, device: str, key: str, mapname: str, readonly: bool | None = None, crypttype: str | None = None
    ) -> None:
        """Open a LUKS or BitLocker device as /dev/mapper/MAPNAME, and assemble what lies on it."""
        name = self._name(device)
        identity = self._identity(name)
        if crypttype is not None and (identity is None or _CRYPT_TYPES.get(crypttype) != identity.type):
            raise GuestFSError(f"{device}: not a device of the type {crypttype}", errno.EINVAL)
        if mapname == "control" or "/" in mapname or _MAPPER + mapname in self._machine.devices:
            raise GuestFSError(f"{mapname}: this name cannot be used", errno.EEXIST)
        self._machine.unlock(name, key.encode("utf-8", "surrogateescape"), _MAPPER + mapname)

    @launched
    def luks_open(self, device: str, key: str, mapname: str) -> None:
        """`cryptsetup_open` of a LUKS device."""
        self.cryptsetup_open(device, key, mapname, crypttype="luks")

    luks_open_ro = luks_open

    @launched
    def cryptsetup_close(self, device: str) -> None:
        """Close what `cryptsetup_open` opened."""
        if not device.startswith(_MAPPER) or device not in self._machine.devices:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), device)
        used = any(device in self._machine.parents(name) for name in self._machine.devices)
        if used or any(what == device for what, _ in self._mounts.values()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), device)
        self._machine.lock(device)

    luks_close = cryptsetup_close

    @launched
    def luks_uuid(self, device: str) -> str:
        """The UUID of a LUKS device."""
        identity = self._identity(device)
        if identity is None or identity.type != "crypto_LUKS":
            raise GuestFSError(f"Device {device} is not a valid LUKS device.", errno.EINVAL)
        return identity.uuid or ""


_LVM = "LVM2_member"
