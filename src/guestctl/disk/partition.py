"""``PartitionTable``: the partitions of a disk, in whichever scheme it uses.

The schemes are rooms in ``disk/partitions``: each has ``parse(device, sector_size)``, which gives
a `PartitionTable`, or None where the scheme is not there at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from guestctl.block import BlockDevice, SliceDevice
from guestctl.core.errors import DetectionError
from guestctl.disk.partitions import NESTED, SCHEMES


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. LBAs and ``size_sectors`` count logical sectors of ``sector_size`` bytes."""

    number: int  # as the kernel numbers it; logical MBR partitions begin at 5
    start_lba: int
    size_sectors: int
    sector_size: int
    type: str  # GPT: the type GUID in lower case; MBR, BSD, Sun, SGI: the number as "0x83"
    type_name: str | None  # for known types, in words
    name: str | None = None  # GPT, Apple, Amiga; of a disklabel the letter
    uuid: str | None = None  # PARTUUID, as the kernel and blkid print it
    bootable: bool = False  # MBR: active; GPT: legacy BIOS bootable attribute
    attributes: int = 0  # GPT attribute bits
    extended: bool = False  # a container: of logical partitions, or of those that a disklabel in it describes

    @property
    def start(self) -> int:
        """First byte on the disk."""
        return self.start_lba * self.sector_size

    @property
    def size(self) -> int:
        """Bytes, as the table says, even where the disk is shorter."""
        return self.size_sectors * self.sector_size

    def device(self, disk: BlockDevice) -> BlockDevice:
        """The partition's bytes, clipped to the disk."""
        return SliceDevice(disk, self.start, self.size)


def past_the_end(partitions: Iterable[Partition], device: BlockDevice) -> tuple[str, ...]:
    """Warnings of partitions that end after their disk."""
    return tuple(
        f"partition {item.number} ends in LBA {item.start_lba + item.size_sectors - 1}, "
        f"the disk in LBA {device.size // item.sector_size - 1}"
        for item in partitions
        if item.start + item.size > device.size
    )


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The partitions of a disk in the order of their numbers."""

    type: str  # "gpt", "msdos" and so on, libguestfs's words
    sector_size: int
    partitions: tuple[Partition, ...]
    uuid: str | None = None  # GPT disk GUID; MBR disk signature as eight hex digits; DASD volume serial
    warnings: tuple[str, ...] = ()

    @staticmethod
    def detect(device: BlockDevice) -> PartitionTable | None:
        """The table of `device`, or None where it has none. Raises `InvalidFormat` for a broken one."""
        for scheme, sector_size in SCHEMES:
            module = importlib.import_module(f"guestctl.disk.partitions.{scheme}")
            table: PartitionTable | None = module.parse(device, sector_size)
            if table is not None:
                return _with_nested(device, table)
        return None

    @staticmethod
    def parse(device: BlockDevice) -> PartitionTable:
        """The table of `device`; `DetectionError` where it has none."""
        table = PartitionTable.detect(device)
        if table is None:
            raise DetectionError("no partition table")
        return table


_FIRST_NESTED = {"msdos": 5}  # where the primary partitions have numbers of their own


def _with_nested(device: BlockDevice, table: PartitionTable) -> PartitionTable:
    """The table, with the partitions that are described inside of others after all of its own."""
    partitions = list(table.partitions)
    warnings = list(table.warnings)
    first_nested = _FIRST_NESTED.get(table.type, 1)
    for index, outer in enumerate(table.partitions):
        scheme = NESTED.get(outer.type)
        if scheme is None or (table.type == "msdos" and outer.number >= first_nested):
            continue
        module = importlib.import_module(f"guestctl.disk.partitions.{scheme}")
        number = max(partitions[-1].number + 1, first_nested)
        nested = module.parse_nested(device, outer, number, warnings)
        if nested:
            partitions[index] = replace(outer, extended=True)
            partitions += nested
    if warnings == list(table.warnings) and len(partitions) == len(table.partitions):
        return table
    return replace(table, partitions=tuple(partitions), warnings=tuple(warnings))
