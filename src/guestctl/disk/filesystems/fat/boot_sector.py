"""The boot sector of FAT12, FAT16 and FAT32: "Boot Sector and BPB Structure" of fatgen103.

Nothing marks a FAT for certain, so a sector is one where all of its values make sense together.
What makes sense is what blkid and Linux accept; they take for FAT32 whatever has no 16-bit table
size, where fatgen103 goes by the count of clusters alone, and small FAT32 volumes are real.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestctl.block.device import Buffer
from guestctl.disk.filesystems.fat.layout import (
    BOOT_SECTOR_BYTES,
    BOOT_SIGNATURE,
    BOOT_SIGNATURE_ID,
    BPB,
    BPB_FAT32,
    BPB_FAT32_OFFSET,
    ENTRY_BYTES,
    EXT_FLAGS_ACTIVE,
    EXT_FLAGS_NO_MIRROR,
    FAT16_TAIL_OFFSET,
    FAT16_TYPE_OFFSET,
    FAT32_TAIL_OFFSET,
    FAT32_TYPE_OFFSET,
    FIRST_CLUSTER,
    MAX_FAT12_CLUSTERS,
    MAX_FAT16_CLUSTERS,
    MAX_FAT32_CLUSTERS,
    NO_LABEL,
    SIGNATURE,
    SIGNATURE_OFFSET,
    STATE_DIRTY,
    TAIL,
)


@dataclass(frozen=True, slots=True)
class BootSector:
    """A boot sector in bytes and clusters. Offsets are from the start of the volume."""

    bits: int  # of an entry of the allocation table: 12, 16 or 32
    size: int
    sector_bytes: int
    cluster_bytes: int
    cluster_count: int
    fat_offset: int  # of the table in use
    fat_bytes: int
    data_offset: int  # of cluster 2
    root_offset: int  # FAT12 and FAT16
    root_bytes: int
    root_cluster: int  # FAT32
    fsinfo_offset: int  # FAT32; 0: none
    version: int  # FAT32: BPB_FSVer
    volume_id: int  # 0: none
    label: bytes | None
    dirty: bool

    @property
    def type(self) -> str:
        return f"FAT{self.bits}"

    @property
    def uuid(self) -> str | None:
        """The serial number as blkid prints it, which takes 0 for none."""
        return f"{self.volume_id >> 16:04X}-{self.volume_id & 0xFFFF:04X}" if self.volume_id else None


def parse_boot_sector(sector: Buffer) -> BootSector | None:
    """The boot sector in the first 512 bytes of a volume, or None where it is none."""
    if len(sector) < BOOT_SECTOR_BYTES or not _is_marked(sector):
        return None
    bpb = BPB.unpack_from(sector)
    sector_bytes, cluster_sectors, reserved, fat_count, root_entries, sectors16, media, fat_sectors16, sectors32 = bpb
    if not (fat_count and reserved) or (media < 0xF8 and media != 0xF0):
        return None
    if cluster_sectors & (cluster_sectors - 1) or not cluster_sectors or sector_bytes not in (512, 1024, 2048, 4096):
        return None
    fat_sectors32, ext_flags, version, root_cluster, fsinfo_sector, _ = BPB_FAT32.unpack_from(sector, BPB_FAT32_OFFSET)
    fat_sectors = fat_sectors16 or fat_sectors32
    root_sectors = -(-root_entries * ENTRY_BYTES // sector_bytes)
    root_sector = reserved + fat_count * fat_sectors
    clusters = ((sectors16 or sectors32) - root_sector - root_sectors) // cluster_sectors
    bits = _bits(clusters, bool(fat_sectors16))
    if not fat_sectors or clusters < 1 or bits is None:
        return None
    is_fat32 = bits == 32
    active = ext_flags & EXT_FLAGS_ACTIVE if is_fat32 and ext_flags & EXT_FLAGS_NO_MIRROR else 0
    if active >= fat_count:
        active = 0
    fat_bytes = fat_sectors * sector_bytes
    tail_offset = FAT32_TAIL_OFFSET if is_fat32 else FAT16_TAIL_OFFSET
    state, boot_signature, volume_id, label = TAIL.unpack_from(sector, tail_offset)
    has_tail = is_fat32 or boot_signature in (BOOT_SIGNATURE_ID, BOOT_SIGNATURE)
    return BootSector(
        bits=bits,
        size=(sectors16 or sectors32) * sector_bytes,
        sector_bytes=sector_bytes,
        cluster_bytes=cluster_sectors * sector_bytes,
        # as Linux does where the table is too short for the volume
        cluster_count=min(clusters, fat_bytes * 8 // bits - FIRST_CLUSTER),
        fat_offset=reserved * sector_bytes + active * fat_bytes,
        fat_bytes=fat_bytes,
        data_offset=(root_sector + root_sectors) * sector_bytes,
        root_offset=root_sector * sector_bytes,
        root_bytes=root_entries * ENTRY_BYTES,
        root_cluster=root_cluster if is_fat32 else 0,
        fsinfo_offset=fsinfo_sector * sector_bytes if is_fat32 else 0,
        version=version if is_fat32 else 0,
        volume_id=volume_id if has_tail else 0,
        label=label if boot_signature == BOOT_SIGNATURE and label != NO_LABEL else None,
        dirty=has_tail and bool(state & STATE_DIRTY),
    )


def _is_marked(sector: Buffer) -> bool:
    """Whether a word for the type or, with none, the signature is there.

    OS/2 puts a boot sector that looks like FAT before its own filesystems.
    """
    word32 = bytes(sector[FAT32_TYPE_OFFSET : FAT32_TYPE_OFFSET + 8])
    word16 = bytes(sector[FAT16_TYPE_OFFSET : FAT16_TYPE_OFFSET + 8])
    if word32 == b"FAT32   " or word16 in (b"FAT12   ", b"FAT16   ", b"FAT     "):
        return True
    if word32.startswith(b"MSWIN") or word16.startswith(b"MSDOS"):
        return True
    return sector[SIGNATURE_OFFSET:BOOT_SECTOR_BYTES] == SIGNATURE and word16 not in (b"JFS     ", b"HPFS    ")


def _bits(clusters: int, has_size16: bool) -> int | None:
    if not has_size16:
        return 32 if clusters <= MAX_FAT32_CLUSTERS else None
    if clusters <= MAX_FAT12_CLUSTERS:
        return 12
    return 16 if clusters <= MAX_FAT16_CLUSTERS else None
