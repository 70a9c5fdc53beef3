"""``Qcow2Reader``: the virtual disk of a qcow2 file, its backing chain and its external data file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, zeros
from guestctl.core.errors import InvalidFormat, KeyRequired, UnsupportedFeature
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.clusters import ClusterMap, Kind, L2Slice, Mapping
from guestctl.disk.formats.qcow2.compression import Decompress, DecompressionError, decompressor
from guestctl.disk.formats.qcow2.encryption import Decryption, LockedAes, LockedLuks
from guestctl.disk.formats.qcow2.filenames import parse_reference
from guestctl.disk.formats.qcow2.header import Extensions, Header, check_l1_location
from guestctl.disk.formats.qcow2.layout import Incompatible
from guestctl.disk.formats.qcow2.snapshots import find_snapshot, read_snapshots
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry
from guestctl.disk.volumes.keys import unlock

_CACHE_BYTES = 16 << 20  # of decompressed clusters
_EVERY_BIT = -1


class Resolved(NamedTuple):
    """What holds a guest offset: the first image of the chain that says something of it.

    ``mapping.kind`` is `Kind.UNALLOCATED` where no qcow2 image does; ``below`` is then the image of
    another format that holds the bytes, or None for zeros. ``stop`` is where this ends to hold.
    """

    level: Qcow2Reader
    depth: int
    mapping: Mapping
    below: DiskReader | None
    stop: int


class Qcow2Reader(DiskReader, MappedDevice):
    """A qcow2 image, read-only.

    Metadata lies in the file that ``image`` opened; `open_files` opens the others. Until then only
    what needs the header and the tables of this file works: `info`, `check`.
    """

    format = DiskFormat.QCOW2

    def __init__(self, image: ImageFile, header: Header, extensions: Extensions) -> None:
        self.image = image
        self.path = image.path
        self.file = image.device
        self.header = header
        self.extensions = extensions
        self.size = header.size
        self.data: BlockDevice | None = None if header.has_data_file else image.device
        self.data_path: str | None = None if header.has_data_file else image.path
        self.warnings = tuple(_warnings(header, extensions, image.path))
        l1_offset, l1_size = header.l1_table_offset, header.l1_size
        if image.snapshot is not None:
            l1_offset, l1_size = self._select_snapshot(image.snapshot)
        self.clusters = ClusterMap(image.device, header, l1_offset, l1_size)
        self._complete = False
        self._slices: dict[int, L2Slice] = {}  # those of `clusters`, once the fast path of `read` may look there
        self._slice_bits = self.clusters.slice_bits
        self._slice_mask = (1 << self._slice_bits) - 1
        self._cluster_bits = header.cluster_bits
        self._cluster_size = header.cluster_size
        self._not_plain = _not_plain(header)
        self._decryption: Decryption | None = None  # once the content of an encrypted image was asked for
        self._locked: KeyRequired | None = None
        self._decompress: Decompress | None = None  # its library is imported by the first who needs it
        self._decompressed: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def open_files(self) -> None:
        """Open the external data file and the backing chain."""
        if self.header.has_data_file:
            path = self._data_file_name()
            self.data = self.image.open_file(path, role="data file")
            self.data_path = self.image.resolve(path)
        if self.extensions.backing_file is not None:
            reference = parse_reference(self.extensions.backing_file, self.extensions.backing_format)
            self.backing = self.image.open_image(reference.path, reference.format, role="backing file")
        self._complete = True
        if not self.header.crypt_method:
            self._slices = self.clusters.slices

    def _data_file_name(self) -> str:
        name = self.extensions.data_file
        if name is None:
            message = f"{self.path}: the header does not name the external data file"
            raise UnsupportedFeature(message, feature="external data file")
        reference = parse_reference(name, None)
        if reference.format not in (None, "raw"):
            message = f"{self.path}: an external data file of format {reference.format!r}"
            raise UnsupportedFeature(message, feature=f"data file format {reference.format}")
        return reference.path

    def read(self, offset: int, length: int) -> Buffer:
        cluster = offset >> self._cluster_bits
        skip = offset & self._cluster_size - 1
        part = self._slices.get(cluster >> self._slice_bits)
        if part is not None and 0 <= length <= self._cluster_size - skip and offset + length <= self.size:
            content = self._read_cluster(part, cluster, skip, length)
            if content is not None:
                return content
        self.check_range(offset, length)
        return self._read_extents(offset, length) if length else b""

    def _read_cluster(self, part: L2Slice, cluster: int, skip: int, length: int) -> Buffer | None:
        """The fast path, for small reads: part of one cluster; None where it is not that simple."""
        index = cluster & self._slice_mask
        entry = part.entries[index]
        bitmap = None if part.bitmaps is None else part.bitmaps[index]
        if not entry and not bitmap:
            backing, offset = self.backing, (cluster << self._cluster_bits) + skip
            if backing is None:
                return zeros(length)
            return backing.read(offset, length) if offset + length <= backing.size else None
        if entry & self._not_plain:
            content = self._decompressed.get(cluster)
            return None if content is None else memoryview(content)[skip : skip + length]
        host_offset = entry & layout.L2_OFFSET_MASK
        if not host_offset or (bitmap is not None and bitmap != layout.ALL_ALLOCATED):
            return None
        host_offset += skip
        return self.file.read(host_offset, length) if host_offset + length <= self.file.size else None

    def _read_extents(self, offset: int, length: int) -> Buffer:
        parts = []
        end = offset + length
        while offset < end:
            _, available, source, source_offset = self._extent(offset, end - offset)
            part = min(available, end - offset)
            if source is None:
                parts.append(zeros(part))
            elif source is self:
                parts.append(self.compute(offset, part))
            else:
                parts.append(source.read(source_offset, part))
            offset += part
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extent(self, offset: int) -> Extent:
        return self._extent(offset, None)

    def _extent(self, offset: int, length: int | None) -> Extent:
        """The extent from `offset` on; it may be cut short after `length`."""
        self._require_content()
        level, _, mapping, below, stop = self.resolve(offset, length)
        if below is not None:
            return Extent(offset, stop - offset, below, offset)
        if mapping.kind is Kind.DATA:
            return level._stored(offset, mapping, stop)
        if mapping.kind is Kind.COMPRESSED:
            level._require_content()
            return Extent(offset, stop - offset, level, offset)
        return Extent(offset, stop - offset, None)

    def resolve(self, offset: int, length: int | None = None) -> Resolved:
        """Which image of the chain holds `offset`, and how; `length` as in `ClusterMap.locate`."""
        level, depth, stop = self, 0, self.size
        while True:
            mapping = level.clusters.locate(offset, length)
            stop = min(stop, mapping.start + mapping.length)
            if mapping.kind is not Kind.UNALLOCATED:
                return Resolved(level, depth, mapping, None, stop)
            backing = level.backing
            # "If the backing file is smaller than the image, they shall read zeros for all parts
            # that are not covered": also where a larger image lies below the smaller one.
            if backing is None or offset >= backing.size:
                return Resolved(level, depth, mapping, None, stop)
            stop = min(stop, backing.size)
            depth += 1
            if not isinstance(backing, Qcow2Reader):
                return Resolved(level, depth, mapping, backing, stop)
            level = backing

    def compute(self, offset: int, length: int) -> Buffer:
        bits = self._cluster_bits
        first, last = offset >> bits, offset + length - 1 >> bits
        skip = offset & self._cluster_size - 1
        if first == last:
            content = self._content(first, keep=length < self._cluster_size)
            return content if length == self._cluster_size else memoryview(content)[skip : skip + length]
        parts: list[Buffer] = [self._content(cluster, keep=False) for cluster in range(first + 1, last)]
        parts.insert(0, memoryview(self._content(first, keep=skip > 0))[skip:])
        rest = offset + length - (last << bits)
        parts.append(memoryview(self._content(last, keep=rest < self._cluster_size))[:rest])
        return b"".join(parts)

    def info(self) -> dict[str, Any]:
        from guestctl.disk.formats.qcow2.info import image_info

        return image_info(self)

    def map(self) -> Iterator[MapEntry]:
        from guestctl.disk.formats.qcow2.map import map_entries

        if not self._complete:
            raise self._incomplete()
        return map_entries(self)

    def check(self) -> dict[str, Any]:
        from guestctl.disk.formats.qcow2.check import check_image

        return check_image(self)

    def close(self) -> None:
        self._decompressed.clear()
        if self.backing is not None:
            self.backing.close()
        if self.data is not None and self.data is not self.file:
            self.data.close()
        self.file.close()

    def _select_snapshot(self, wanted: str) -> tuple[int, int]:
        """Offset and entries of the snapshot's L1 table; sets ``size`` to its disk's."""
        snapshots, _ = read_snapshots(self.file, self.header)
        snapshot = find_snapshot(snapshots, wanted)
        if snapshot.disk_size >= 1 << 63:
            raise InvalidFormat(
                f"snapshot {wanted!r} has a disk of {snapshot.disk_size:#x} bytes",
                structure="snapshot table",
                offset=self.header.snapshots_offset,
            )
        check_l1_location(self.header, snapshot.l1_table_offset, snapshot.l1_size, self.file.size)
        self.size = snapshot.disk_size & -512
        return snapshot.l1_table_offset, snapshot.l1_size

    def _require_content(self) -> None:
        """Raise where the bytes of the disk cannot be had."""
        if not self._complete:
            raise self._incomplete()
        if self.header.crypt_method and self._decryption is None:
            self._unlock()

    def _incomplete(self) -> UnsupportedFeature:
        return UnsupportedFeature(f"{self.path}: opened for its metadata only", feature="reading")

    def _unlock(self) -> None:
        """Have the key asked for, once. Raises `KeyRequired`."""
        assert self.data is not None
        if self._locked is not None:
            raise self._locked
        locked: LockedAes | LockedLuks = LockedAes(self.data)
        if self.header.crypt_method == layout.CRYPT_LUKS:
            if self.extensions.encryption is None:
                raise InvalidFormat("no pointer to the LUKS header", structure="header extension", offset=0)
            locked = LockedLuks(self.file, self.extensions.encryption[0], self.data)
        try:
            self._decryption = unlock(locked, self.path, self.image.keys)
        except KeyRequired as error:
            self._locked = error
            raise

    def _stored(self, offset: int, mapping: Mapping, stop: int) -> Extent:
        """Clusters that are stored as they are; the last may end past the file, and then in zeros."""
        self._require_content()
        assert self.data is not None and mapping.host_offset is not None
        host_offset = mapping.host_offset + offset - mapping.start
        available = self.data.size - host_offset
        if available > 0:
            length = min(available, stop - offset)
            if self._decryption is None:
                return Extent(offset, length, self.data, host_offset)
            return Extent(offset, length, *self._decryption(offset, host_offset, length))
        inside = offset & self._cluster_size - 1
        if inside + available > 0:  # the cluster begins before the end of the file
            return Extent(offset, min(stop - offset, self._cluster_size - inside), None)
        raise InvalidFormat(
            f"guest offset {offset:#x} lies outside the file ({self.data.size} bytes)",
            structure="data cluster",
            offset=host_offset - inside,
        )

    def _content(self, cluster: int, *, keep: bool) -> bytes:
        """The content of a compressed cluster."""
        content = self._decompressed.get(cluster)
        if content is not None:
            return content
        start, length = self.clusters.compressed_cluster(cluster)
        length = min(length, self.file.size - start)
        if length <= 0:
            raise _invalid_cluster(f"outside the file ({self.file.size} bytes)", cluster, start)
        if self._decompress is None:
            self._decompress = decompressor(self.header.compression_type, self._cluster_size)
        try:
            content = self._decompress(self.file.read(start, length))
        except DecompressionError as error:
            raise _invalid_cluster(str(error), cluster, start) from error
        if keep:
            with self._lock:
                while len(self._decompressed) >= _CACHE_BYTES >> self._cluster_bits:
                    del self._decompressed[next(iter(self._decompressed))]
                self._decompressed[cluster] = content
        return content


def _not_plain(header: Header) -> int:
    """The bits of an L2 entry, any of which keeps a read from the fast path."""
    if header.has_data_file:
        return _EVERY_BIT
    zero_flag = 0 if header.extended_l2 else layout.OFLAG_ZERO
    return layout.OFLAG_COMPRESSED | zero_flag | layout.L2_OFFSET_MASK & header.cluster_size - 1


def _invalid_cluster(message: str, cluster: int, offset: int) -> InvalidFormat:
    return InvalidFormat(f"{message} (guest cluster {cluster})", structure="compressed cluster", offset=offset)


def _warnings(header: Header, extensions: Extensions, path: str) -> Iterator[str]:
    if header.incompatible_features & Incompatible.DIRTY:
        yield f"{path}: not closed properly; its reference counts may be wrong, its content is not affected"
    if header.incompatible_features & Incompatible.CORRUPT:
        yield f"{path}: marked as corrupt; what is read from it may be wrong"
    if extensions.bitmaps is not None and not header.autoclear_features & layout.AUTOCLEAR_BITMAPS:
        yield f"{path}: its bitmaps are inconsistent and ignored"
