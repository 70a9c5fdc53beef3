"""The main and backup boot regions (section 3)."""

from __future__ import annotations

from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.exfat import layout as L


class BootRegion(NamedTuple):
    """A boot region in bytes and clusters. Offsets are from the start of the volume."""

    size: int
    sector_bytes: int
    cluster_bytes: int
    cluster_count: int
    fat_offset: int
    heap_offset: int
    root_cluster: int
    serial: int
    revision: tuple[int, int]
    flags: int
    fat_count: int

    @property
    def version(self) -> str:
        return f"{self.revision[0]}.{self.revision[1]}"

    @property
    def uuid(self) -> str | None:
        """The serial number, as blkid writes it."""
        return f"{self.serial >> 16:04X}-{self.serial & 0xFFFF:04X}" if self.serial else None

    def cluster_offset(self, cluster: int) -> int:
        return self.heap_offset + (cluster - L.FIRST_CLUSTER) * self.cluster_bytes


def read_boot_region(device: BlockDevice, *, verify: bool = True) -> tuple[BootRegion, InvalidFormat | None]:
    """The main region; or where that is damaged the backup, and what is wrong with the main one.

    Raises `InvalidFormat` where neither is sound. Where the backup is depends on the size of a sector, which
    may be what is damaged: every size is tried.
    """
    try:
        return _read_region(device, 0, None, verify), None
    except InvalidFormat as error:
        for shift in range(L.MIN_SECTOR_SHIFT, L.MAX_SECTOR_SHIFT + 1):
            try:
                return _read_region(device, L.REGION_SECTORS << shift, shift, True), error
            except InvalidFormat:
                continue
        raise


def _read_region(device: BlockDevice, offset: int, shift: int | None, verify: bool) -> BootRegion:
    region = _parse(device.read(offset, L.BOOT_SECTOR_BYTES), offset)
    if shift is not None and region.sector_bytes != 1 << shift:
        raise _bad(f"sectors of {region.sector_bytes} bytes", offset)
    if verify:
        data = bytes(device.read(offset, L.REGION_SECTORS * region.sector_bytes))
        summed = L.CHECKSUM_SECTOR * region.sector_bytes
        computed = boot_checksum(data[:summed])
        for stored in set(memoryview(data)[summed:].cast("I")):
            if stored != computed:
                raise ChecksumMismatch(structure="boot region", offset=offset, expected=stored, actual=computed)
    return region


def _parse(data: bytes | memoryview, offset: int) -> BootRegion:
    (
        name, length, fat, fat_length, heap, count, root, serial,
        revision, flags, sector_shift, cluster_shift, fat_count, signature,
    ) = L.BOOT_SECTOR.unpack(data)  # fmt: skip
    if name != L.FILE_SYSTEM_NAME or signature != L.BOOT_SIGNATURE:
        raise _bad("no exFAT boot sector", offset)
    if not L.MIN_SECTOR_SHIFT <= sector_shift <= L.MAX_SECTOR_SHIFT:
        raise _bad(f"BytesPerSectorShift is {sector_shift}", offset)
    if sector_shift + cluster_shift > L.MAX_CLUSTER_SHIFT:
        raise _bad(f"SectorsPerClusterShift is {cluster_shift}", offset)
    if fat < 2 * L.REGION_SECTORS or (count + L.FIRST_CLUSTER) * 4 > fat_length << sector_shift:
        raise _bad(f"FatOffset is {fat}, FatLength {fat_length} for {count} clusters", offset)
    if not count or heap < fat + fat_length * fat_count or heap + (count << cluster_shift) > length:
        raise _bad(f"ClusterHeapOffset is {heap}, ClusterCount {count}, VolumeLength {length}", offset)
    if not L.FIRST_CLUSTER <= root < count + L.FIRST_CLUSTER:
        raise _bad(f"FirstClusterOfRootDirectory is {root} of {count}", offset)
    return BootRegion(
        length << sector_shift, 1 << sector_shift, 1 << sector_shift + cluster_shift, count, fat << sector_shift,
        heap << sector_shift, root, serial, (revision >> 8, revision & 0xFF), flags, fat_count,
    )  # fmt: skip


def check_supported(region: BootRegion) -> None:
    """Raise `UnsupportedFeature` for what is not known."""
    if region.revision[0] != 1:
        raise UnsupportedFeature(f"exFAT {region.version} is not known", feature=f"exFAT {region.version}")
    if region.fat_count != 1:
        raise UnsupportedFeature("TexFAT, with two FATs, is not read", feature="TexFAT")


def boot_checksum(data: bytes) -> int:
    """Section 3.4: of the first eleven sectors of a region."""
    total = 0
    kept = bytearray(data)
    for place in reversed(L.UNSUMMED):
        del kept[place]
    for byte in kept:
        total = (total >> 1 | (total & 1) << 31) + byte & 0xFFFFFFFF
    return total


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="boot region", offset=offset)
