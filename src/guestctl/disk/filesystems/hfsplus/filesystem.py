"""``HfsPlusFileSystem``: the one class that others see."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import cached_property

from guestctl.block import BlockDevice, Overlay
from guestctl.block.bitmap import bit_ranges
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Identity, Options, Usage
from guestctl.disk.filesystems.hfsplus import layout as L
from guestctl.disk.filesystems.hfsplus.attributes import Attributes, attribute_order
from guestctl.disk.filesystems.hfsplus.btree import BTree
from guestctl.disk.filesystems.hfsplus.catalog import Catalog, Record, catalog_order
from guestctl.disk.filesystems.hfsplus.compression import ATTRIBUTE, Compressed, open_compressed, parse_attribute
from guestctl.disk.filesystems.hfsplus.forks import Forks
from guestctl.disk.filesystems.hfsplus.header import Header, find_volume, read_header
from guestctl.disk.filesystems.hfsplus.journal import replayed
from guestctl.disk.filesystems.hfsplus.names import compose, folded
from guestctl.disk.stat import PlainStat

_MAX_TARGET_BYTES = 64 << 10
_MAX_CACHED_NAMES = 1 << 17
_LINUX_BLOCK_BYTES = 4096  # in which Linux counts what files take, where the volume's blocks are not smaller


class HfsPlusFileSystem(FileSystem[int]):
    """An open volume; a node is the place of a record in the catalog. `warnings` are those of its journal."""

    type = "hfsplus"

    def __init__(self, header: Header, warnings: list[str], *, is_wrapped: bool = False) -> None:
        self.warnings = warnings
        self._is_wrapped = is_wrapped
        self._header = header
        self.uuid = header.uuid
        self.block_size = header.block_size
        self.size = header.blocks * header.block_size
        if header.is_alternate:
            self.warnings.append("the volume header is damaged, and the alternate one is read instead")
        if not header.attributes & L.ATTRIBUTE_UNMOUNTED and not self.warnings:
            self.warnings.append("the volume was not unmounted")
        if self.size > header.device.size:
            self.warnings.append(f"the volume has {self.size} bytes, its device {header.device.size}")
        self._forks = Forks(header)
        overflow = self._forks.open(header.fork(L.EXTENTS_FORK), L.EXTENTS_FILE)
        self._forks.overflow = BTree(overflow, "extents overflow", L.EXTENT_KEY.size, _extent_order)
        catalog = self._forks.open(header.fork(L.CATALOG_FORK), L.CATALOG_FILE)
        self._catalog = Catalog(BTree(catalog, "catalog", L.CATALOG_KEY.size, catalog_order))
        self.label, root = self._catalog.root()
        self.root = root.place
        self._places_of: dict[int, dict[str, int]] = {}
        self._cached_places = 0

    @cached_property
    def _attributes(self) -> Attributes:
        fork = self._forks.open(self._header.fork(L.ATTRIBUTES_FORK), L.ATTRIBUTES_FILE)
        tree = BTree(fork, "attributes", L.ATTRIBUTE_KEY.size, attribute_order) if fork.size else None
        return Attributes(tree, self._forks)

    def usage(self) -> Usage:
        free = min(self._header.free_blocks, self._header.blocks) * self.block_size
        return Usage(self.size, self.size - free, free)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        header = self._header
        if header.is_alternate or not header.attributes & L.ATTRIBUTE_UNMOUNTED:
            raise UnsupportedFeature("the free blocks of a volume that was not unmounted", feature="free blocks")
        if self._is_wrapped:
            raise UnsupportedFeature("the free blocks of a volume in an HFS wrapper", feature="free blocks")
        fork = self._forks.open(self._header.fork(L.ALLOCATION_FORK), L.ALLOCATION_FILE)
        if fork.size * 8 < self._header.blocks:
            raise InvalidFormat(f"{fork.size} bytes", structure="allocation file", offset=0)
        for start, end in bit_ranges(fork, self._header.blocks, "big", is_set=False):
            yield start * self.block_size, (end - start) * self.block_size

    def close(self) -> None:
        if isinstance(self._header.device, Overlay):  # of the journal
            self._header.device.close()

    # Records

    @cached_property
    def _private_folder(self) -> Record | None:
        """Where the files are that have several names."""
        shown = L.PRIVATE_FOLDER.replace("\0", "\u2400")
        found = (record for name, record in self._catalog.children(L.ROOT_FOLDER) if name == shown)
        return next(found, None)

    @cached_property
    def _link_dates(self) -> set[int]:
        """A hard link was created when one of these was."""
        folders = (self._private_folder, self._catalog.record(self.root))
        return {folder.created for folder in folders if folder is not None}

    def _is_link(self, record: Record) -> bool:
        return record.is_hard_link and self._private_folder is not None and record.created in self._link_dates

    def _resolved(self, record: Record) -> Record:
        """The file that a hard link stands for; the link itself where that is not there."""
        if not self._is_link(record) or self._private_folder is None:
            return record
        place = self._places(self._private_folder).get(self._key(f"iNode{record.special}"))
        return record if place is None else self._catalog.record(place)

    def _record(self, node: int, kind: int = 0, error: int = 0) -> Record:
        record = self._catalog.record(node)
        if self._is_link(record):
            message = f"a hard link to iNode{record.special}, which is not there"
            raise InvalidFormat(message, structure="catalog record", offset=node)
        if kind and stat.S_IFMT(record.mode) != kind:
            raise OSError(error, os.strerror(error))
        return record

    def _compressed(self, record: Record) -> Compressed | None:
        if record.kind != L.FILE_RECORD or not record.flags & L.FLAG_COMPRESSED:
            return None
        value = self._attributes.get(record.id, ATTRIBUTE)
        return None if value is None else parse_attribute(value)

    def node_stat(self, node: int) -> PlainStat:
        record = self._record(node)
        mode = record.mode
        size, links, device = record.valence + 2, 1, 0
        sectors = 0
        if record.kind == L.FILE_RECORD:
            (size, _) = L.FORK.unpack_from(record.data, L.FILE_DATA_FORK)
            unit = min(self.block_size, _LINUX_BLOCK_BYTES)
            sectors = -(-size // unit) * unit // 512
            if stat.S_ISREG(mode):
                links = record.special or 1
            elif not stat.S_ISLNK(mode):
                device = os.makedev(record.special >> 20, record.special & 0xFFFFF)
            compressed = self._compressed(record)
            size = compressed.size if compressed is not None else size
        return PlainStat(
            st_ino=record.id,
            st_mode=mode,
            st_nlink=links,
            st_size=size,
            st_blocks=sectors,
            st_atime_ns=_time_ns(record.accessed),
            st_mtime_ns=_time_ns(record.modified),
            st_ctime_ns=_time_ns(record.changed),
            st_birthtime_ns=_time_ns(record.created),
            st_uid=record.uid,
            st_gid=record.gid,
            st_rdev=device,
        )

    def node_xattrs(self, node: int) -> dict[str, bytes]:
        record = self._record(node)
        if not (stat.S_ISREG(record.mode) or stat.S_ISDIR(record.mode)):  # others have none on Linux
            return {}
        return self._attributes.all(record.id, record.finder)

    def node_target(self, node: int) -> str:
        data = self._fork(self._record(node, stat.S_IFLNK, errno.EINVAL))
        if data.size > _MAX_TARGET_BYTES:
            raise InvalidFormat(f"a symbolic link of {data.size} bytes", structure="catalog record", offset=node)
        return bytes(data.read(0, data.size)).partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        record = self._record(node, stat.S_IFREG, errno.EINVAL)
        compressed = self._compressed(record)
        if compressed is None:
            return self._fork(record)
        return open_compressed(compressed, self._fork(record, L.RESOURCE_FORK))

    def _fork(self, record: Record, kind: int = L.DATA_FORK) -> BlockDevice:
        start = L.FILE_RESOURCE_FORK if kind == L.RESOURCE_FORK else L.FILE_DATA_FORK
        return self._forks.open(record.data[start : start + L.FORK_BYTES], record.id, kind)

    def resource_fork(self, path: str) -> BlockDevice:
        """The resource fork of a regular file, which is empty for most."""
        return self._fork(self._record(self.resolve(path), stat.S_IFREG, errno.EINVAL), L.RESOURCE_FORK)

    # Folders

    def node_entries(self, node: int) -> Iterator[tuple[str, int, int]]:
        folder = self._record(node, stat.S_IFDIR, errno.ENOTDIR)
        private = self._private_folder if folder.id == L.ROOT_FOLDER else None
        for name, record in self._catalog.children(folder.id):
            if private is None or record.id != private.id:
                found = self._resolved(record)
                yield name, found.place, stat.S_IFMT(found.mode)

    def node_lookup(self, node: int, name: str) -> int | None:
        folder = self._record(node, stat.S_IFDIR, errno.ENOTDIR)
        places, name = self._places(folder), compose(name)
        place = places.get(name, places.get(self._key(name)))
        return None if place is None else self._resolved(self._catalog.record(place)).place

    def _key(self, name: str) -> str:
        return name if self._catalog.case_sensitive else folded(name)

    def _places(self, folder: Record) -> dict[str, int]:
        names = self._places_of.get(folder.id)
        if names is None:
            exact = {name: record.place for name, record in self._catalog.children(folder.id)}
            names = {self._key(name): place for name, place in exact.items()} | exact
            if self._cached_places > _MAX_CACHED_NAMES:
                self._places_of.clear()
                self._cached_places = 0
            self._places_of[folder.id] = names
            self._cached_places += len(names)
        return names


def _extent_order(key: bytes) -> tuple[int, ...]:
    fork, file, start = L.EXTENT_KEY.unpack_from(key)
    return file, fork, start


def _time_ns(seconds: int) -> int:
    return (seconds - L.EPOCH & 0xFFFFFFFF) * 10**9


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a volume, or None where `device` holds none."""
    volume = find_volume(device)
    if volume is None:
        return None
    try:
        header = read_header(volume)
    except InvalidFormat:
        return None
    try:
        label = HfsPlusFileSystem(header, []).label
    except GuestctlError:
        label = None
    return Identity("hfsplus", label=label or None, uuid=header.uuid)


def open_filesystem(device: BlockDevice, options: Options = Options()) -> HfsPlusFileSystem:
    """The volume on `device`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    volume = find_volume(device)
    if volume is None:
        raise InvalidFormat("no volume header", structure="volume header", offset=L.HEADER_OFFSET)
    warnings: list[str] = []
    header = replayed(read_header(volume), warnings)
    return HfsPlusFileSystem(header, warnings, is_wrapped=volume is not device)
