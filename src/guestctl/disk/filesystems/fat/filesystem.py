"""`FatFileSystem`: what the path operations ask of a FAT volume."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, SliceDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.fat.allocation_table import AllocationTable, Chain
from guestctl.disk.filesystems.fat.boot_sector import BootSector
from guestctl.disk.filesystems.fat.directory import find_label, fold, iter_entries
from guestctl.disk.filesystems.fat.entry import DirectoryEntry, parse_entry
from guestctl.disk.filesystems.fat.layout import (
    CLEAN_SHUTDOWN,
    ENTRY_BYTES,
    FIRST_CLUSTER,
    FSINFO,
    FSINFO_LEAD,
    FSINFO_STRUCT,
    MAX_DIRECTORY_BYTES,
    NO_HARD_ERRORS,
)
from guestctl.disk.stat import PlainStat

_ROOT = 0  # no directory entry lies in the boot sector
_ROOT_INO = 1  # as on Linux
_MAX_CACHED_ENTRIES = 1 << 17
_MAX_LABEL_CLUSTERS = 100  # as blkid


class _Listing(NamedTuple):
    entries: list[tuple[str, int, int]]
    names: dict[str, int]  # folded, and as they are
    directory_bytes: int
    subdirectory_count: int


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
        state = self._table.entry(1) if boot.bits != 12 else -1
        if boot.dirty or not state & CLEAN_SHUTDOWN.get(boot.bits, -1):
            yield "the volume was not unmounted cleanly"
        if not state & NO_HARD_ERRORS.get(boot.bits, -1):
            yield "errors were met when the volume was read or written"
        if boot.size > self._device.size:
            yield f"the volume has {boot.size} bytes, its device {self._device.size}"

    def usage(self) -> Usage:
        boot = self._boot
        free = self._fsinfo_free_count()
        if free is None:
            free = self._table.free_count()
        size, available = boot.cluster_count * boot.cluster_bytes, free * boot.cluster_bytes
        return Usage(size, size - available, available)

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

    def node_stat(self, node: int) -> PlainStat:
        if node == _ROOT:
            entry = None
            mode = stat.S_IFDIR | 0o755
        else:
            entry = self._entry(node)
            mode = entry.mode
        if stat.S_ISDIR(mode):
            listing = self._read_directory(node)
            size, links = listing.directory_bytes, 2 + listing.subdirectory_count
        else:
            assert entry is not None
            size, links = entry.size, 1
        modified = entry.modified_ns if entry else 0
        return PlainStat(
            st_ino=node // ENTRY_BYTES or _ROOT_INO,
            st_mode=mode,
            st_nlink=links,
            st_size=size,
            st_blocks=-(-size // self.block_size) * (self.block_size // 512),
            st_atime_ns=entry.accessed_ns if entry else 0,
            st_mtime_ns=modified,
            st_ctime_ns=modified,  # there is none; Linux gives this
            st_birthtime_ns=entry.created_ns if entry else None,
        )

    def node_entries(self, node: int) -> list[tuple[str, int, int]]:
        return self._read_directory(node).entries

    def node_lookup(self, node: int, name: str) -> int | None:
        names = self._read_directory(node).names
        child = names.get(name)
        if child is None:
            child = names.get(fold(name))
        if child is None and "~" in name:  # the short name of a file that has a long one
            folded = fold(name)
            for alias, offset, _ in iter_entries(self._pieces(node), self._codepage, long_names=False):
                if fold(alias) == folded:
                    return offset
        return child

    def node_target(self, node: int) -> str:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # FAT has no symbolic links

    def node_data(self, node: int) -> BlockDevice:
        entry = self._entry(node)
        if not entry.size:
            return SliceDevice(self._device, 0, 0)
        chain = self._table.chain(self._first_cluster(entry, node), -(-entry.size // self.block_size))
        start = self._cluster_offset(chain.clusters[0])
        if len(chain.clusters) == 1 and start + entry.size <= self._device.size:
            return SliceDevice(self._device, start, entry.size)
        return _ClusterFile(self._device, self._boot, chain, entry.size)

    def _entry(self, node: int) -> DirectoryEntry:
        return parse_entry(self._device.read(node, ENTRY_BYTES), self._boot.bits)

    def _first_cluster(self, entry: DirectoryEntry, node: int) -> int:
        if entry.first_cluster not in self._table:
            raise InvalidFormat(
                f"first cluster {entry.first_cluster} is none of the volume's",
                structure="directory entry",
                offset=node,
                actual=entry.first_cluster,
            )
        return entry.first_cluster

    def _cluster_offset(self, cluster: int) -> int:
        return self._boot.data_offset + (cluster - FIRST_CLUSTER) * self.block_size

    # Directories

    def _read_directory(self, node: int) -> _Listing:
        listing = self._listings.get(node)
        if listing is None:
            pieces = self._pieces(node)
            entries = list(iter_entries(pieces, self._codepage))
            names = {fold(name): child for name, child, _ in reversed(entries)}
            names.update((name, child) for name, child, _ in reversed(entries))
            subdirectory_count = sum(kind == stat.S_IFDIR for _, _, kind in entries)
            listing = _Listing(entries, names, sum(len(data) for _, data in pieces), subdirectory_count)
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
        first = boot.root_cluster if node == _ROOT else self._first_cluster(self._entry(node), node)
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
