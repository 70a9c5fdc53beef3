"""``ExfatFileSystem``: what the path operations ask of an exFAT volume."""

from __future__ import annotations

import errno
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Extent, MappedDevice, SliceDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.exfat import layout as L
from guestctl.disk.filesystems.exfat.allocation_table import AllocationTable, ClusterRun
from guestctl.disk.filesystems.exfat.boot_region import BootRegion, check_supported, read_boot_region
from guestctl.disk.filesystems.exfat.directory import Node, decode_name, iter_sets, time_ns
from guestctl.disk.filesystems.exfat.upcase import name_hash, parse_upcase, simple_upcase, table_checksum
from guestctl.disk.stat import PlainStat

_ROOT = Node(0, b"", 0, 0)
_ROOT_INO = 1  # as on Linux
_MAX_CACHED_ENTRIES = 1 << 17
_ZEROS = re.compile("0+")


class _Listing(NamedTuple):
    """What a directory holds: its entries, the first that is damaged, and nodes by their names in upper case."""

    entries: list[tuple[str, Node, int]]
    error: Exception | None
    names: dict[str, Node]
    directory_count: int


class _Table(NamedTuple):
    """An entry of the root directory that leads to a table."""

    checksum: int
    first_cluster: int
    length: int


class ExfatFileSystem(FileSystem[Node]):
    """An exFAT volume."""

    type = "exfat"
    root = _ROOT

    def __init__(self, device: BlockDevice, options: Options) -> None:
        region, damage = read_boot_region(device, verify=not options.ignore_checksums)
        check_supported(region)
        self._device = device
        self._region = region
        self._verify = not options.ignore_checksums
        self._table = AllocationTable(device, region)
        self._listings: dict[int, _Listing] = {}
        self._cached_entries = 0
        self.version = region.version
        self.uuid = region.uuid
        self.size = region.size
        self.block_size = region.cluster_bytes
        root = self._root_entries
        self.label = read_label(root)
        self._bitmap = _find_table(root, L.BITMAP)
        self._upcase_table = _find_table(root, L.UPCASE)
        self.warnings = list(_complaints(region, damage, device.size))

    @cached_property
    def _root_entries(self) -> bytes:
        data = self._content(_ROOT)
        return bytes(data.read(0, data.size))

    # Space

    def usage(self) -> Usage:
        size = self._region.cluster_count * self.block_size
        used = int.from_bytes(self._bits(), "little").bit_count() * self.block_size
        return Usage(size, used, size - used)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        if self.warnings:
            raise UnsupportedFeature("the free clusters of a volume that needs fsck", feature="free blocks")
        count = self._region.cluster_count
        digits = f"{int.from_bytes(self._bits(), 'little'):0{count}b}"[::-1]
        for free in _ZEROS.finditer(digits):
            yield self._region.cluster_offset(L.FIRST_CLUSTER + free.start()), len(free[0]) * self.block_size

    def _bits(self) -> bytes:
        """The allocation bitmap, without what is after the last cluster."""
        count = self._region.cluster_count
        if self._bitmap is None or self._bitmap.length < -(-count // 8):
            raise _bad("no allocation bitmap, or a short one", self._region.cluster_offset(self._region.root_cluster))
        length = -(-count // 8)
        data = bytearray(self._file(self._bitmap.first_cluster, length, length, False).read(0, length))
        if count % 8:
            data[-1] &= (1 << count % 8) - 1
        return bytes(data)

    @cached_property
    def _upcase(self) -> dict[int, int]:
        table = self._upcase_table
        if table is not None and table.length <= L.MAX_UPCASE_BYTES:
            data = bytes(self._file(table.first_cluster, table.length, table.length, False).read(0, table.length))
            if not self._verify or table_checksum(data) == table.checksum:
                return parse_upcase(data)
        self.warnings.append("the up-case table is damaged: names are compared by Unicode's")
        return simple_upcase()

    # Nodes

    def node_stat(self, node: Node) -> PlainStat:
        if node == _ROOT:
            size = len(self._root_entries)
            links = 2 + self._listing_of(node).directory_count
            return PlainStat(_ROOT_INO, stat.S_IFDIR | 0o755, links, size, self._sectors(size), 0, 0, 0)
        if node.stored != node.computed:
            raise ChecksumMismatch(
                structure="directory entry set", offset=node.offset, expected=node.stored, actual=node.computed
            )
        _, _, _, attributes, created, modified, accessed, *more = L.FILE_ENTRY.unpack_from(node.entries)
        created_10ms, modified_10ms, created_utc, modified_utc, accessed_utc = more
        size = L.STREAM_ENTRY.unpack_from(node.entries, L.ENTRY_BYTES)[-1]
        if size >> 63:
            raise _bad(f"DataLength is {size}", node.offset)
        mode, links = stat.S_IFREG | (0o555 if attributes & L.ATTR_READ_ONLY else 0o755), 1
        if attributes & L.ATTR_DIRECTORY:
            mode, links = stat.S_IFDIR | 0o755, 2 + self._listing_of(node).directory_count
        mtime = time_ns(modified, modified_10ms, modified_utc)
        return PlainStat(
            st_ino=node.offset // L.ENTRY_BYTES,
            st_mode=mode,
            st_nlink=links,
            st_size=size,
            st_blocks=self._sectors(size),
            st_atime_ns=time_ns(accessed, 0, accessed_utc),
            st_mtime_ns=mtime,
            st_ctime_ns=mtime,
            st_birthtime_ns=time_ns(created, created_10ms, created_utc),
        )

    def _sectors(self, size: int) -> int:
        return -(-size // self.block_size) * (self.block_size // 512)

    def node_target(self, node: Node) -> str:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # exFAT has no symbolic links

    def node_data(self, node: Node) -> BlockDevice:
        if not stat.S_ISREG(self.node_stat(node).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._content(node)

    def _content(self, node: Node) -> BlockDevice:
        """The bytes of a file or directory."""
        region = self._region
        if node == _ROOT:
            runs = self._table.whole_chain(
                region.root_cluster, min(region.cluster_count, max(1, L.MAX_DIRECTORY_BYTES // region.cluster_bytes))
            )
            size = (runs[-1].position + runs[-1].length) * region.cluster_bytes
            return _ClusterFile(self._device, region, runs, size, size)
        _, flags, _, _, valid, first, size = L.STREAM_ENTRY.unpack_from(node.entries, L.ENTRY_BYTES)
        if valid > size:
            raise _bad(f"ValidDataLength is {valid}, DataLength {size}", node.offset)
        return self._file(first, size, valid, bool(flags & L.NO_FAT_CHAIN))

    def _file(self, first: int, size: int, valid: int, contiguous: bool) -> BlockDevice:
        if not size:
            return SliceDevice(self._device, 0, 0)
        count = -(-size // self.block_size)
        runs = self._table.contiguous(first, count) if contiguous else self._table.chain(first, count)
        return _ClusterFile(self._device, self._region, runs, size, valid)

    # Directories

    def node_entries(self, node: Node) -> Iterator[tuple[str, Node, int]]:
        listing = self._listing_of(node)
        yield from listing.entries
        if listing.error is not None:
            raise listing.error

    def node_lookup(self, node: Node, name: str) -> Node | None:
        listing = self._listing_of(node)
        upcased = name.translate(self._upcase)
        child = listing.names.get(upcased)
        if child is None:
            if listing.error is not None:
                raise listing.error  # it may have been that one
            return None
        stored = L.STREAM_ENTRY.unpack_from(child.entries, L.ENTRY_BYTES)[3]
        computed = name_hash(upcased)
        if self._verify and stored != computed and child.stored == child.computed:
            raise ChecksumMismatch(
                structure="NameHash", offset=child.offset + L.ENTRY_BYTES, expected=stored, actual=computed
            )
        return child

    def _listing_of(self, node: Node) -> _Listing:
        listing = self._listings.get(node.offset)
        if listing is None:
            listing = self._read_directory(node)
            if self._cached_entries > _MAX_CACHED_ENTRIES:
                self._listings.clear()
                self._cached_entries = 0
            self._listings[node.offset] = listing
            self._cached_entries += len(listing.entries)
        return listing

    def _read_directory(self, node: Node) -> _Listing:
        if node != _ROOT and not L.FILE_ENTRY.unpack_from(node.entries)[3] & L.ATTR_DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        content = self._content(node)
        if content.size > L.MAX_DIRECTORY_BYTES:
            raise _bad(f"a directory of {content.size} bytes", node.offset)
        data = bytes(content.read(0, content.size))
        entries: list[tuple[str, Node, int]] = []
        error: Exception | None = None
        for found in iter_sets(data, verify=self._verify):
            if isinstance(found, Exception):
                error = error or found
                continue
            child = Node(self._place(content, found.place), found.entries, found.stored, found.computed)
            is_directory = L.FILE_ENTRY.unpack_from(found.entries)[3] & L.ATTR_DIRECTORY
            entries.append((found.name, child, stat.S_IFDIR if is_directory else stat.S_IFREG))
        names = {name.translate(self._upcase): child for name, child, _ in reversed(entries)}
        return _Listing(entries, error, names, sum(kind == stat.S_IFDIR for _, _, kind in entries))

    @staticmethod
    def _place(content: BlockDevice, offset: int) -> int:
        assert isinstance(content, MappedDevice)
        start, _, _, source_offset = content.extent(offset)
        return source_offset + offset - start


class _ClusterFile(MappedDevice):
    """The first `valid` of `size` bytes in runs of clusters; the rest is zeros."""

    def __init__(self, device: BlockDevice, region: BootRegion, runs: list[ClusterRun], size: int, valid: int) -> None:
        self.size = size
        self._device = device
        self._region = region
        self._cluster_runs = runs
        self._positions = [run.position for run in runs]
        self._valid = valid

    def extent(self, offset: int) -> Extent:
        if offset >= self._valid:
            return Extent(self._valid, self.size - self._valid, None)
        cluster_bytes = self._region.cluster_bytes
        run = self._cluster_runs[bisect_right(self._positions, offset // cluster_bytes) - 1]
        start = run.position * cluster_bytes
        length = min(run.length * cluster_bytes, self._valid - start)
        return Extent(start, length, self._device, self._region.cluster_offset(run.cluster))


def read_label(root: bytes) -> str | None:
    """The volume label among the entries of the root directory."""
    for at in range(0, len(root), L.ENTRY_BYTES):
        if not root[at]:
            break
        if root[at] == L.LABEL:
            length = min(root[at + 1], L.LABEL_UNITS)
            return decode_name(root[at + 2 : at + 2 + 2 * length]) or None
    return None


def _find_table(root: bytes, kind: int) -> _Table | None:
    for at in range(0, len(root), L.ENTRY_BYTES):
        if not root[at]:
            break
        if root[at] == kind:
            _, checksum, first, length = L.TABLE_ENTRY.unpack_from(root, at)
            return _Table(checksum, first, length)
    return None


def _complaints(region: BootRegion, damage: InvalidFormat | None, device_size: int) -> Iterator[str]:
    if damage is not None:
        yield f"the main boot region is damaged, and the backup was used: {damage}"
    if region.flags & L.VOLUME_DIRTY:
        yield "the volume was not unmounted cleanly"
    if region.flags & L.MEDIA_FAILURE:
        yield "a system met disk errors on the volume"
    if region.size > device_size:
        yield f"the volume has {region.size} bytes, its device {device_size}"


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="directory entry set", offset=offset)
