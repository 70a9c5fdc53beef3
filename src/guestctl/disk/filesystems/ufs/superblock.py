"""The superblock (``struct fs``): sizes, where cylinder groups and inodes lie, and what blkid says of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.ufs import layout as L

_STRUCTURE = "UFS superblock"
_MIN_BLOCK, _MAX_BLOCK = 4096, 65536  # MINBSIZE, MAXBSIZE
_MAX_FRAGMENTS = 8  # MAXFRAG


@dataclass(frozen=True, slots=True)
class Superblock:
    """Sizes in bytes, counts of fragments and inodes; ``order`` is the prefix of struct formats."""

    order: str
    version: int
    offset: int
    block_size: int
    fragment_size: int
    fragments: int
    data_fragments: int
    free_fragments: int
    reserved_percent: int
    groups: int
    inodes_per_group: int
    fragments_per_group: int
    free_inodes: int
    group_block: int  # fragments from the start of a group
    inode_table: int  # likewise
    group_skew: tuple[int, int]  # UFS1: fs_old_cgoffset, fs_old_cgmask
    max_symlink: int
    typed_entries: bool
    clean: bool
    identity: Identity

    @property
    def inode_size(self) -> int:
        return L.UFS1_INODE_BYTES if self.version == 1 else L.UFS2_INODE_BYTES

    @property
    def inodes_count(self) -> int:
        return self.groups * self.inodes_per_group

    def inode_offset(self, ino: int) -> int:
        """Where an inode lies on the device, in bytes."""
        group, index = divmod(ino, self.inodes_per_group)
        return (self.group_start(group) + self.inode_table) * self.fragment_size + index * self.inode_size

    def group_start(self, group: int) -> int:
        """The fragment from which the parts of a cylinder group are counted; UFS1 moves them to spread wear."""
        skew, mask = self.group_skew
        return group * self.fragments_per_group + skew * (group & ~mask)


def find(device: BlockDevice) -> tuple[int, str] | None:
    """(offset, byte order) of the first superblock, by its magic; None where there is none."""
    for offset in L.SUPERBLOCK_OFFSETS:
        if offset + L.SUPERBLOCK_BYTES > device.size:
            continue
        raw = bytes(device.read(offset, L.SUPERBLOCK_BYTES))
        for order in "<>":
            (magic,) = struct.unpack_from(f"{order}I", raw, L.MAGIC_OFFSET)
            # What lies 64 KiB into a UFS1 is its first backup.
            if magic == L.MAGIC_UFS1 and offset != L.SUPERBLOCK_OFFSETS[0]:
                return offset, order
            if magic == L.MAGIC_UFS2 and _fields(raw, order)["sblockloc"] == offset:
                return offset, order
    return None


def _fields(raw: bytes, order: str) -> dict[str, int]:
    return {
        name: struct.unpack_from(f"{order}{form}", raw, offset)[0]
        for name, (offset, form) in L.SUPERBLOCK_FIELDS.items()
    }


def read_superblock(device: BlockDevice) -> Superblock:
    """The superblock of `device`. Raises `InvalidFormat`."""
    found = find(device)
    if found is None:
        raise InvalidFormat("no superblock", structure=_STRUCTURE, offset=L.SUPERBLOCK_OFFSETS[0])
    offset, order = found
    raw = bytes(device.read(offset, L.SUPERBLOCK_BYTES))
    fields = _fields(raw, order)
    identity = parse_identity(raw, order)
    version = int(identity.version or 0)
    _check(fields, version, offset)
    old = "old_" if version == 1 else ""
    frag = fields["frag"]
    return Superblock(
        order=order,
        version=version,
        offset=offset,
        block_size=fields["bsize"],
        fragment_size=fields["fsize"],
        fragments=fields[f"{old}size"],
        data_fragments=fields[f"{old}dsize"],
        free_fragments=fields[f"{old}nbfree"] * frag + fields[f"{old}nffree"],
        reserved_percent=fields["minfree"],
        groups=fields["ncg"],
        inodes_per_group=fields["ipg"],
        fragments_per_group=fields["fpg"],
        free_inodes=fields[f"{old}nifree"],
        group_block=fields["cblkno"],
        inode_table=fields["iblkno"],
        group_skew=(fields["old_cgoffset"], fields["old_cgmask"]) if version == 1 else (0, -1),
        max_symlink=max(0, fields["maxsymlinklen"]),
        typed_entries=version == 2 or fields["old_inodefmt"] >= L.INODE_FORMAT_44,
        clean=bool(fields["clean"]) and not fields["flags"] & L.FLAG_UNCLEAN,
        identity=identity,
    )


def parse_identity(raw: bytes, order: str) -> Identity:
    """What blkid says of a superblock with a magic number in this byte order."""
    fields = _fields(raw, order)
    ufs1 = struct.unpack_from(f"{order}I", raw, L.MAGIC_OFFSET)[0] == L.MAGIC_UFS1
    uuid = f"{fields['id_high']:08x}{fields['id_low']:08x}"
    at, form = L.VOLUME_NAME
    label = bytes(struct.unpack_from(form, raw, at)[0]).partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return Identity(
        "ufs",
        version="1" if ufs1 else "2",
        label=None if ufs1 else label or None,
        uuid=uuid if uuid.strip("0") else None,
    )


def _check(fields: dict[str, int], version: int, offset: int) -> None:
    bsize, fsize, frag = fields["bsize"], fields["fsize"], fields["frag"]
    inode_size = L.UFS1_INODE_BYTES if version == 1 else L.UFS2_INODE_BYTES
    size = fields["old_size" if version == 1 else "size"]
    for bad, message in (
        (bsize & (bsize - 1) or not _MIN_BLOCK <= bsize <= _MAX_BLOCK, f"fs_bsize is {bsize}"),
        (not 512 <= fsize <= bsize or frag > _MAX_FRAGMENTS or fsize * frag != bsize, f"fs_fsize is {fsize}"),
        (fields["nindir"] != bsize // (4 if version == 1 else 8), f"fs_nindir is {fields['nindir']}"),
        (fields["inopb"] != bsize // inode_size, f"fs_inopb is {fields['inopb']}"),
        (not fields["ncg"] or fields["fpg"] <= 0 or not fields["ipg"], "there are no cylinder groups"),
        (not 0 < size <= fields["ncg"] * fields["fpg"], f"fs_size is {size}"),
        (fields["ipg"] % fields["inopb"] if fields["inopb"] else True, f"fs_ipg is {fields['ipg']}"),
        (not 0 <= fields["iblkno"] < fields["fpg"], f"fs_iblkno is {fields['iblkno']}"),
        (not 0 <= fields["cblkno"] < fields["fpg"], f"fs_cblkno is {fields['cblkno']}"),
    ):
        if bad:
            raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
