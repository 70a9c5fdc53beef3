"""``IsoFileSystem``: what the path operations ask of a volume."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Extent, MappedDevice, SliceDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Usage
from guestctl.disk.filesystems.iso9660 import layout as L
from guestctl.disk.filesystems.iso9660.boot import BootEntry, read_catalog
from guestctl.disk.filesystems.iso9660.record import (
    Record,
    RockRidge,
    SystemUse,
    is_file_type,
    joliet_name,
    mapped_name,
    parse_record,
    time_ns,
)
from guestctl.disk.filesystems.iso9660.volume import check_descriptor, read_volume
from guestctl.disk.filesystems.iso9660.zisofs import ZisofsFile
from guestctl.disk.stat import PlainStat

_DEFAULT_MODE = 0o555
_MAX_SECTIONS = 4096
_MAX_CACHED_ENTRIES = 1 << 17
_MAX_DIRECTORY_BYTES = 64 << 20  # some 500,000 files with Rock Ridge


class _Listing(NamedTuple):
    """What a directory holds: its entries, nodes by their names, and the first record that is damaged."""

    entries: list[tuple[str, int, int]]
    names: dict[str, int]
    error: InvalidFormat | None


class IsoFileSystem(FileSystem[int]):
    """An ISO 9660 volume. A node is the byte offset of a directory record; a directory's is that of its own first one.

    ``extensions`` is "Rock Ridge", "Joliet" or None.
    """

    type = "iso9660"

    def __init__(self, device: BlockDevice) -> None:
        volume = read_volume(device)
        self._device = device
        self._catalog_block = volume.catalog_block
        self._listings: dict[int, _Listing] = {}
        self._cached_entries = 0
        self._system_use: SystemUse | None = None
        self.label = volume.label
        self.uuid = volume.uuid
        self.version = "Joliet Extension" if volume.joliet else None
        descriptor = volume.primary
        check_descriptor(descriptor)
        self.block_size = descriptor.block_size
        self.root = self._root(descriptor.root_record)
        self._system_use = self._find_rock_ridge()
        self.extensions = "Rock Ridge" if self._system_use else None
        if volume.joliet and not self._system_use:
            descriptor = volume.joliet
            check_descriptor(descriptor)
            self.block_size = descriptor.block_size
            self.root = self._root(descriptor.root_record)
            self.extensions = "Joliet"
        self.size = descriptor.block_size * descriptor.block_count
        self.warnings = []
        if self.size > device.size:
            self.warnings.append(f"the volume has {self.size} bytes, its device {device.size}")
        if not self._system_use and descriptor.set_size > 1:
            raise UnsupportedFeature(f"a set of {descriptor.set_size} volumes", feature="volume set")

    def _root(self, offset: int) -> int:
        root = self._record(offset).data_offset
        if not self._record(root).is_directory:
            raise InvalidFormat("the root is no directory", structure="directory record", offset=root)
        return root

    def _find_rock_ridge(self) -> SystemUse | None:
        """SP in the first record of the root says that system use areas are used; PX or ER, that it is Rock Ridge."""
        root = self._record(self.root)
        start = L.XA_BYTES if root.system_use[L.XA_SIGNATURE] == b"XA" else 0
        protocol = root.system_use[start:]
        if not protocol.startswith(L.SHARING_PROTOCOL) or len(protocol) == len(L.SHARING_PROTOCOL):
            return None
        self._root_system_use = SystemUse(self._device, self.block_size, start)
        if not {b"PX", b"ER", b"RR"} & {signature for signature, _ in self._root_system_use.entries(root)}:
            return None
        return SystemUse(self._device, self.block_size, protocol[len(L.SHARING_PROTOCOL)])

    @cached_property
    def boot_entries(self) -> list[BootEntry]:
        """The boot catalogue of El Torito; empty where there is none. Raises `InvalidFormat`."""
        return [] if self._catalog_block is None else read_catalog(self._device, self._catalog_block)

    def usage(self) -> Usage:
        return Usage(self.size, self.size, 0)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        return iter(())

    # Records

    def _record(self, offset: int) -> Record:
        if not 0 < offset < self._device.size:
            raise InvalidFormat("outside the device", structure="directory record", offset=offset)
        data = bytes(self._device.read(offset, min(L.MAX_RECORD_BYTES, self._device.size - offset)))
        return parse_record(data, 0, offset, self.block_size)

    def _rock_ridge(self, record: Record) -> RockRidge:
        rock = self._damaged_rock_ridge(record)
        if rock.error:
            raise rock.error
        return rock

    def _damaged_rock_ridge(self, record: Record) -> RockRidge:
        """What there is of it; even so a name may be known."""
        if self._system_use is None:
            return RockRidge()
        if record.offset == self.root:  # has SP itself, and nothing to skip
            return self._root_system_use.rock_ridge(record)
        return self._system_use.rock_ridge(record)

    def node_stat(self, node: int) -> PlainStat:
        record = self._record(node)
        rock = self._rock_ridge(record)
        mode = rock.mode
        if mode is None:
            mode = (stat.S_IFDIR if record.is_directory else stat.S_IFREG) | _DEFAULT_MODE
        if not is_file_type(mode) or stat.S_ISDIR(mode) != record.is_directory:
            raise InvalidFormat(f"mode {mode:#o}", structure="directory record", offset=node)
        size = stored = record.size
        if stat.S_ISREG(mode):
            size = stored = sum(section.size for section in self._sections(record))
            if rock.zisofs:
                size = rock.zisofs[3]
        elif stat.S_ISLNK(mode):
            size = len(rock.target or b"")
        recorded = time_ns(record.recorded)
        times = rock.times
        return PlainStat(
            st_ino=node >> 5,
            st_mode=mode,
            st_nlink=rock.nlink,
            st_size=size,
            st_blocks=-(-stored // 512),
            st_atime_ns=times.get(L.TIME_ACCESS, recorded),
            st_mtime_ns=times.get(L.TIME_MODIFY, recorded),
            st_ctime_ns=times.get(L.TIME_ATTRIBUTES, times.get(L.TIME_CREATION, recorded)),
            st_birthtime_ns=times.get(L.TIME_CREATION),
            st_uid=rock.uid,
            st_gid=rock.gid,
            st_rdev=rock.rdev,
        )

    def _sections(self, record: Record) -> list[Record]:
        """The records of a file: all but the last one have a flag that says so."""
        sections = [record]
        while record.flags & L.FLAG_MULTI_EXTENT:
            offset = record.offset + record.length
            if self._device.read(offset, 1) == b"\0":
                offset += -offset % self.block_size
            record = self._record(offset)
            if record.identifier != sections[0].identifier or len(sections) >= _MAX_SECTIONS:
                raise InvalidFormat("a file without a last section", structure="directory record", offset=offset)
            sections.append(record)
        return sections

    def node_target(self, node: int) -> str:
        rock = self._rock_ridge(self._record(node))
        if not stat.S_ISLNK(rock.mode or 0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return (rock.target or b"").decode("utf-8", "surrogateescape")

    def node_data(self, node: int) -> BlockDevice:
        record = self._record(node)
        rock = self._rock_ridge(record)
        if record.is_directory or not stat.S_ISREG(rock.mode or stat.S_IFREG):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sections = self._sections(record)
        for section in sections:
            if section.interleaved:
                raise UnsupportedFeature("a file recorded in interleaved mode", feature="interleaved mode")
            if section.data_offset + section.size > self._device.size:
                message = f"{section.size} bytes at {section.data_offset} of a device of {self._device.size}"
                raise InvalidFormat(message, structure="directory record", offset=section.offset)
        if len(sections) > 1:
            data: BlockDevice = _Sections(self._device, sections)
        else:
            data = SliceDevice(self._device, record.data_offset, record.size)
        return ZisofsFile(data, *rock.zisofs) if rock.zisofs else data

    # Directories

    def node_entries(self, node: int) -> Iterator[tuple[str, int, int]]:
        listing = self._directory_of(node)
        yield from listing.entries
        if listing.error is not None:
            raise listing.error

    def node_lookup(self, node: int, name: str) -> int | None:
        listing = self._directory_of(node)
        child = listing.names.get(name)
        if child is None and self.extensions == "Joliet":
            child = listing.names.get(name.lower())
        if child is None and listing.error is not None:
            raise listing.error  # it may have been that one
        return child

    def _directory_of(self, node: int) -> _Listing:
        listing = self._listings.get(node)
        if listing is None:
            entries, error = self._read_directory(node)
            names: dict[str, int] = {}
            if self.extensions == "Joliet":  # which alone is case-insensitive, as on Linux
                names = {name.lower(): child for name, child, _ in reversed(entries)}
            names.update((name, child) for name, child, _ in reversed(entries))
            if self._cached_entries > _MAX_CACHED_ENTRIES:
                self._listings.clear()
                self._cached_entries = 0
            listing = self._listings[node] = _Listing(entries, names, error)
            self._cached_entries += len(entries)
        return listing

    def _read_directory(self, node: int) -> tuple[list[tuple[str, int, int]], InvalidFormat | None]:
        own = self._record(node)
        if not own.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if own.size > _MAX_DIRECTORY_BYTES:
            raise InvalidFormat(f"a directory of {own.size} bytes", structure="directory record", offset=node)
        data = bytes(self._device.read(node, own.size))
        entries: list[tuple[str, int, int]] = []
        error = None
        at = 0
        continued = False
        while at < len(data):
            try:
                record = parse_record(data, at, node + at, self.block_size) if data[at] else None
            except InvalidFormat as damage:
                error, record = error or damage, None
            if record is None:  # no record crosses the end of a block
                at += self.block_size - at % self.block_size
                continue
            at += record.length
            if not continued and not record.flags & L.FLAG_ASSOCIATED and record.identifier not in (b"\0", b"\1"):
                entries += self._entry(record)
            continued = bool(record.flags & L.FLAG_MULTI_EXTENT)
        return entries, error

    def _entry(self, record: Record) -> list[tuple[str, int, int]]:
        """The entry of a record; none for a directory that Rock Ridge has somewhere else."""
        if self.extensions == "Joliet":
            name = joliet_name(record.identifier)
            return [(name, *self._node(record))]
        rock = self._damaged_rock_ridge(record)
        if rock.relocated:
            return []
        name = (rock.name or mapped_name(record.identifier)).decode("utf-8", "surrogateescape")
        if rock.child_block is not None:
            return [(name, rock.child_block * self.block_size, stat.S_IFDIR)]
        node, kind = self._node(record)
        return [(name, node, stat.S_IFMT(rock.mode or kind))]

    def _node(self, record: Record) -> tuple[int, int]:
        if record.is_directory:
            return record.data_offset, stat.S_IFDIR
        return record.offset, stat.S_IFREG


class _Sections(MappedDevice):
    """A file in several extents."""

    def __init__(self, device: BlockDevice, sections: list[Record]) -> None:
        self._device = device
        self._starts: list[int] = []
        self._sections = [section for section in sections if section.size]
        self.size = 0
        for section in self._sections:
            self._starts.append(self.size)
            self.size += section.size

    def extent(self, offset: int) -> Extent:
        index = bisect_right(self._starts, offset) - 1
        section = self._sections[index]
        return Extent(self._starts[index], section.size, self._device, section.data_offset)
