"""``UdfFileSystem``: the one class that others see."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from guestctl.block import BlockDevice
from guestctl.block.bitmap import bit_ranges
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.udf.directory import link_target, parse_identifiers
from guestctl.disk.filesystems.udf.entry import FileEntry
from guestctl.disk.filesystems.udf.partitions import MetadataPartition, PhysicalPartition, VirtualPartition
from guestctl.disk.filesystems.udf.recognition import identify
from guestctl.disk.filesystems.udf.volume import Volume, open_volume
from guestctl.disk.stat import PlainStat

_MAX_DIRECTORY_BYTES = 64 << 20  # some 500,000 files
_MAX_TARGET_BYTES = 64 << 10
_MAX_CACHED_NAMES = 1 << 17
_NO_FREE_COUNT = 0xFFFFFFFF
_BLOCK_BITS = 32


class UdfFileSystem(FileSystem[int]):
    """An open volume; a node is a partition's number and a block in it, in the upper and lower half of a number."""

    type = "udf"

    def __init__(self, device: BlockDevice, volume: Volume, *, verify: bool) -> None:
        identity = identify(device)
        if identity is not None:
            self.version, self.label, self.uuid = identity.version, identity.label, identity.uuid
        descriptor = volume.main_descriptor()
        self.block_size = volume.block_size
        self.size = (descriptor.start + descriptor.blocks) * volume.block_size
        self.root = volume.root[0] << _BLOCK_BITS | volume.root[1]
        self.warnings = volume.warnings
        # What is written once ends where writing did.
        is_virtual = any(isinstance(partition, VirtualPartition) for partition in volume.partitions)
        if volume.integrity is not None and volume.integrity.is_open and not is_virtual:
            self.warnings.append("the volume was not unmounted")
        if self.size > device.size and not is_virtual:
            self.warnings.append(f"the volume has {self.size} bytes, its device {device.size}")
        self._volume = volume
        self._verify = verify
        self._names_of: dict[int, dict[str, int]] = {}
        self._cached_names = 0

    def usage(self) -> Usage:
        volume = self._volume
        size = volume.main_descriptor().blocks * self.block_size
        free = self._free_blocks() * self.block_size
        integrity = volume.integrity
        used = integrity.files + integrity.directories if integrity else 0
        return Usage(size, size - free, free, used + free // self.block_size, used)

    def _free_blocks(self) -> int:
        """As the integrity descriptor has it, or else the bitmap; never more than there are."""
        volume, index = self._volume, self._volume.main_partition
        if isinstance(volume.partitions[index], VirtualPartition):
            return 0
        index = volume.physical(volume.numbers[index])
        free = 0
        if volume.integrity is not None and index < len(volume.integrity.free):
            free = volume.integrity.free[index]
        if free in (0, _NO_FREE_COUNT):
            found = volume.free_bitmap(index)
            parts = found[0].buffers(0, found[0].size) if found else ()
            free = sum(int.from_bytes(part, "little").bit_count() for part in parts)
        return min(free, volume.main_descriptor().blocks)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        volume = self._volume
        if volume.integrity is None or volume.integrity.is_open:
            raise UnsupportedFeature("the free blocks of a volume that was not unmounted", feature="free blocks")
        for index, partition in enumerate(volume.partitions):
            if isinstance(partition, MetadataPartition):
                continue
            found = volume.free_bitmap(index)
            if type(partition) is not PhysicalPartition or found is None:
                raise UnsupportedFeature("the free blocks of this kind of partition", feature="free blocks")
            bitmap, bits = found
            bits = min(bits, partition.size // self.block_size)
            for start, end in bit_ranges(bitmap, bits, "little", is_set=True):
                yield partition.start + start * self.block_size, (end - start) * self.block_size

    # Nodes

    def _entry(self, node: int, kind: int = 0, error: int = 0) -> FileEntry:
        entry = self._volume.entries.read(node >> _BLOCK_BITS, node & 0xFFFFFFFF)
        if kind and stat.S_IFMT(entry.mode) != kind:
            raise OSError(error, os.strerror(error))
        return entry

    def node_stat(self, node: int) -> PlainStat:
        entry = self._entry(node)
        status = entry.status(self._volume.partitions[node >> _BLOCK_BITS].address(node & 0xFFFFFFFF))
        if not status.is_symlink():
            return status
        return replace(status, st_size=len(self._target(entry).encode("utf-8", "surrogateescape")))

    def node_target(self, node: int) -> str:
        return self._target(self._entry(node, stat.S_IFLNK, errno.EINVAL))

    def _target(self, entry: FileEntry) -> str:
        if entry.size > _MAX_TARGET_BYTES:
            raise InvalidFormat(f"a symbolic link of {entry.size} bytes", structure="file entry", offset=entry.offset)
        return link_target(bytes(self._volume.entries.data(entry).read(0, entry.size)), entry.offset)

    def node_data(self, node: int) -> BlockDevice:
        return self._volume.entries.data(self._entry(node, stat.S_IFREG, errno.EINVAL))

    def node_entries(self, node: int) -> Iterator[tuple[str, int, int]]:
        entry = self._entry(node, stat.S_IFDIR, errno.ENOTDIR)
        if entry.size > _MAX_DIRECTORY_BYTES:
            raise InvalidFormat(f"a directory of {entry.size} bytes", structure="file entry", offset=entry.offset)
        data = bytes(self._volume.entries.data(entry).read(0, entry.size))
        for name, partition, block, is_directory in parse_identifiers(data, entry.offset, verify=self._verify):
            yield name, partition << _BLOCK_BITS | block, stat.S_IFDIR if is_directory else 0

    def node_lookup(self, node: int, name: str) -> int | None:
        names = self._names_of.get(node)
        if names is None:
            names = {}
            for found, child, _ in self.node_entries(node):
                names.setdefault(found, child)
            if self._cached_names > _MAX_CACHED_NAMES:
                self._names_of.clear()
                self._cached_names = 0
            self._names_of[node] = names
            self._cached_names += len(names)
        return names.get(name)


def open_filesystem(device: BlockDevice, options: Options = Options()) -> UdfFileSystem:
    """The volume on `device`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    verify = not options.ignore_checksums
    return UdfFileSystem(device, open_volume(device, verify=verify), verify=verify)
