"""The superblock (section "Super Block" of the kernel's ext4 documentation).

Revisions 0 and 1 are read. Refused by name: unknown incompatible features, compression, dirdata,
external journal devices. Unknown compatible and read-only compatible features do not matter to
reading. A backup superblock is never used in place of the primary one.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ext4 import checksums
from guestctl.disk.filesystems.ext4 import layout as L

_MAX_WARNINGS = 16
# What ext2 and ext3 know, by blkid's rules: a filesystem is named after the oldest that can read it.
_EXT2_INCOMPAT = L.INCOMPAT_FILETYPE | L.INCOMPAT_META_BG
_EXT3_INCOMPAT = _EXT2_INCOMPAT | L.INCOMPAT_RECOVER
_EXT3_RO_COMPAT = L.RO_COMPAT_SPARSE_SUPER | L.RO_COMPAT_LARGE_FILE | L.RO_COMPAT_BTREE_DIR


@dataclass(frozen=True, slots=True)
class Superblock:
    """What reading needs of the superblock; sizes in bytes, counts as their names say."""

    identity: Identity
    inodes_count: int
    blocks_count: int
    reserved_blocks_count: int
    clean: bool  # unmounted without errors, so that the two counts below hold
    free_blocks_count: int
    free_inodes_count: int
    first_data_block: int
    block_size: int
    cluster_blocks: int
    blocks_per_group: int
    inodes_per_group: int
    inode_size: int
    desc_size: int
    first_meta_bg: int
    reserved_gdt_blocks: int
    overhead_clusters: int
    backup_groups: tuple[int, int]
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    journal_inode: int
    seed: int  # CRC-32C state that everything with a checksum starts from

    @property
    def groups_count(self) -> int:
        return -(-(self.blocks_count - self.first_data_block) // self.blocks_per_group)

    @property
    def metadata_csum(self) -> bool:
        return bool(self.ro_compat & L.RO_COMPAT_METADATA_CSUM)


class Volume:
    """The device of a filesystem with what all its structures need to know, and what was wrong with them."""

    def __init__(self, device: BlockDevice, superblock: Superblock, *, verify: bool) -> None:
        self.device = device
        self.superblock = superblock
        self.verify = verify
        self.seed = superblock.seed if verify and superblock.metadata_csum else None  # None: nothing to verify
        self.block_size = superblock.block_size
        self.block_shift = superblock.block_size.bit_length() - 1
        self.blocks_count = superblock.blocks_count
        self.damaged: set[int] = set()  # offsets of structures that failed their checksums
        self.warnings: list[str] = []

    def mismatch(self, structure: str, offset: int, *, stored: int, computed: int) -> ChecksumMismatch:
        """The error for a checksum that is wrong, counted."""
        error = ChecksumMismatch(structure=structure, offset=offset, expected=computed, actual=stored)
        self.count(error)
        return error

    def count(self, error: ChecksumMismatch) -> None:
        """Remember a structure that failed its checksum."""
        if error.offset not in self.damaged:
            self.damaged.add(error.offset)
            if len(self.damaged) <= _MAX_WARNINGS:
                self.warnings.append(str(error))

    def read_block(self, block: int, structure: str) -> bytes:
        """The block with this number, which `structure` named; `InvalidFormat` outside the filesystem."""
        if not self.superblock.first_data_block < block < self.blocks_count:
            raise InvalidFormat(
                f"outside the filesystem of {self.blocks_count} blocks",
                structure=structure,
                offset=block << self.block_shift,
            )
        return bytes(self.device.read(block << self.block_shift, self.block_size))


def read_superblock(device: BlockDevice, *, verify: bool) -> Superblock:
    """The superblock of `device`. Raises `InvalidFormat`, `ChecksumMismatch`, `UnsupportedFeature`."""
    data = bytes(device.read(L.SUPERBLOCK_OFFSET, L.SUPERBLOCK_BYTES))
    return parse_superblock(data, verify=verify)


def identify(data: bytes) -> Identity | None:
    """What the 1024 bytes of a superblock say, in the words of ``blkid -p``; None without the magic."""
    fields = L.SuperblockFields._make(L.SUPERBLOCK.unpack(data))
    return _identity(fields) if fields.s_magic == L.MAGIC else None


def _identity(fields: L.SuperblockFields) -> Identity:
    label = fields.s_volume_name.partition(b"\0")[0].rstrip().decode("utf-8", "surrogateescape")
    journal_device = fields.s_feature_incompat & L.INCOMPAT_JOURNAL_DEV
    return Identity(
        type="jbd" if journal_device else _type(fields),
        usage="other" if journal_device else "filesystem",
        version=f"{fields.s_rev_level}.{fields.s_minor_rev_level}",
        label=label or None,
        uuid=_uuid_text(fields.s_uuid) if any(fields.s_uuid) else None,
    )


def _type(fields: L.SuperblockFields) -> str:
    journal = fields.s_feature_compat & L.COMPAT_HAS_JOURNAL
    if fields.s_flags & L.FLAGS_TEST_FILESYS:
        return "ext4dev"
    if not fields.s_feature_ro_compat & ~_EXT3_RO_COMPAT:
        if not journal and not fields.s_feature_incompat & ~_EXT2_INCOMPAT:
            return "ext2"
        if journal and not fields.s_feature_incompat & ~_EXT3_INCOMPAT:
            return "ext3"
    return "ext4"


def _uuid_text(uuid: bytes) -> str:
    digits = uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def parse_superblock(data: bytes, *, verify: bool = True) -> Superblock:
    """Decode and check the 1024 bytes of a superblock."""
    fields = L.SuperblockFields._make(L.SUPERBLOCK.unpack(data))
    if fields.s_magic != L.MAGIC:
        raise _bad(f"s_magic is {fields.s_magic:#x}, expected {L.MAGIC:#x}", L.MAGIC, fields.s_magic)
    if verify and fields.s_feature_ro_compat & L.RO_COMPAT_METADATA_CSUM:
        _check_checksum(fields, data)
    _check_features(fields)
    _check_geometry(fields)
    wide = fields.s_feature_incompat & L.INCOMPAT_64BIT
    bigalloc = fields.s_feature_ro_compat & L.RO_COMPAT_BIGALLOC
    return Superblock(
        identity=_identity(fields),
        inodes_count=fields.s_inodes_count,
        blocks_count=_blocks_count(fields),
        reserved_blocks_count=fields.s_r_blocks_count_lo | (fields.s_r_blocks_count_hi << 32 if wide else 0),
        clean=fields.s_state & (L.STATE_VALID | L.STATE_ERROR) == L.STATE_VALID,
        free_blocks_count=fields.s_free_blocks_count_lo | (fields.s_free_blocks_count_hi << 32 if wide else 0),
        free_inodes_count=fields.s_free_inodes_count,
        first_data_block=fields.s_first_data_block,
        block_size=1024 << fields.s_log_block_size,
        cluster_blocks=1 << (fields.s_log_cluster_size - fields.s_log_block_size) if bigalloc else 1,
        blocks_per_group=fields.s_blocks_per_group,
        inodes_per_group=fields.s_inodes_per_group,
        inode_size=_inode_size(fields),
        desc_size=fields.s_desc_size if wide else L.MIN_DESC_BYTES,
        first_meta_bg=fields.s_first_meta_bg,
        reserved_gdt_blocks=fields.s_reserved_gdt_blocks,
        overhead_clusters=fields.s_overhead_clusters,
        backup_groups=(fields.s_backup_bg_0, fields.s_backup_bg_1),
        compat=fields.s_feature_compat,
        incompat=fields.s_feature_incompat,
        ro_compat=fields.s_feature_ro_compat,
        uuid=fields.s_uuid,
        journal_inode=fields.s_journal_inum,
        seed=(
            checksums.seed_from_field(fields.s_checksum_seed)
            if fields.s_feature_incompat & L.INCOMPAT_CSUM_SEED
            else checksums.seed_from_uuid(fields.s_uuid)
        ),
    )


def _check_checksum(fields: L.SuperblockFields, data: bytes) -> None:
    if fields.s_checksum_type != L.CHECKSUM_CRC32C:
        raise UnsupportedFeature(
            f"ext4 checksum type {fields.s_checksum_type} is unknown", feature=f"checksum type {fields.s_checksum_type}"
        )
    computed = checksums.stored(checksums.crc32c(0, data[: L.SUPERBLOCK_CHECKSUM]))
    if computed != fields.s_checksum:
        raise ChecksumMismatch(
            structure="superblock", offset=L.SUPERBLOCK_OFFSET, expected=computed, actual=fields.s_checksum
        )


def _check_features(fields: L.SuperblockFields) -> None:
    refused = fields.s_feature_incompat & ~L.INCOMPAT_SUPPORTED
    if refused:
        bits = [1 << bit for bit in range(32) if refused >> bit & 1]
        names = ", ".join(L.INCOMPAT_NAMES.get(bit, f"incompat {bit:#x}") for bit in bits)
        raise UnsupportedFeature(f"cannot read an ext4 filesystem with {names}", feature=names)


def _check_geometry(fields: L.SuperblockFields) -> None:
    """Refuse what the kernel refuses to mount, since everything else is located by these numbers."""
    if fields.s_log_block_size > L.MAX_LOG_BLOCK_SIZE:
        raise _bad(f"s_log_block_size is {fields.s_log_block_size}", actual=fields.s_log_block_size)
    block_size = 1024 << fields.s_log_block_size
    inode_size = _inode_size(fields)
    if not L.GOOD_OLD_INODE_BYTES <= inode_size <= block_size or inode_size & (inode_size - 1):
        raise _bad(f"s_inode_size is {inode_size}", actual=inode_size)
    desc_size = fields.s_desc_size
    if fields.s_feature_incompat & L.INCOMPAT_64BIT and (
        not L.MIN_DESC_BYTES_64BIT <= desc_size <= L.MAX_DESC_BYTES or desc_size & (desc_size - 1)
    ):
        raise _bad(f"s_desc_size is {desc_size}", actual=desc_size)
    ratio_bits = 0
    if fields.s_feature_ro_compat & L.RO_COMPAT_BIGALLOC:
        ratio_bits = fields.s_log_cluster_size - fields.s_log_block_size
        if not 0 <= ratio_bits <= L.MAX_CLUSTER_BITS:
            raise _bad(f"s_log_cluster_size is {fields.s_log_cluster_size}", actual=fields.s_log_cluster_size)
    per_group = fields.s_blocks_per_group
    if not 0 < per_group <= block_size * 8 << ratio_bits:
        raise _bad(f"s_blocks_per_group is {per_group}", actual=per_group)
    if not block_size // inode_size <= fields.s_inodes_per_group <= block_size * 8:
        raise _bad(f"s_inodes_per_group is {fields.s_inodes_per_group}", actual=fields.s_inodes_per_group)
    blocks = _blocks_count(fields)
    first = fields.s_first_data_block
    if first > 1 or blocks <= first or blocks >> 48:
        raise _bad(f"{blocks} blocks from block {first}", actual=blocks)
    groups = -(-(blocks - first) // per_group)
    if groups * fields.s_inodes_per_group != fields.s_inodes_count:
        raise _bad(
            f"s_inodes_count is {fields.s_inodes_count}, but {groups} groups of {fields.s_inodes_per_group}",
            groups * fields.s_inodes_per_group,
            fields.s_inodes_count,
        )


def _inode_size(fields: L.SuperblockFields) -> int:
    return L.GOOD_OLD_INODE_BYTES if fields.s_rev_level == L.GOOD_OLD_REV else fields.s_inode_size


def _blocks_count(fields: L.SuperblockFields) -> int:
    wide = fields.s_feature_incompat & L.INCOMPAT_64BIT
    return fields.s_blocks_count_lo | (fields.s_blocks_count_hi << 32 if wide else 0)


def _bad(message: str, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="superblock", offset=L.SUPERBLOCK_OFFSET, expected=expected, actual=actual)
