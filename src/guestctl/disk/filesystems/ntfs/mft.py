"""The master file table: file records, their attributes, and what the attributes hold.

The table's own record tells where the table is; where that record is damaged, the copy in $MFTMirr
is used. Records are read and mended in chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.attributes import Attribute, ListEntry, iter_attributes, parse_list
from guestctl.disk.filesystems.ntfs.boot_sector import BootSector
from guestctl.disk.filesystems.ntfs.compression import CompressedData
from guestctl.disk.filesystems.ntfs.fixups import mend
from guestctl.disk.filesystems.ntfs.runlist import Segment, StreamData, Volume, parse_runs

_CHUNK_BYTES = 32 << 10
_MAX_CHUNKS = 512  # 16 MiB
_STRUCTURE = "file record"
# A record number has 48 bits, but no table has more than 2^32 - 1 records.
_MAX_RECORDS = 1 << 32


class Place(NamedTuple):
    """A file record: at `at` in `data`."""

    data: bytes
    at: int


class Chunk(NamedTuple):
    """Some file records in a row, mended, and what is wrong with those in it that are damaged."""

    data: bytes
    damaged: dict[int, str]
    usual: bool  # all have a sound $STANDARD_INFORMATION in its usual place, and none extends another record


class Located(NamedTuple):
    """A stream: its first part, and where the others are."""

    attribute: Attribute
    parts: list[ListEntry]


class MasterFileTable:
    def __init__(self, device: BlockDevice, boot: BootSector, warnings: list[str]) -> None:
        self.boot = boot
        self.volume = Volume(device, boot.cluster_size, boot.clusters)
        self.record_size = boot.record_size
        self.shift = max(0, (_CHUNK_BYTES // boot.record_size).bit_length() - 1)
        self.chunks: dict[int, Chunk] = {}
        self._warnings = warnings
        self._mirror_warned = False
        self.data: BlockDevice = MemoryDevice(b"")
        self.count = 0
        self._bootstrap()

    # The table itself

    def _bootstrap(self) -> None:
        record, offset = self._first_record()
        attributes = list(iter_attributes(record, offset))
        data = next((item for item in attributes if item.type == L.DATA and not item.name), None)
        if data is None or data.value is not None or data.first_vcn:
            raise InvalidFormat("the table has no data", structure=_STRUCTURE, offset=offset)
        segments = [self._segment(data)]
        self._map(data, segments)
        listed = next((item for item in attributes if item.type == L.ATTRIBUTE_LIST), None)
        if listed is None:
            return
        # Each part is in a record that the parts before it map.
        for entry in sorted(self._list_entries(listed), key=lambda entry: entry.first_vcn):
            if entry.type == L.DATA and not entry.name and entry.first_vcn:
                segment = self._segment(self._part(entry, 0))
                if segment.first != segments[-1].end:
                    raise InvalidFormat(
                        f"the table's VCN {segment.first} follows {segments[-1].end}",
                        structure=_STRUCTURE,
                        offset=offset,
                    )
                segments.append(segment)
                self._map(data, segments)

    def _first_record(self) -> tuple[bytes, int]:
        damage = ""
        for cluster in (self.boot.mft_cluster, self.boot.mirror_cluster):
            offset = cluster * self.boot.cluster_size
            if not 0 < cluster < self.boot.clusters or offset + self.record_size > self.volume.device.size:
                damage = damage or f"cluster {cluster} is outside the volume"
                continue
            record, damaged = mend(self.volume.device.read(offset, self.record_size), self.record_size, L.FILE_MAGIC)
            if not damaged:
                if damage:
                    self._warn_mirror(damage)
                return record, offset
            damage = damage or damaged[0]
        offset = self.boot.mft_cluster * self.boot.cluster_size
        raise InvalidFormat(f"neither $MFT nor its mirror: {damage}", structure=_STRUCTURE, offset=offset)

    def _warn_mirror(self, damage: str) -> None:
        if not self._mirror_warned:
            self._mirror_warned = True
            self._warnings.append(f"the first file records are read from $MFTMirr: {damage}")

    def _map(self, data: Attribute, segments: list[Segment]) -> None:
        runs = [run for segment in segments for run in segment.runs]
        whole = Segment(0, segments[-1].end, runs)
        size = min(data.size, whole.end * self.volume.cluster_size)
        self.data = StreamData(self.volume, size, min(data.initialized, size), lambda vcn: whole)
        self.count = min(size // self.record_size, _MAX_RECORDS)
        self.chunks.clear()

    # Records

    def place(self, node: int) -> Place:
        """The record in use that a reference or a record number means. Raises `InvalidFormat`."""
        number = node & L.RECORD_NUMBER_MASK
        chunk = self.chunks.get(number >> self.shift)
        data, damaged, _ = chunk if chunk is not None else self.load(number >> self.shift)
        index = number & ((1 << self.shift) - 1)
        at = index * self.record_size
        if index in damaged or at >= len(data):
            raise self.bad(number, damaged.get(index, f"there are {self.count} records"))
        _, _, _, sequence, _, _, flags, _, _ = L.RECORD.unpack_from(data, at)
        if not flags & L.IN_USE:
            raise self.bad(number, "a deleted file")
        expected = node >> L.REFERENCE_BITS
        if expected and sequence != expected:
            raise self.bad(number, f"sequence number {sequence}, expected {expected}: the record was used again")
        return Place(data, at)

    def bad(self, number: int, message: str) -> InvalidFormat:
        number &= L.RECORD_NUMBER_MASK
        return InvalidFormat(f"record {number}: {message}", structure=_STRUCTURE, offset=self.record_offset(number))

    def record_offset(self, number: int) -> int:
        """Where the device has a record; 0 where it has none."""
        offset = number * self.record_size
        if offset + self.record_size > self.data.size or not isinstance(self.data, StreamData):
            return 0
        extent = self.data.extent(offset)
        return extent.source_offset + offset - extent.start

    def load(self, number: int) -> Chunk:
        """Read a chunk of records, and keep it. Raises `InvalidFormat` where it is past the table's end."""
        size = self.record_size
        start = (number << self.shift) * size
        length = min(size << self.shift, self.count * size - start)
        if length <= 0:
            raise self.bad(number << self.shift, f"there are {self.count} records")
        data, damaged = mend(self.data.read(start, length), size, L.FILE_MAGIC)
        if not number and any(index < L.MIRRORED_RECORDS for index in damaged):
            data = self._with_mirror(data, damaged)
        if len(self.chunks) >= _MAX_CHUNKS:
            del self.chunks[next(iter(self.chunks))]
        chunk = self.chunks[number] = Chunk(data, damaged, not damaged and _are_usual(data, size))
        return chunk

    def _with_mirror(self, data: bytes, damaged: dict[int, str]) -> bytes:
        offset, size = self.boot.mirror_cluster * self.boot.cluster_size, self.record_size
        length = L.MIRRORED_RECORDS * size
        if offset + length > self.volume.device.size:
            return data
        copies, bad_copies = mend(self.volume.device.read(offset, length), size, L.FILE_MAGIC)
        mended = bytearray(data)
        for index in [index for index in damaged if index < L.MIRRORED_RECORDS and index not in bad_copies]:
            self._warn_mirror(f"record {index}: {damaged.pop(index)}")
            mended[index * size : (index + 1) * size] = copies[index * size : (index + 1) * size]
        return bytes(mended)

    # Attributes

    def attributes(self, node: int) -> list[Attribute]:
        """The attributes that the record itself holds."""
        data, at = self.place(node)
        number = node & L.RECORD_NUMBER_MASK
        return list(iter_attributes(data[at : at + self.record_size], self.record_offset(number)))

    def names(self, node: int, kind: int) -> list[str]:
        """The names of all attributes of a type."""
        attributes = self.attributes(node)
        listed = next((item for item in attributes if item.type == L.ATTRIBUTE_LIST), None)
        found: list[Attribute] | list[ListEntry] = attributes if listed is None else self._list_entries(listed)
        return list(dict.fromkeys(item.name for item in found if item.type == kind and not item.first_vcn))

    def locate(self, node: int, kind: int, name: str = "") -> Located | None:
        """An attribute by type and name, wherever it is; None where there is none."""
        attributes = self.attributes(node)
        listed = next((item for item in attributes if item.type == L.ATTRIBUTE_LIST), None)
        if listed is None or kind == L.STANDARD_INFORMATION:
            for item in attributes:
                if item.type == kind and item.name == name:
                    return Located(item, [])
            return None
        entries = [item for item in self._list_entries(listed) if item.type == kind and item.name == name]
        if not entries:
            return None
        entries.sort(key=lambda entry: entry.first_vcn)
        first = self._part(entries[0], node)
        if first.first_vcn:
            raise self.bad(node, f"the first part of attribute {kind:#x} is missing")
        return Located(first, entries[1:])

    def _list_entries(self, listed: Attribute) -> list[ListEntry]:
        if listed.size > L.MAX_LIST_BYTES:
            raise InvalidFormat(
                f"{listed.size} bytes, more than the {L.MAX_LIST_BYTES} allowed",
                structure="$ATTRIBUTE_LIST",
                offset=listed.offset,
            )
        return parse_list(self.value(Located(listed, [])), listed.offset)

    def _part(self, entry: ListEntry, node: int) -> Attribute:
        """The attribute that an entry in the list of `node` means."""
        number, base_number = entry.reference & L.RECORD_NUMBER_MASK, node & L.RECORD_NUMBER_MASK
        data, at = self.place(entry.reference)
        base = L.RECORD.unpack_from(data, at)[8]
        if number != base_number and base & L.RECORD_NUMBER_MASK != base_number:
            raise self.bad(number, f"extends record {base & L.RECORD_NUMBER_MASK}, not {base_number}")
        for item in iter_attributes(data[at : at + self.record_size], self.record_offset(number)):
            if item.type == entry.type and item.id == entry.id and item.name == entry.name:
                if item.first_vcn != entry.first_vcn:
                    break
                return item
        raise self.bad(number, f"has no attribute {entry.type:#x} with id {entry.id} from VCN {entry.first_vcn} on")

    # What attributes hold

    def value(self, located: Located) -> bytes:
        """All of a small attribute, whose size the caller has checked."""
        if located.attribute.value is not None:
            return located.attribute.value
        return bytes(self.open(0, located).read(0, located.attribute.size))

    def open(self, node: int, located: Located) -> BlockDevice:
        """The bytes of a stream. Raises `UnsupportedFeature` where it is encrypted."""
        attribute = located.attribute
        if attribute.encrypted:
            raise UnsupportedFeature(f"record {node & L.RECORD_NUMBER_MASK} is encrypted with EFS", feature="EFS")
        if attribute.value is not None:
            return MemoryDevice(attribute.value)
        initialized = min(attribute.initialized, attribute.size)
        load = self._loader(node, located)
        if attribute.compressed:
            if attribute.flags & L.COMPRESSION_MASK != L.ATTRIBUTE_COMPRESSED:
                message = f"compression method {attribute.flags & L.COMPRESSION_MASK}"
                raise UnsupportedFeature(message, feature="NTFS compression method")
            unit = self.volume.cluster_size << attribute.unit_shift
            return CompressedData(self.volume, attribute.size, initialized, load, unit, attribute.offset)
        return StreamData(self.volume, attribute.size, initialized, load)

    def _segment(self, attribute: Attribute) -> Segment:
        first, end = attribute.first_vcn, attribute.end_vcn
        offset = attribute.offset
        return Segment(first, end, parse_runs(attribute.pairs, first, end, self.volume.clusters, offset))

    def _loader(self, node: int, located: Located) -> Callable[[int], Segment]:
        """From a VCN to the segment that holds it."""
        attribute, parts = located

        def load(vcn: int) -> Segment:
            if vcn < attribute.end_vcn:
                return self._segment(attribute)
            for index in range(len(parts) - 1, -1, -1):
                if parts[index].first_vcn <= vcn:
                    segment = self._segment(self._part(parts[index], node))
                    if vcn < segment.end:
                        return segment
                    break
            raise self.bad(node, f"VCN {vcn} of attribute {attribute.type:#x} is mapped nowhere")

        return load


def _are_usual(data: bytes, size: int) -> bool:
    count = len(data) // size
    for index, form, value in L.USUAL_VALUES:
        view = memoryview(data).cast(form)
        if view[index :: len(view) // count].tolist().count(value) != count:
            return False
    return True
