"""The superblock (chapter "Superblocks"), and the volume that all other structures are read from.

Versions 4 and 5 are read. Refused by name: older versions, version 1 directories, unknown
incompatible features, metadata directories and zoned devices. Unknown read-only compatible
features do not matter to reading. A secondary superblock is never used in place of the primary one.
"""

from __future__ import annotations

from dataclasses import dataclass

from google_crc32c import extend, value

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.xfs import layout as L

_MAX_WARNINGS = 16


@dataclass(frozen=True, slots=True)
class Superblock:
    """What reading needs of the superblock; sizes in bytes, counts as their names say."""

    identity: Identity
    v5: bool
    block_log: int
    sector_size: int
    inode_log: int
    inodes_per_block_log: int
    ag_block_log: int
    ag_blocks: int
    ag_count: int
    blocks_count: int
    directory_block_log: int
    root_inode: int
    log_block: int
    log_blocks: int
    log_v2: bool
    log_sector_size: int
    inode_percent: int
    inode_alignment: int
    inodes_count: int
    free_inodes_count: int
    free_blocks_count: int
    ftype: bool
    ignores_case: bool
    lazy_counters: bool
    needs_repair: bool
    ro_compat: int
    user_uuid: bytes  # which may be changed, and which the log carries
    uuid: bytes  # that metadata carries
    lsn: int

    @property
    def block_size(self) -> int:
        return 1 << self.block_log


class Volume:
    """The device of a filesystem with what all its structures need to know, and what was wrong with them."""

    def __init__(self, device: BlockDevice, superblock: Superblock, *, verify: bool) -> None:
        self.device = device
        self.superblock = superblock
        self.verify = verify and superblock.v5
        self.block_log = superblock.block_log
        self.block_size = superblock.block_size
        self.inode_size = 1 << superblock.inode_log
        self.damaged: set[int] = set()  # offsets of structures that failed their checksums
        self.warnings: list[str] = []
        self._ag_block_log = superblock.ag_block_log
        self._ag_block_mask = (1 << superblock.ag_block_log) - 1
        self._ag_blocks = superblock.ag_blocks
        self._last_ag = superblock.ag_count - 1
        self._last_ag_blocks = superblock.blocks_count - self._last_ag * superblock.ag_blocks

    def ag_blocks(self, number: int) -> int:
        """How many blocks this allocation group has."""
        return self._ag_blocks if number < self._last_ag else self._last_ag_blocks

    def offset(self, block: int, count: int = 1) -> int:
        """Where `count` blocks from an absolute block number lie on the device, in bytes.

        -1 where they are not inside one allocation group, or where only a superblock can be.
        """
        group, inside = block >> self._ag_block_log, block & self._ag_block_mask
        if group < self._last_ag:
            limit = self._ag_blocks
        elif group == self._last_ag:
            limit = self._last_ag_blocks
        else:
            return -1
        if not inside or inside + count > limit:
            return -1
        return (group * self._ag_blocks + inside) << self.block_log

    def mismatch(self, structure: str, offset: int, *, stored: int, computed: int) -> ChecksumMismatch:
        """The error for a checksum that is wrong, counted."""
        error = ChecksumMismatch(structure=structure, offset=offset, expected=computed, actual=stored)
        if offset not in self.damaged:
            self.damaged.add(offset)
            if len(self.damaged) <= _MAX_WARNINGS:
                self.warnings.append(str(error))
        return error

    def check_crc(self, data: bytes, at: int, structure: str, offset: int) -> None:
        """Verify the checksum at `at` of a structure that lies at `offset`."""
        stored = int.from_bytes(data[at : at + 4], "little")
        computed = checksum(data, at)
        if stored != computed:
            raise self.mismatch(structure, offset, stored=stored, computed=computed)

    def check_self(self, data: bytes, where: L.SelfDescription, owner: int | None, structure: str, offset: int) -> None:
        """Verify that a block is what it says: its checksum, its place, its filesystem and, if given, its owner."""
        if not self.verify:
            return
        self.check_crc(data, where.crc, structure, offset)
        if data[where.uuid : where.uuid + 16] != self.superblock.uuid:
            raise InvalidFormat("belongs to another filesystem", structure=structure, offset=offset)
        place = int.from_bytes(data[where.blkno : where.blkno + 8], "big")
        if place != offset >> 9:
            message = f"belongs at sector {place}"
            raise InvalidFormat(message, structure=structure, offset=offset, expected=offset >> 9, actual=place)
        actual = int.from_bytes(data[where.owner : where.owner + 8], "big")
        if owner is not None and actual != owner:
            message = f"belongs to inode {actual}, not {owner}"
            raise InvalidFormat(message, structure=structure, offset=offset, expected=owner, actual=actual)


def checksum(data: bytes, at: int) -> int:
    """The CRC-32C of `data`, the four bytes of the checksum itself taken as zeros."""
    return int(extend(extend(value(data[:at]), bytes(4)), data[at + 4 :]))


def read_superblock(device: BlockDevice, *, verify: bool) -> Superblock:
    """The superblock of `device`. Raises `InvalidFormat`, `ChecksumMismatch`, `UnsupportedFeature`."""
    if device.size < L.SUPERBLOCK_BYTES:
        raise _bad(f"cut off by the end of a device of {device.size} bytes")
    fields = _fields(bytes(device.read(0, L.SUPERBLOCK_BYTES)))
    if fields.sb_magicnum != L.MAGIC:
        raise _bad(f"sb_magicnum is {fields.sb_magicnum!r}", L.MAGIC, fields.sb_magicnum)
    _check_version(fields)
    v5 = fields.sb_versionnum & L.VERSION_MASK == 5
    _check_geometry(fields, v5=v5)
    if v5 and verify:
        if device.size < fields.sb_sectsize:
            raise _bad(f"cut off by the end of a device of {device.size} bytes")
        sector = bytes(device.read(0, fields.sb_sectsize))
        stored, computed = int.from_bytes(fields.sb_crc, "little"), checksum(sector, L.SUPERBLOCK_CRC)
        if stored != computed:
            raise ChecksumMismatch(structure="superblock", offset=0, expected=computed, actual=stored)
    _check_features(fields, v5=v5)
    return _superblock(fields, v5=v5)


def identify(data: bytes) -> Identity | None:
    """What a superblock says, in the words of ``blkid -p``; None where blkid takes it for none."""
    fields = _fields(data)
    if fields.sb_magicnum != L.MAGIC:
        return None
    try:
        _check_geometry(fields, v5=False)
    except InvalidFormat:
        return None
    return _identity(fields)


def _fields(data: bytes) -> L.SuperblockFields:
    return L.SuperblockFields._make(L.SUPERBLOCK.unpack_from(data))


def _identity(fields: L.SuperblockFields) -> Identity:
    label = fields.sb_fname.partition(b"\0")[0].rstrip().decode("utf-8", "surrogateescape")
    digits = fields.sb_uuid.hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return Identity("xfs", label=label or None, uuid=uuid if any(fields.sb_uuid) else None)


def _superblock(fields: L.SuperblockFields, *, v5: bool) -> Superblock:
    features2 = _features2(fields)
    incompat = fields.sb_features_incompat if v5 else 0
    return Superblock(
        identity=_identity(fields),
        v5=v5,
        block_log=fields.sb_blocklog,
        sector_size=fields.sb_sectsize,
        inode_log=fields.sb_inodelog,
        inodes_per_block_log=fields.sb_inopblog,
        ag_block_log=fields.sb_agblklog,
        ag_blocks=fields.sb_agblocks,
        ag_count=fields.sb_agcount,
        blocks_count=fields.sb_dblocks,
        directory_block_log=fields.sb_blocklog + fields.sb_dirblklog,
        root_inode=fields.sb_rootino,
        log_block=fields.sb_logstart,
        log_blocks=fields.sb_logblocks,
        log_v2=bool(fields.sb_versionnum & L.VERSION_LOGV2) or v5,
        log_sector_size=fields.sb_logsectsize,
        inode_percent=fields.sb_imax_pct,
        inode_alignment=fields.sb_inoalignmt,
        inodes_count=fields.sb_icount,
        free_inodes_count=fields.sb_ifree,
        free_blocks_count=fields.sb_fdblocks,
        ftype=bool(incompat & L.INCOMPAT_FTYPE if v5 else features2 & L.VERSION2_FTYPE),
        ignores_case=bool(fields.sb_versionnum & L.VERSION_BORG),
        lazy_counters=v5 or bool(features2 & L.VERSION2_LAZYSBCOUNT),
        needs_repair=bool(incompat & L.INCOMPAT_NEEDSREPAIR),
        ro_compat=fields.sb_features_ro_compat if v5 else 0,
        user_uuid=fields.sb_uuid,
        uuid=fields.sb_meta_uuid if incompat & L.INCOMPAT_META_UUID else fields.sb_uuid,
        lsn=fields.sb_lsn if v5 else 0,
    )


def _features2(fields: L.SuperblockFields) -> int:
    """Some kernels put the field four bytes further on, since they padded the structure before it."""
    if not fields.sb_versionnum & L.VERSION_MOREBITS:
        return 0
    return fields.sb_features2 | fields.sb_bad_features2


def _check_version(fields: L.SuperblockFields) -> None:
    version = fields.sb_versionnum & L.VERSION_MASK
    if version not in (4, 5):
        raise UnsupportedFeature(f"cannot read XFS version {version}", feature=f"version {version}")
    if not fields.sb_versionnum & L.VERSION_DIRV2:
        raise UnsupportedFeature("cannot read XFS with version 1 directories", feature="version 1 directories")
    if fields.sb_versionnum & L.VERSION_SHARED:
        raise UnsupportedFeature("cannot read a shared read-only XFS", feature="shared")


def _check_features(fields: L.SuperblockFields, *, v5: bool) -> None:
    if v5:
        refused = fields.sb_features_incompat & ~L.INCOMPAT_SUPPORTED
        known, word = L.INCOMPAT_NAMES, "incompat"
    else:
        refused = _features2(fields) & ~sum(L.VERSION2_NAMES)
        known, word = L.VERSION2_NAMES, "features2"
    if refused:
        bits = [1 << bit for bit in range(32) if refused >> bit & 1]
        names = ", ".join(known.get(bit, f"{word} {bit:#x}") for bit in bits)
        raise UnsupportedFeature(f"cannot read an XFS filesystem with {names}", feature=names)


def _check_geometry(fields: L.SuperblockFields, *, v5: bool) -> None:
    """Refuse what the kernel refuses to mount, since everything else is located by these numbers."""
    logs = (
        ("sb_blocksize", fields.sb_blocksize, fields.sb_blocklog, L.MIN_BLOCK_LOG, L.MAX_BLOCK_LOG),
        ("sb_sectsize", fields.sb_sectsize, fields.sb_sectlog, L.MIN_SECTOR_LOG, L.MAX_SECTOR_LOG),
        ("sb_inodesize", fields.sb_inodesize, fields.sb_inodelog, L.MIN_INODE_LOG, L.MAX_INODE_LOG),
    )
    for name, size, log, lowest, highest in logs:
        if not lowest <= log <= highest or size != 1 << log:
            raise _bad(f"{name} is {size}, its logarithm {log}", actual=size)
    if v5 and fields.sb_inodelog < L.MIN_V5_INODE_LOG:
        raise _bad(f"sb_inodesize is {fields.sb_inodesize}", actual=fields.sb_inodesize)
    if fields.sb_inopblog != fields.sb_blocklog - fields.sb_inodelog or fields.sb_inopblock != 1 << fields.sb_inopblog:
        raise _bad(f"sb_inopblock is {fields.sb_inopblock}", actual=fields.sb_inopblock)
    if fields.sb_blocklog + fields.sb_dirblklog > L.MAX_DIR_BLOCK_LOG:
        raise _bad(f"sb_dirblklog is {fields.sb_dirblklog}", actual=fields.sb_dirblklog)
    per_group, groups, blocks = fields.sb_agblocks, fields.sb_agcount, fields.sb_dblocks
    if per_group < L.MIN_AG_BLOCKS or fields.sb_agblklog != (per_group - 1).bit_length():
        raise _bad(f"sb_agblocks is {per_group}, sb_agblklog {fields.sb_agblklog}", actual=per_group)
    if not groups or not (groups - 1) * per_group < blocks <= groups * per_group:
        raise _bad(f"{blocks} blocks in {groups} groups of {per_group}", actual=blocks)
    if fields.sb_imax_pct > 100 or fields.sb_inprogress:
        raise _bad(f"sb_imax_pct is {fields.sb_imax_pct}, sb_inprogress {fields.sb_inprogress}")
    if not fields.sb_rootino or fields.sb_rootino >> fields.sb_agblklog + fields.sb_inopblog >= groups:
        raise _bad(f"sb_rootino is {fields.sb_rootino}", actual=fields.sb_rootino)


def _bad(message: str, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="superblock", offset=0, expected=expected, actual=actual)
