"""The boot sector ("$Boot"): where everything else is, and the sizes of its units."""

from __future__ import annotations

from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import layout as L

_STRUCTURE = "boot sector"


class BootSector(NamedTuple):
    sector_size: int
    cluster_size: int
    sectors: int
    mft_cluster: int
    mirror_cluster: int
    record_size: int
    serial_number: int

    @property
    def uuid(self) -> str:
        return f"{self.serial_number:016X}"

    @property
    def size(self) -> int:
        return self.sectors * self.sector_size

    @property
    def clusters(self) -> int:
        return self.size // self.cluster_size


def parse_boot_sector(data: bytes) -> BootSector:
    """Raises `InvalidFormat` where the sector is none of NTFS."""
    if data[3 : 3 + len(L.OEM_ID)] != L.OEM_ID:
        raise _bad("the OEM id is not NTFS", 3)
    sector_size, sectors_code, sectors, mft, mirror, record_code, _index_code, serial = L.BOOT_SECTOR.unpack_from(data)
    if sector_size not in L.SECTOR_SIZES:
        raise _bad(f"a sector of {sector_size} bytes", 11)
    # From 0xf4 on it is a power of two, so that clusters of up to 2 MiB can be told.
    sectors_per_cluster = 1 << (256 - sectors_code) if sectors_code > 0xF0 else sectors_code
    cluster_size = sectors_per_cluster * sector_size
    if not sectors_per_cluster or sectors_per_cluster & (sectors_per_cluster - 1):
        raise _bad(f"{sectors_per_cluster} sectors in a cluster", 13)
    if cluster_size > L.MAX_CLUSTER_BYTES:
        raise _bad(f"a cluster of {cluster_size} bytes", 13)
    record_size = record_code * cluster_size if record_code > 0 else 1 << min(31, -record_code)
    if not L.MIN_RECORD_BYTES <= record_size <= L.MAX_RECORD_BYTES or record_size & (record_size - 1):
        raise _bad(f"a file record of {record_size} bytes", 64)
    boot = BootSector(sector_size, cluster_size, sectors, mft, mirror, record_size, serial)
    if not sectors or boot.size >= 1 << 63:
        raise _bad(f"a volume of {sectors} sectors", 40)
    return boot


def read_boot_sector(device: BlockDevice) -> BootSector:
    """The first sector. Raises `InvalidFormat`."""
    if device.size < L.BOOT_SECTOR_BYTES:
        raise _bad(f"a device of {device.size} bytes", 0)
    boot = parse_boot_sector(bytes(device.read(0, L.BOOT_SECTOR_BYTES)))
    if not 0 < boot.mft_cluster < boot.clusters and not 0 < boot.mirror_cluster < boot.clusters:
        raise _bad(f"$MFT at cluster {boot.mft_cluster} of {boot.clusters}", 48)
    return boot


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset)
