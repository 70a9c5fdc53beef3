"""``part_…``: the partition tables of disks."""

from __future__ import annotations

import errno
import re
from typing import Any

from guestctl.disk.partition import Partition, PartitionTable
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

_EFI_SYSTEM = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_FIRST_LOGICAL = 5


class Partitions(Handle):
    """Calls with a disk and, but for those of the table, the number of a partition."""

    def _table(self, device: str) -> PartitionTable:
        name = self._name(device)
        table = next((disk.table for disk in self._machine.disks if disk.name == name), None)
        if table is None and name in self._machine.partitioned:
            table = PartitionTable.detect(self._machine.partitioned[name])
        if table is None:
            raise GuestFSError(f"{device}: not a partitioned device", errno.EINVAL)
        return table

    def _numbered(self, device: str, partnum: int, scheme: str | None = None) -> Partition:
        table = self._table(device)
        if scheme is not None and table.type != scheme:
            raise GuestFSError(f"{device}: can only be used on {_SCHEMES[scheme]}", errno.EINVAL)
        for partition in table.partitions:
            if partition.number == partnum:
                return partition
        raise GuestFSError(f"partition number {partnum} not found", errno.EINVAL)

    @launched
    def part_list(self, device: str) -> list[dict[str, Any]]:
        """``part_num``, ``part_start``, ``part_end`` (inclusive) and ``part_size`` of each partition, in bytes."""
        return [
            {
                "part_num": one.number,
                "part_start": one.start,
                "part_end": one.start + one.size - 1,
                "part_size": one.size,
            }
            for one in sorted(self._table(device).partitions, key=lambda one: (one.start, one.number))
        ]

    @launched
    def part_get_parttype(self, device: str) -> str:
        """The kind of table: ``gpt``, ``msdos`` and so on."""
        return self._table(device).type

    @launched
    def part_get_bootable(self, device: str, partnum: int) -> bool:
        """Whether an MBR partition is active, or a GPT one is the EFI system partition, as parted has it."""
        partition = self._numbered(device, partnum)
        return partition.type == _EFI_SYSTEM if self._table(device).type == "gpt" else partition.bootable

    @launched
    def part_get_mbr_id(self, device: str, partnum: int) -> int:
        """The type byte of an MBR partition."""
        return int(self._numbered(device, partnum, "msdos").type, 16)

    @launched
    def part_get_mbr_part_type(self, device: str, partnum: int) -> str:
        """``primary``, ``logical`` or ``extended``."""
        partition = self._numbered(device, partnum)
        if self._table(device).type != "msdos" or (partnum < _FIRST_LOGICAL and not partition.extended):
            return "primary"
        return "logical" if partnum >= _FIRST_LOGICAL else "extended"

    @launched
    def part_get_gpt_type(self, device: str, partnum: int) -> str:
        """The type GUID of a GPT partition, in upper case."""
        return self._numbered(device, partnum, "gpt").type.upper()

    @launched
    def part_get_gpt_guid(self, device: str, partnum: int) -> str:
        """The GUID of a GPT partition, in upper case."""
        return (self._numbered(device, partnum, "gpt").uuid or "").upper()

    @launched
    def part_get_gpt_attributes(self, device: str, partnum: int) -> int:
        """The attribute bits of a GPT partition, as a signed 64-bit number."""
        bits = self._numbered(device, partnum, "gpt").attributes
        return bits - (1 << 64) if bits >> 63 else bits

    @launched
    def part_get_name(self, device: str, partnum: int) -> str:
        """The name of a GPT partition."""
        return self._numbered(device, partnum, "gpt").name or ""

    @launched
    def part_get_disk_guid(self, device: str) -> str:
        """The GUID of a disk with a GPT, in upper case."""
        table = self._table(device)
        if table.type != "gpt":
            raise GuestFSError(f"{device}: can only be used on {_SCHEMES['gpt']}", errno.EINVAL)
        return (table.uuid or "").upper()

    @launched
    def part_to_dev(self, partition: str) -> str:
        """The device that a partition is on."""
        return self._partition_name(partition)[0]

    @launched
    def part_to_partnum(self, partition: str) -> int:
        """The number of a partition."""
        return self._partition_name(partition)[1]

    def _partition_name(self, partition: str) -> tuple[str, int]:
        match = re.fullmatch(r"(/dev/md\d+)p(\d+)|(/dev/(?:sd|vd|hd)[a-z]+)(\d+)", partition)
        if match is None:
            raise GuestFSError("device name is not a partition", errno.EINVAL)
        device = self._name(match[1] or match[3])
        number = int(match[2] or match[4])
        self._numbered(device, number)
        return device, number


_SCHEMES = {"gpt": "GUID Partition Tables", "msdos": "MBR partition tables"}
