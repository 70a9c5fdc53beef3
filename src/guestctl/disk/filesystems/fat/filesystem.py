"""`FatFileSystem`: what the path operations ask of a FAT volume."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, SliceDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.fat.allocation_table import AllocationTable, Chain
from guestctl.disk.filesystems.fat.boot_sector import BootSector
from guestctl.disk.filesystems.fat.directory import find_label, fold, iter_entries
from guestctl.disk.filesystems.fat.entry import EntryStat
from guestctl.disk.filesystems.fat.layout import (
    ATTR_DIRECTORY,
    CLEAN_SHUTDOWN,
    ENTRY_BYTES,
    ENTRY_HEAD,
    FIRST_CLUSTER,
    FSINFO,
    FSINFO_LEAD,
    FSINFO_STRUCT,
    MAX_DIRECTORY_BYTES,
    NO_HARD_ERRORS,
)
from guestctl.disk.stat import FileStat, PlainStat

_ROOT = 0  # no directory entry lies in the boot sector
_ROOT_INO = 1  # as on Linux
_MAX_CACHED_ENTRIES = 1 << 17
_MAX_LABEL_CLUSTERS = 100  # as blkid


class _Listing:
    """What a directory holds."""

    def __init__(self, entries: list[tuple[str, int, int]], directory_bytes: int) -> None:
        self.entries = entries
        self.directory_bytes = directory_bytes
        self.subdirectory_count = sum(kind == stat.S_IFDIR for _, _, kind in entries)

    @cached_property
    def names(self) -> dict[str, int]:
        """Nodes by their names, as they are and folded; of two that are alike the first counts."""
        names = {fold(name): child for name, child, _ in reversed(self.entries)}
        names.update((name, child) for name, child, _ in reversed(self.entries))
        return names


class FatFileSystem(FileSystem[int]):
    """A FAT volume. A node is the byte offset of its directory entry on the device, or 0 for the root."""

    type = "vfat"
    root = _ROOT

    def __init__(self, device: BlockDevice, boot: BootSector, options: Options) -> None:
        if boot.version:
            name = f"FAT32 version {boot.version >> 8}.{boot.version & 0xFF}"
            raise UnsupportedFeature(f"{name} is not known", feature=name)
        self._device = device
        self._boot = boot
        self._codepage = options.codepage
        self._table = AllocationTable(device, boot)
        self._listings: dict[int, _Listing] = {}
        self._cached_entries = 0
        self.version = boot.type
        self.uuid = boot.uuid
        self.label = decode_label(read_label(device, boot), options.codepage)
        self.boot_label = decode_label(boot.label, options.codepage)
        self.size = boot.size
        self.block_size = boot.cluster_bytes
        self.warnings = list(self._complaints())

    def _complaints(self) -> Iterator[str]:
        boot = self._boot
        clean, no_errors = not boot.dirty, True
        if boot.bits != 12:
            state = self._table.entry(1)
            clean = clean and bool(state & CLEAN_SHUTDOWN[boot.bits])
            no_errors = bool(state & NO_HARD_ERRORS[boot.bits])
        if not clean:
            yield "the volume was not unmounted cleanly"
        if not no_errors:
            yield "a system met disk errors on the volume"
        if boot.size > self._device.size:
            yield f"the volume has {boot.size} bytes, its device {self._device.size}"

    def usage(self) -> Usage:
        boot = self._boot
        free = self._fsinfo_free_count()
        if free is None:
            free = self._table.free_count()
        size, available = boot.cluster_count * boot.cluster_bytes, free * boot.cluster_bytes
        return Usage(size, size - available, available)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        if self.warnings:
            raise UnsupportedFeature("the free clusters of a volume that needs fsck", feature="free blocks")
        for first, count in self._table.free_clusters():
            yield self._cluster_offset(first), count * self.block_size

    def _fsinfo_free_count(self) -> int | None:
        """FSI_Free_Count where it can be believed: it is a hint, and stale on a volume not unmounted."""
        fsinfo = read_fsinfo(self._device, self._boot)
        if fsinfo is None or self.warnings:
            return None
        lead, structure, free = fsinfo
        if (lead, structure) != (FSINFO_LEAD, FSINFO_STRUCT) or free > self._boot.cluster_count:
            return None
        return free

    # Nodes

    def node_stat(self, node: int) -> FileStat:
        if node == _ROOT:
            listing = self._read_directory(node)
            size, links = listing.directory_bytes, 2 + listing.subdirectory_count
            return PlainStat(_ROOT_INO, stat.S_IFDIR | 0o755, links, size, self._blocks(size), 0, 0, 0)
        raw = bytes(self._device.read(node, ENTRY_BYTES))
        attributes, _, _, size = ENTRY_HEAD.unpack(raw)
        links = 1
        if attributes & ATTR_DIRECTORY:
            listing = self._read_directory(node)
            size, links = listing.directory_bytes, 2 + listing.subdirectory_count
        return EntryStat(raw, node, attributes, links, size, self._blocks(size))

    def _blocks(self, size: int) -> int:
        return -(-size // self.block_size) * (self.block_size // 512)

    def node_entries(self, node: int) -> list[tuple[str, int, int]]:
        return self._read_directory(node).entries

    def node_lookup(self, node: int, name: str) -> int | None:
        names = self._read_directory(node).names
        child = names.get(name)
        if child is not None:
            return child
        folded = fold(name)
        child = names.get(folded)
        if child is None and "~" in name:  # the short name of a file that has a long one
            for alias, offset, _ in iter_entries(self._pieces(node), self._codepage, long_names=False):
                if fold(alias) == folded:
                    return offset
        return child

    def node_target(self, node: int) -> str:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # FAT has no symbolic links

    def node_data(self, node: int) -> BlockDevice:
        first, size = self._first_cluster(node)
        if not size:
            return SliceDevice(self._device, 0, 0)
        self._check_first(first, node)
        chain = self._table.chain(first, -(-size // self.block_size))
        start = self._cluster_offset(first)
        if len(chain.clusters) == 1 and start + size <= self._device.size:
            return SliceDevice(self._device, start, size)
        return _ClusterFile(self._device, self._boot, chain, size)

    def _first_cluster(self, node: int) -> tuple[int, int]:
        """DIR_FstClus and DIR_FileSize of an entry. FAT12 and FAT16 keep other things in the high half."""
        _, high, low, size = ENTRY_HEAD.unpack(self._device.read(node, ENTRY_BYTES))
        return high << 16 | low if self._boot.bits == 32 else low, size

    def _check_first(self, cluster: int, node: int) -> None:
        if cluster not in self._table:
            raise InvalidFormat(
                f"first cluster {cluster} is none of the volume's",
                structure="directory entry",
                offset=node,
                actual=cluster,
            )

    def _cluster_offset(self, cluster: int) -> int:
        return self._boot.data_offset + (cluster - FIRST_CLUSTER) * self.block_size

    # Directories

    def _read_directory(self, node: int) -> _Listing:
        listing = self._listings.get(node)
        if listing is None:
            pieces = self._pieces(node)
            entries = list(iter_entries(pieces, self._codepage))
            listing = _Listing(entries, sum(len(data) for _, data in pieces))
            if self._cached_entries > _MAX_CACHED_ENTRIES:
                self._listings.clear()
                self._cached_entries = 0
            self._listings[node] = listing
            self._cached_entries += len(entries)
        return listing

    def _pieces(self, node: int) -> list[tuple[int, Buffer]]:
        """The bytes of a directory, in pieces that are contiguous on the device, with their offsets."""
        boot, device = self._boot, self._device
        if node == _ROOT and boot.bits != 32:
            return [(boot.root_offset, device.read(boot.root_offset, boot.root_bytes))]
        if node == _ROOT:
            first = boot.root_cluster
        else:
            first, _ = self._first_cluster(node)
            self._check_first(first, node)
        chain = self._table.whole_chain(first, max(1, MAX_DIRECTORY_BYTES // self.block_size))
        ends = (*chain.positions[1:], chain.cluster_count)
        pieces = []
        for cluster, position, end in zip(chain.clusters, chain.positions, ends, strict=True):
            offset = self._cluster_offset(cluster)
            pieces.append((offset, device.read(offset, (end - position) * self.block_size)))
        return pieces


class _ClusterFile(MappedDevice):
    """A file in several runs of clusters."""

    def __init__(self, device: BlockDevice, boot: BootSector, chain: Chain, size: int) -> None:
        self.size = size
        self.sector_size = device.sector_size
        self._device = device
        self._cluster_bytes = boot.cluster_bytes
        self._data_offset = boot.data_offset - FIRST_CLUSTER * boot.cluster_bytes
        self._clusters = chain.clusters
        self._positions = chain.positions
        self._ends = chain.positions[1:] + array("I", [chain.cluster_count])

    def extent(self, offset: int) -> Extent:
        cluster_bytes = self._cluster_bytes
        index = bisect_right(self._positions, offset // cluster_bytes) - 1
        position = self._positions[index]
        return Extent(
            position * cluster_bytes,
            (self._ends[index] - position) * cluster_bytes,
            self._device,
            self._data_offset + self._clusters[index] * cluster_bytes,
        )


def read_fsinfo(device: BlockDevice, boot: BootSector) -> tuple[bytes, bytes, int] | None:
    """FSI_LeadSig, FSI_StrucSig and FSI_Free_Count, or None where the volume has no FSInfo sector."""
    if not boot.fsinfo_offset or boot.fsinfo_offset + FSINFO.size > device.size:
        return None
    fields: tuple[bytes, bytes, int] = FSINFO.unpack(device.read(boot.fsinfo_offset, FSINFO.size))
    return fields


def read_label(device: BlockDevice, boot: BootSector) -> bytes | None:
    """The volume label in the root directory; None also where that directory is damaged."""
    try:
        if boot.bits != 32:
            return find_label(device.read(boot.root_offset, boot.root_bytes))
        table = AllocationTable(device, boot)
        cluster: int | None = boot.root_cluster
        for _ in range(_MAX_LABEL_CLUSTERS):
            if cluster is None:
                break
            offset = boot.data_offset + (cluster - FIRST_CLUSTER) * boot.cluster_bytes
            label = find_label(device.read(offset, boot.cluster_bytes))
            if label is not None:
                return label
            cluster = table.following(cluster)
    except InvalidFormat:
        pass
    return None


def decode_label(label: bytes | None, codepage: str) -> str | None:
    """The text of a label without the spaces that fill it up; None where nothing is left."""
    if label is None:
        return None
    return label.partition(b"\0")[0].rstrip().decode(codepage, "surrogateescape") or None
