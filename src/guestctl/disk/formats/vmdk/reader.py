"""``VmdkReader``: the virtual disk of a descriptor's extents, and of the delta chain below them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Extent, MappedDevice, zeros
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.compression import CompressedGrains
from guestctl.disk.formats.vmdk.descriptor import MAX_BYTES, Descriptor, ExtentLine, parse_descriptor
from guestctl.disk.formats.vmdk.grains import GrainMap, Kind, Mapping, grain_map
from guestctl.disk.formats.vmdk.header import SparseLayout, read_sparse_layout
from guestctl.disk.formats.vmdk.layout import NO_PARENT_CID, SECTOR_BYTES
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry


@dataclass(frozen=True, slots=True)
class Part:
    """An extent of the disk: ``size`` bytes from ``start``. ``device`` is None where all are zeros."""

    start: int
    size: int
    type: str  # as in the descriptor; "" for a file that is descriptor and extent in one
    path: str | None = None
    device: BlockDevice | None = None
    device_offset: int = 0  # of a flat extent
    sparse: SparseLayout | None = None
    grains: GrainMap | None = None
    compressed: CompressedGrains | None = None


class Resolved(NamedTuple):
    """What holds an offset of the disk: the first image of the chain that says something of it.

    ``mapping`` is in bytes of the disk and holds up to ``stop``; `Kind.UNALLOCATED` is zeros.
    """

    level: VmdkReader
    depth: int
    part: Part
    mapping: Mapping
    stop: int


class VmdkReader(DiskReader, MappedDevice):
    """A VMDK image, read-only."""

    format = DiskFormat.VMDK

    def __init__(self, image: ImageFile, descriptor: Descriptor) -> None:
        self.image = image
        self.path = image.path
        self.file = image.device
        self.descriptor = descriptor
        self.size = 0
        self.backing: VmdkReader | None = None
        self._lacks_parent = descriptor.parent_cid != NO_PARENT_CID
        self.parts: list[Part] = []
        self._starts: list[int] = []
        self.warnings: list[str] = []  # of the whole chain; damaged tables are noticed when they are needed
        self.damaged = 0  # tables and directories in whose place the redundant ones are read
        self._opened: dict[str, BlockDevice] = {}

    def open_single(self, found: SparseLayout, warnings: Sequence[str]) -> None:
        """Make the disk of this one file, which holds its descriptor itself."""
        self._add_sparse("", self.path, self.file, found, warnings, found.capacity)

    def open_extents(self) -> None:
        """Make the disk of the files that the descriptor names."""
        if not self.descriptor.extents:
            raise InvalidFormat("no extents", structure="descriptor", offset=0)
        for line in self.descriptor.extents:
            self._open_extent(line)

    def open_parent(self) -> None:
        """Open the parent of a delta, whose content must be what it was when the delta was made."""
        descriptor = self.descriptor
        if descriptor.parent_cid == NO_PARENT_CID:
            return
        if not descriptor.parent_name:
            raise InvalidFormat("a parentCID and no parentFileNameHint", structure="descriptor", offset=0)
        backing = self.image.open_image(descriptor.parent_name, DiskFormat.VMDK, role="parent image")
        assert isinstance(backing, VmdkReader)
        self.backing = backing
        self._lacks_parent = False
        self.warnings += backing.warnings
        level: VmdkReader | None = backing
        while level is not None:
            level.warnings, level = self.warnings, level.backing
        if backing.descriptor.cid != descriptor.parent_cid:
            raise InvalidFormat(
                f"parentCID is {descriptor.parent_cid:08x}, but {backing.path} has CID {backing.descriptor.cid:08x}: "
                "the parent was changed",
                structure="descriptor",
                offset=0,
                expected=descriptor.parent_cid,
                actual=backing.descriptor.cid,
            )

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        if self._lacks_parent:
            raise self._refusal()
        content = self._read_grain(offset, length) if length else b""
        if content is not None:
            return content
        parts: list[Buffer] = []
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

    def _read_grain(self, offset: int, length: int) -> Buffer | None:
        """The fast path, for small reads: part of one grain; None where it is not that simple."""
        part = self.parts[bisect_right(self._starts, offset) - 1]
        inside = offset - part.start
        if part.grains is None or part.device is None or inside + length > part.size:
            return None
        if part.compressed is not None:
            return part.compressed.cached(inside, length)
        place = part.grains.quick_place(inside, length)
        if not place:
            return zeros(length) if place == 0 and self.backing is None else None
        return part.device.read(place, length) if place + length <= part.device.size else None

    def extent(self, offset: int) -> Extent:
        if self._lacks_parent:
            raise self._refusal()
        return self._extent(offset, None)

    def compute(self, offset: int, length: int) -> Buffer:
        part = self._part(offset)
        assert part.compressed is not None
        return part.compressed.read(offset - part.start, length)

    def resolve(self, offset: int, length: int | None = None) -> Resolved:
        """Which image of the chain holds `offset`, and how; `length` as in `GrainMap.locate`."""
        level, depth, stop = self, 0, self.size
        while True:
            part = level._part(offset)
            mapping = _locate(part, offset, length)
            stop = min(stop, mapping.start + mapping.length)
            backing = level.backing
            if mapping.kind is not Kind.UNALLOCATED or backing is None or offset >= backing.size:
                return Resolved(level, depth, part, mapping, stop)
            stop = min(stop, backing.size)
            level, depth = backing, depth + 1

    def info(self) -> dict[str, Any]:
        from guestctl.disk.formats.vmdk.info import image_info

        return image_info(self)

    def map(self) -> Iterator[MapEntry]:
        from guestctl.disk.formats.vmdk.map import map_entries

        if self._lacks_parent:
            raise self._refusal()
        return map_entries(self)

    def check(self) -> dict[str, Any]:
        from guestctl.disk.formats.vmdk.check import check_image

        return check_image(self)

    def close(self) -> None:
        for part in self.parts:
            if part.compressed is not None:
                part.compressed.clear()
        if self.backing is not None:
            self.backing.close()
        for device in self._opened.values():
            device.close()
        self.file.close()

    def _extent(self, offset: int, length: int | None) -> Extent:
        """The extent from `offset` on; it may be cut short after `length`."""
        level, _, part, mapping, stop = self.resolve(offset, length)
        if mapping.kind is Kind.DATA:
            assert part.device is not None
            return _stored(part, part.device, mapping, offset, stop)
        if mapping.kind is Kind.COMPRESSED:
            return Extent(offset, stop - offset, level, offset)
        return Extent(offset, stop - offset, None)

    def _part(self, offset: int) -> Part:
        return self.parts[bisect_right(self._starts, offset) - 1]

    def _open_extent(self, line: ExtentLine) -> None:
        size = line.sectors * SECTOR_BYTES
        if line.name is None or line.type == "ZERO":
            self._add(Part(self.size, size, line.type))
            return
        path = self.image.resolve(line.name)
        device = self._opened.get(line.name)
        if device is None:
            device = self._opened[line.name] = self.image.open_file(line.name, role="extent file")
        if not line.is_flat:
            self._add_sparse(line.type, path, device, *read_sparse_layout(device), size)
            return
        offset = line.offset * SECTOR_BYTES
        if offset + size > -(-device.size // SECTOR_BYTES) * SECTOR_BYTES:
            raise InvalidFormat(
                f"{path} has {device.size} bytes, its extent needs {offset + size}",
                structure="flat extent",
                offset=offset,
                expected=offset + size,
                actual=device.size,
            )
        self._add(Part(self.size, size, line.type, path, device, offset))

    def _add_sparse(
        self, type: str, path: str, device: BlockDevice, found: SparseLayout, warnings: Sequence[str], size: int
    ) -> None:
        # A capacity may be rounded up to whole grains.
        if not 0 <= found.capacity - size < found.grain_bytes:
            raise InvalidFormat(
                f"{path} has a capacity of {found.capacity} bytes, the descriptor says {size}",
                structure="sparse extent",
                offset=0,
                expected=size,
                actual=found.capacity,
            )
        if found.unclean:
            self.warnings.append(f"{path}: not closed properly; what was written last may be missing")
        for warning in warnings:
            self._note_damage(path, warning)
        grains = grain_map(device, found, lambda warning: self._note_damage(path, warning))
        compressed = CompressedGrains(device, found, grains) if found.compressed else None
        self._add(Part(self.size, size, type, path, device, 0, found, grains, compressed))

    def _refusal(self) -> UnsupportedFeature:
        return UnsupportedFeature(f"{self.path}: opened for its metadata only", feature="reading")

    def _note_damage(self, path: str, warning: str) -> None:
        self.damaged += 1
        self.warnings.append(f"{path}: {warning}")

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._starts.append(part.start)
        self.size += part.size


def _locate(part: Part, offset: int, length: int | None) -> Mapping:
    """The mapping that covers `offset` of the disk, inside `part`."""
    if part.grains is None:
        kind = Kind.ZERO if part.device is None else Kind.DATA
        return Mapping(kind, part.start, part.size, part.device_offset)
    kind, start, length, host_offset = part.grains.locate(offset - part.start, length)
    return Mapping(kind, part.start + start, min(length, part.size - start), host_offset)


def _stored(part: Part, device: BlockDevice, mapping: Mapping, offset: int, stop: int) -> Extent:
    """Bytes that are stored as they are; the last grain or sector may end past the file, and then in zeros."""
    host_offset = mapping.host_offset + offset - mapping.start
    available = device.size - host_offset
    if available >= stop - offset:
        return Extent(offset, stop - offset, device, host_offset)
    if available > 0:
        return Extent(offset, available, device, host_offset)
    unit = SECTOR_BYTES if part.sparse is None else part.sparse.grain_bytes
    inside = (offset - mapping.start) % unit
    if inside + available > 0:  # the unit begins before the end of the file
        return Extent(offset, min(stop - offset, unit - inside), None)
    raise InvalidFormat(
        f"offset {offset:#x} of the disk lies outside the file ({device.size} bytes)",
        structure="grain",
        offset=host_offset - inside,
    )


def read_descriptor(path: str, device: BlockDevice) -> tuple[Descriptor, SparseLayout | None, list[str]]:
    """The descriptor in `device`, and if it is embedded in a sparse extent that extent's layout and warnings."""
    magic = bytes(device.read(0, min(8, device.size)))
    if magic[:4] == layout.COWD_MAGIC or magic == layout.SESPARSE_MAGIC_BYTES:
        raise _extent_alone(path)
    if magic[:4] != layout.SPARSE_MAGIC:
        return parse_descriptor(bytes(device.read(0, min(MAX_BYTES + 1, device.size)))), None, []
    found, warnings = read_sparse_layout(device)
    offset, length = found.descriptor_offset, found.descriptor_bytes
    if not length:
        raise _extent_alone(path)
    if length > MAX_BYTES or offset + length > device.size:
        raise InvalidFormat(
            f"{length} bytes do not lie in the file ({device.size} bytes)", structure="descriptor", offset=offset
        )
    data = bytes(device.read(offset, length))
    if not any(data):  # what qemu-img reserves in the extents of a split image
        raise _extent_alone(path)
    return parse_descriptor(data, offset), found, warnings


def _extent_alone(path: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"{path} is one extent of a disk: open the disk's descriptor file", feature="extent without descriptor"
    )
