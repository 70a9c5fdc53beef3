"""The superblock (``struct fs``): sizes, where cylinder groups and inodes lie, and what blkid says of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
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
    inode_table: int  # fragments from the start of a group
    group_skew: tuple[int, int]  # UFS1: fs_old_cgoffset, fs_old_cgmask
    max_symlink: int
    typed_entries: bool
    clean: bool
    label: str | None
    uuid: str | None

    @property
    def inode_size(self) -> int:
        return L.UFS1_INODE_BYTES if self.version == 1 else L.UFS2_INODE_BYTES

    @property
    def inodes_count(self) -> int:
        return self.groups * self.inodes_per_group

    def inode_offset(self, ino: int) -> int:
        """Where an inode lies on the device, in bytes."""
        group, index = divmod(ino, self.inodes_per_group)
        skew, mask = self.group_skew
        start = group * self.fragments_per_group + skew * (group & ~mask)
        return (start + self.inode_table) * self.fragment_size + index * self.inode_size

    @property
    def identity(self) -> Identity:
        return Identity("ufs", version=str(self.version), label=self.label, uuid=self.uuid)


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
    """The superblock of `device`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    found = find(device)
    if found is None:
        raise InvalidFormat("no superblock", structure=_STRUCTURE, offset=L.SUPERBLOCK_OFFSETS[0])
    offset, order = found
    return parse_superblock(bytes(device.read(offset, L.SUPERBLOCK_BYTES)), order, offset)


def parse_superblock(raw: bytes, order: str, offset: int) -> Superblock:
    """The superblock in `raw`, which lies at `offset` and has a magic number in this byte order."""
    fields = _fields(raw, order)
    version = 1 if struct.unpack_from(f"{order}I", raw, L.MAGIC_OFFSET)[0] == L.MAGIC_UFS1 else 2
    _check(fields, version, offset)
    name = bytes(struct.unpack_from("32s", raw, L.SUPERBLOCK_FIELDS["volname"][0])[0]).partition(b"\0")[0]
    identity = f"{fields['id_high']:08x}{fields['id_low']:08x}"
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
        inode_table=fields["iblkno"],
        group_skew=(fields["old_cgoffset"], fields["old_cgmask"]) if version == 1 else (0, -1),
        max_symlink=max(0, fields["maxsymlinklen"]),
        typed_entries=version == 2 or fields["old_inodefmt"] >= L.INODE_FORMAT_44,
        clean=bool(fields["clean"]) and not fields["flags"] & L.FLAG_UNCLEAN,
        label=name.decode("utf-8", "surrogateescape") or None if version == 2 else None,
        uuid=identity if identity.strip("0") else None,
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
    ):
        if bad:
            raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
    if version == 1 and not fields["old_inodefmt"] >= L.INODE_FORMAT_44 and fields["old_inodefmt"] != 0:
        raise UnsupportedFeature(f"fs_old_inodefmt {fields['old_inodefmt']}", feature="UFS inode format")
