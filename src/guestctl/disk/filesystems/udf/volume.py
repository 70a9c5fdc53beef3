"""The descriptors of a volume (3/8.4, 4/8.3): its partitions, its file set, and what is free."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.block.device import ExtentsDevice, SliceDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.udf import layout as L
from guestctl.disk.filesystems.udf.entry import Entries
from guestctl.disk.filesystems.udf.partitions import (
    MetadataPartition,
    Partition,
    PhysicalPartition,
    SparablePartition,
    VirtualPartition,
)
from guestctl.disk.filesystems.udf.recognition import Anchor, find_anchors
from guestctl.disk.filesystems.udf.tag import check_tag

_MAX_BLOCKS = 1024  # of descriptors in a sequence
_MAX_POINTERS = 64  # from one part of a sequence to the next; as Linux has it
_MAX_TABLE_BYTES = 4 << 20  # a virtual allocation table of a million entries; no write-once disc holds more files
_MAX_CRC_BYTES = 0xFFFF
_VAT_PLACES = 4  # from the last block backwards
_LOGICAL = "logical volume descriptor"


class PartitionDescriptor(NamedTuple):
    start: int
    blocks: int
    bitmap: tuple[int, int]  # unallocated space bitmap: length in bytes and block


class Integrity(NamedTuple):
    """A logical volume integrity descriptor (3/10.10)."""

    is_open: bool
    free: tuple[int, ...]  # blocks of each partition
    files: int
    directories: int


class Volume:
    """An open volume. A sequence of descriptors ends at one that is damaged, if that is `allowed`."""

    def __init__(
        self, device: BlockDevice, anchor: Anchor, extent: tuple[int, int], *, verify: bool, allowed: bool
    ) -> None:
        self.device = device
        self.block_size = anchor.block_size
        self.warnings: list[str] = []
        self._verify = verify
        logical, self._descriptors = self._sequence(*extent, allowed)
        block_size, file_set, maps_length, maps_count, *integrity = L.LOGICAL.unpack_from(logical)
        if block_size != self.block_size:
            message = f"blocks of {block_size} bytes where descriptors have {self.block_size}"
            raise InvalidFormat(message, structure=_LOGICAL, offset=extent[1] * self.block_size)
        self.numbers: list[int] = []  # of the partition descriptor that each partition is on
        self.partitions: list[Partition] = []
        self.entries = Entries(self.partitions, verify=verify)
        for data in self._maps(logical, maps_length, maps_count):
            self._add_partition(data)
        self.integrity = self._integrity(*integrity)
        _, block, self.main_partition = L.LONG_AD.unpack(file_set)
        identifier, data, offset = self.entries.descriptor(self.main_partition, block)
        if identifier != L.FILE_SET:
            raise InvalidFormat(f"descriptor {identifier} instead", structure="file set", offset=offset)
        _, root_block, root_partition = L.LONG_AD.unpack(data[L.FILE_SET_ROOT])
        self.root = root_partition, root_block

    def _block(self, block: int) -> tuple[int, bytes] | None:
        """(tag identifier, the block) of a descriptor by its place on the device; None where there is none."""
        offset = block * self.block_size
        if offset + self.block_size > self.device.size:
            return None
        data = bytes(self.device.read(offset, self.block_size))
        return (check_tag(data, offset, block, verify=self._verify), data) if any(data[: L.TAG_BYTES]) else None

    # The volume descriptor sequence

    def _sequence(self, length: int, start: int, allowed: bool) -> tuple[bytes, dict[int, PartitionDescriptor]]:
        """The prevailing logical volume descriptor, and the partition descriptors by their numbers."""
        logical: tuple[int, bytes] = (-1, b"")
        partitions: dict[int, tuple[int, PartitionDescriptor]] = {}
        for identifier, data in self._sequence_descriptors(length, start, allowed):
            (number,) = L.SEQUENCE_NUMBER.unpack_from(data)
            if identifier == L.LOGICAL_VOLUME and number >= logical[0]:
                logical = number, data
            elif identifier == L.PARTITION:
                own, first, count = L.PARTITION_DESCRIPTOR.unpack_from(data)
                bitmap = L.PARTITION_HEADER.unpack_from(data, L.PARTITION_HEADER_OFFSET)[2:]
                if own not in partitions or number >= partitions[own][0]:
                    partitions[own] = number, PartitionDescriptor(first, count, bitmap)
        if not logical[1]:
            raise InvalidFormat("none", structure=_LOGICAL, offset=start * self.block_size)
        return logical[1], {own: found for own, (_, found) in partitions.items()}

    def _sequence_descriptors(self, length: int, block: int, allowed: bool) -> Iterator[tuple[int, bytes]]:
        end = block + length // self.block_size
        pointers = 0
        for _ in range(_MAX_BLOCKS):
            try:
                found = self._block(block) if block < end else None
            except InvalidFormat:
                if not allowed:
                    raise
                return
            if found is None or found[0] == L.TERMINATING:
                return
            block += 1
            if found[0] == L.VOLUME_POINTER:
                length, block = L.NEXT_SEQUENCE.unpack_from(found[1])
                end = block + length // self.block_size
                pointers += 1
                if pointers > _MAX_POINTERS:
                    break
            else:
                yield found
        raise InvalidFormat("without end", structure="volume descriptor sequence", offset=block * self.block_size)

    def _integrity(self, length: int, block: int) -> Integrity | None:
        """The last descriptor of the integrity sequence; None where there is none, or it is damaged."""
        last = None
        for _ in range(_MAX_BLOCKS):
            try:
                found = self._block(block) if length >= self.block_size else None
            except InvalidFormat:
                break
            if found is None or found[0] != L.INTEGRITY:
                break
            last = found[1]
            _, next_length, next_block, _, _ = L.INTEGRITY_DESCRIPTOR.unpack_from(last)
            if next_length:
                length, block = next_length, next_block
            else:
                length, block = length - self.block_size, block + 1
        return None if last is None else self._parse_integrity(last)

    def _parse_integrity(self, data: bytes) -> Integrity | None:
        kind, _, _, count, use_length = L.INTEGRITY_DESCRIPTOR.unpack_from(data)
        use = L.INTEGRITY_TABLES_OFFSET + 8 * count
        if use + use_length > len(data):
            return None
        files = directories = revision = 0
        if use_length >= L.INTEGRITY_USE.size:
            files, directories, revision = L.INTEGRITY_USE.unpack_from(data, use)
        if revision > L.MAX_READ_REVISION:
            raise UnsupportedFeature(f"UDF {revision >> 8:x}.{revision & 0xFF:02x}", feature="UDF after 2.60")
        free = unpack_from(f"<{count}I", data, L.INTEGRITY_TABLES_OFFSET)
        return Integrity(kind == L.INTEGRITY_OPEN, free, files, directories)

    # Partitions

    def _maps(self, logical: bytes, length: int, count: int) -> Iterator[bytes]:
        at, end = L.PARTITION_MAPS_OFFSET, L.PARTITION_MAPS_OFFSET + length
        for _ in range(count):
            kind, size = L.MAP_HEADER.unpack_from(logical, at) if at + 2 <= min(end, len(logical)) else (0, 0)
            if size != L.MAP_BYTES.get(kind) or at + size > min(end, len(logical)):
                raise InvalidFormat(f"type {kind} of {size} bytes", structure="partition map", offset=at)
            yield logical[at : at + size]
            at += size

    def _add_partition(self, data: bytes) -> None:
        if data[0] == 1:
            _, number = L.MAP_TYPE1.unpack(data)
            identifier, revision = b"", 0
        else:
            identifier, revision, _, number = L.MAP_TYPE2.unpack_from(data)
        descriptor = self._descriptors.get(number)
        if descriptor is None:
            raise InvalidFormat(f"no partition {number}", structure="partition descriptor", offset=0)
        name = identifier.rstrip(b"\0")
        if not name:
            self.partitions.append(PhysicalPartition(self.device, self.block_size, descriptor.start, descriptor.blocks))
        elif name == L.SPARABLE_ID:
            packet, pairs = self._sparing(data)
            self.partitions.append(
                SparablePartition(self.device, self.block_size, descriptor.start, descriptor.blocks, packet, pairs)
            )
        elif name == L.METADATA_ID:
            self._add_metadata(number, *L.METADATA_MAP.unpack_from(data))
        elif name == L.VIRTUAL_ID:
            self._add_virtual(number, descriptor, revision)
        else:
            text = name.decode("latin-1")
            raise UnsupportedFeature(f"partition map {text!r}", feature=text)
        self.numbers.append(number)

    def physical(self, number: int) -> int:
        """Where in `partitions` the physical partition of that number is."""
        for index, partition in enumerate(self.partitions):
            if self.numbers[index] == number and isinstance(partition, PhysicalPartition):
                return index
        raise InvalidFormat(f"no map of partition {number} itself", structure="partition map", offset=0)

    def _sparing(self, data: bytes) -> tuple[int, list[tuple[int, int]]]:
        """Blocks of a packet, and which packets are elsewhere, by the newest table."""
        packet, count, size, *places = L.SPARABLE_MAP.unpack_from(data)
        newest: tuple[int, list[tuple[int, int]]] | None = None
        for block in places[: min(count, len(places))]:
            offset = block * self.block_size
            if size > _MAX_TABLE_BYTES or offset + size > self.device.size or size < L.SPARING.size:
                continue
            table = bytes(self.device.read(offset, size))
            try:
                kind = check_tag(table, offset, block, verify=self._verify)
            except InvalidFormat:
                continue
            identifier, entries, number = L.SPARING.unpack_from(table)
            end = L.SPARING.size + entries * L.SPARING_ENTRY.size
            if kind != L.SPARING_TABLE or identifier.rstrip(b"\0") != L.SPARING_TABLE_ID or end > len(table):
                continue
            if newest is None or number > newest[0]:
                pairs = L.SPARING_ENTRY.iter_unpack(table[L.SPARING.size : end])
                newest = number, [pair for pair in pairs if pair[0] < L.UNUSED_PACKET]
        if newest is None or not packet:
            raise InvalidFormat("none that is sound", structure="sparing table", offset=0)
        return packet, newest[1]

    def _add_metadata(self, number: int, main: int, mirror: int) -> None:
        physical = self.physical(number)
        try:
            data = self._metadata_file(physical, main)
        except InvalidFormat as error:
            self.warnings.append(f"the metadata file is damaged, and its mirror is read instead: {error}")
            data = self._metadata_file(physical, mirror)
        self.partitions.append(MetadataPartition(self.partitions[physical], data))

    def _metadata_file(self, physical: int, block: int) -> ExtentsDevice:
        entry = self.entries.read(physical, block)
        if entry.kind not in L.METADATA_TYPES:
            raise InvalidFormat(f"file type {entry.kind}", structure="metadata file", offset=entry.offset)
        return self.entries.data(entry)

    def _add_virtual(self, number: int, descriptor: PartitionDescriptor, revision: int) -> None:
        """The virtual allocation table is the last thing that was written."""
        physical = self.physical(number)
        last = self.device.size // self.block_size - 1 - descriptor.start
        error: GuestctlError = InvalidFormat("none", structure="virtual allocation table", offset=0)
        for block in range(last, max(-1, last - _VAT_PLACES), -1):
            try:
                entry = self.entries.read(physical, block)
                table = self._table(self.entries.data(entry), revision)
            except GuestctlError as damage:
                error = damage
                continue
            self.partitions.append(VirtualPartition(self.partitions[physical], table))
            return
        raise error

    def _table(self, data: BlockDevice, revision: int) -> bytes:
        if not L.VAT_TRAILER_BYTES <= data.size <= _MAX_TABLE_BYTES:
            raise InvalidFormat(f"{data.size} bytes", structure="virtual allocation table", offset=0)
        table = bytes(data.read(0, data.size))
        if revision < 0x0200:
            return table[: -L.VAT_TRAILER_BYTES]
        (header,) = L.VAT_HEADER_LENGTH.unpack_from(table)
        return table[header:]

    # Free blocks

    def main_descriptor(self) -> PartitionDescriptor:
        """The descriptor of the partition that the file set is in."""
        return self._descriptors[self.numbers[self.main_partition]]

    def free_bitmap(self, index: int) -> tuple[BlockDevice, int] | None:
        """The bitmap of a partition's unallocated blocks, whose bits are set, and the count of its bits."""
        length, block = self._descriptors[self.numbers[index]].bitmap
        length &= L.EXTENT_LENGTH_MASK
        partition = self.partitions[index]
        offset = block * self.block_size
        if not length or not isinstance(partition, PhysicalPartition):
            return None
        if offset + length > partition.size or length < L.BITMAP.size:
            raise InvalidFormat(f"{length} bytes at block {block}", structure="space bitmap", offset=offset)
        data = bytes(partition.read(offset, min(length, L.TAG_BYTES + _MAX_CRC_BYTES)))
        identifier = check_tag(data, partition.start + offset, block, verify=self._verify)
        bits, count = L.BITMAP.unpack_from(data)
        if identifier != L.SPACE_BITMAP or L.BITMAP.size + count > length or bits > count * 8:
            raise InvalidFormat(f"{bits} bits", structure="space bitmap", offset=partition.start + offset)
        return SliceDevice(partition, offset + L.BITMAP.size, count), bits


def open_volume(device: BlockDevice, *, verify: bool) -> Volume:
    """By the first anchor and sequence that lead to a file set; sequences in which nothing is damaged come first.

    Raises as the first one that did not.
    """
    first: GuestctlError | None = None
    anchors = list(find_anchors(device))
    for allowed in (False, True):
        for anchor in anchors:
            for extent in (anchor.main, anchor.reserve):
                try:
                    return Volume(device, anchor, extent, verify=verify, allowed=allowed)
                except GuestctlError as error:
                    first = first or error
    raise first or InvalidFormat("none", structure="anchor volume descriptor pointer", offset=0)
