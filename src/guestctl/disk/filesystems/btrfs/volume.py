"""``Volume``: the devices of one Btrfs, its chunks, and the trees that the root tree names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.disk.filesystem import Usage
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import checksum_of
from guestctl.disk.filesystems.btrfs.chunks import Chunk, LogicalSpace, parse_chunk
from guestctl.disk.filesystems.btrfs.superblock import Superblock, TreeRoot, read_superblock
from guestctl.disk.filesystems.btrfs.tree import BlockReader, Key, Tree

_MAX_CHUNKS = 1 << 20


class RootItem(NamedTuple):
    """A ROOT_ITEM: where a tree begins, and of a subvolume what it is."""

    root: TreeRoot
    root_dirid: int
    flags: int
    refs: int
    uuid: bytes
    parent_uuid: bytes


def parse_root_item(data: bytes) -> RootItem:
    if len(data) < L.ROOT_ITEM.size:
        raise InvalidFormat(f"{len(data)} bytes", structure="ROOT_ITEM", offset=0)
    generation, dirid, bytenr, _limit, _used, _snapshot, flags, refs, _drop, _drop_level, level = (
        L.ROOT_ITEM.unpack_from(data)
    )
    own = parent = bytes(16)
    if len(data) >= L.ROOT_ITEM_UUIDS.size:
        generation_v2, uuid, parent_uuid, _ = L.ROOT_ITEM_UUIDS.unpack_from(data)
        # A kernel that does not know the longer item leaves this generation behind, and the UUIDs mean nothing.
        if generation_v2 == generation:
            own, parent = uuid, parent_uuid
    return RootItem(TreeRoot(bytenr, level, generation), dirid, flags, refs, own, parent)


class Volume:
    """What all subvolumes of a filesystem share."""

    def __init__(self, device: BlockDevice, siblings: Sequence[BlockDevice], *, verify: bool) -> None:
        self.warnings: list[str] = []
        self.superblock, devices = _assemble(device, siblings, self.warnings, verify=verify)
        superblock = self.superblock
        checksum = checksum_of(superblock.csum_type)
        assert checksum is not None  # or the superblock would have been refused
        self.checksum = checksum
        self.verify = verify
        self.space = LogicalSpace(devices)
        self.blocks = BlockReader(self.space, superblock, checksum, self.warnings, verify=verify)
        self._read_chunks()
        self._warn_of_missing()
        self.root_tree = Tree(self.blocks, superblock.root)
        self._roots: dict[int, RootItem | None] = {}
        self._trees: dict[int, Tree] = {L.ROOT_TREE: self.root_tree}
        # What the log changes, by subvolume.
        self.changes: dict[int, dict[Key, bytes | None]] = {}

    def _read_chunks(self) -> None:
        superblock = self.superblock
        array, position = superblock.sys_chunk_array, 0
        offset = L.SUPERBLOCK_OFFSETS[0] + L.SYS_CHUNK_ARRAY_AT
        chunks = []
        while position < len(array):
            if position + L.KEY.size > len(array):
                raise InvalidFormat("ends within a key", structure="sys_chunk_array", offset=offset + position)
            _, kind, start = L.KEY.unpack_from(array, position)
            if kind != L.CHUNK_ITEM_KEY:
                raise InvalidFormat(f"a key of type {kind}", structure="sys_chunk_array", offset=offset + position)
            position += L.KEY.size
            chunk, uuids, size = parse_chunk(start, array[position:], offset + position)
            position += size
            chunks.append(chunk)
            self.space.uuids |= uuids
        self.space.add(chunks)
        tree = Tree(self.blocks, superblock.chunk_root)
        found: list[Chunk] = []
        for (objectid, kind, start), data in tree.items((0, 0, 0), (L.MAX_U64, 255, L.MAX_U64)):
            if kind == L.CHUNK_ITEM_KEY and objectid == L.FIRST_FREE_OBJECT:
                chunk, uuids, _ = parse_chunk(start, data, self.space.physical(superblock.chunk_root.bytenr))
                found.append(chunk)
                self.space.uuids |= uuids
                if len(found) > _MAX_CHUNKS:
                    raise InvalidFormat("too many chunks", structure="CHUNK_ITEM", offset=0)
        self.space.add(found)

    def _warn_of_missing(self) -> None:
        missing = self.space.missing()
        if missing:
            self.warnings.append(f"degraded: device {', '.join(map(str, sorted(missing)))} is missing")

    def root(self, tree: int) -> RootItem | None:
        """The ROOT_ITEM of a tree; of several the last is it."""
        if tree not in self._roots:
            found = None
            for _, data in self.root_tree.items((tree, L.ROOT_ITEM_KEY, 0), (tree, L.ROOT_ITEM_KEY, L.MAX_U64)):
                found = parse_root_item(data)
            self._roots[tree] = found
        return self._roots[tree]

    def tree(self, number: int) -> Tree:
        """The tree with this object id. Raises `InvalidFormat` where there is none."""
        try:
            return self._trees[number]
        except KeyError:
            item = self.root(number)
            if item is None:
                raise InvalidFormat(f"tree {number} is not there", structure="ROOT_ITEM", offset=0) from None
            tree = self._trees[number] = Tree(self.blocks, item.root, self.changes.get(number))
            return tree

    def checksum_tree(self) -> Tree | None:
        try:
            return self.tree(L.CSUM_TREE)
        except InvalidFormat:
            return None

    def usage(self) -> Usage:
        """As statvfs of a mount, but for the reserve that the kernel keeps in memory."""
        superblock, space = self.superblock, self.space
        block_group_tree = superblock.compat_ro_flags & L.COMPAT_RO_BLOCK_GROUP_TREE
        groups = self.tree(L.BLOCK_GROUP_TREE if block_group_tree else L.EXTENT_TREE)
        used = free_data = allocated = 0
        share = (1, 1)
        for chunk in space.chunk_list:
            data = groups.get((chunk.start, L.BLOCK_GROUP_ITEM_KEY, chunk.length))
            if data is None or len(data) < L.BLOCK_GROUP_ITEM.size:
                continue
            group_used = min(L.BLOCK_GROUP_ITEM.unpack_from(data)[0], chunk.length)
            stored, content = factor = _statvfs_factor(chunk)
            used += group_used * stored // content
            real, of = chunk.stored_share
            allocated += chunk.length * real // of
            if chunk.type & L.GROUP_DATA:
                share = max(share, factor, key=lambda fraction: fraction[0] / fraction[1])
                free_data += chunk.length - group_used
        stored, content = share
        size = superblock.total_bytes * content // stored
        used = used * content // stored
        available = free_data + max(0, superblock.total_bytes - allocated) * content // stored
        return Usage(size=size, used=min(used, size), available=min(available, size))


def _statvfs_factor(chunk: Chunk) -> tuple[int, int]:
    """The kernel counts parity as if it cost nothing."""
    return (1, 1) if chunk.parity_count else chunk.stored_share


def _assemble(
    device: BlockDevice, siblings: Sequence[BlockDevice], warnings: list[str], *, verify: bool
) -> tuple[Superblock, dict[int, BlockDevice]]:
    """The newest superblock of the devices that belong together, and those devices by devid."""
    best = read_superblock(device, warnings, verify=verify)
    members = {best.devid: (best, device)}
    for sibling in siblings if best.num_devices > 1 else ():
        if sibling is device:
            continue
        try:
            superblock = read_superblock(sibling, [], verify=verify)
        except GuestctlError:
            continue  # not of this filesystem, or not to be used
        known = members.get(superblock.devid)
        if superblock.fsid != best.fsid or (known and known[0].generation >= superblock.generation):
            continue
        members[superblock.devid] = superblock, sibling
    best = max((superblock for superblock, _ in members.values()), key=lambda superblock: superblock.generation)
    for superblock, _ in members.values():
        if superblock.generation < best.generation:
            warnings.append(
                f"device {superblock.devid} is of generation {superblock.generation}, the newest of {best.generation}"
            )
    return best, {devid: member for devid, (_, member) in members.items()}
