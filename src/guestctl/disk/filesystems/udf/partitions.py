"""Partitions of a logical volume (3/10.7, UDF 2.2.8 to 2.2.12): each is a device of its logical blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from struct import unpack

from guestctl.block import BlockDevice
from guestctl.block.device import Extent, MappedDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.udf import layout as L


class Partition(MappedDevice):
    """The blocks that a partition map has, wherever they lie on the volume's device."""

    def __init__(self, device: BlockDevice, block_size: int, size: int) -> None:
        self.device = device
        self.block_size = block_size
        self.size = size

    def address(self, block: int) -> int:
        """The block of the volume's device in which a logical block lies."""
        self.check_range(block * self.block_size, self.block_size)
        source: BlockDevice | None = self
        offset = block * self.block_size
        while isinstance(source, MappedDevice) and source is not self.device:
            extent = source.extent(offset)
            source, offset = extent.source, extent.source_offset + offset - extent.start
        if source is None:
            raise InvalidFormat(f"block {block} is not there", structure="partition", offset=0)
        return offset // self.block_size


class PhysicalPartition(Partition):
    """Blocks that follow one another; cut off where the device ends."""

    def __init__(self, device: BlockDevice, block_size: int, start: int, count: int) -> None:
        self.start = start * block_size
        super().__init__(device, block_size, max(0, min(count * block_size, device.size - self.start)))

    def extent(self, offset: int) -> Extent:
        return Extent(0, self.size, self.device, self.start)


class SparablePartition(PhysicalPartition):
    """A physical partition of which some packets are elsewhere: pairs of their first blocks."""

    def __init__(
        self,
        device: BlockDevice,
        block_size: int,
        start: int,
        count: int,
        packet: int,
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(device, block_size, start, count)
        self._packet_bytes = packet * block_size
        self._spared = {original * block_size: mapped * block_size for original, mapped in pairs}
        self._starts = sorted(self._spared)

    def extent(self, offset: int) -> Extent:
        index = bisect_right(self._starts, offset)
        before = self._starts[index - 1] if index else -self._packet_bytes
        if offset < before + self._packet_bytes:
            return Extent(before, self._packet_bytes, self.device, self._spared[before])
        start = before + self._packet_bytes if index else 0
        end = self._starts[index] if index < len(self._starts) else self.size
        return Extent(start, end - start, self.device, self.start + start)


class VirtualPartition(Partition):
    """Blocks whose places the virtual allocation table tells, in the physical partition of the same number."""

    def __init__(self, physical: Partition, table: bytes) -> None:
        self._entries = unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
        super().__init__(physical.device, physical.block_size, len(self._entries) * physical.block_size)
        self._physical = physical

    def extent(self, offset: int) -> Extent:
        block = offset // self.block_size
        entry = self._entries[block]
        if entry == L.UNALLOCATED_BLOCK:
            raise InvalidFormat(f"block {block} is not allocated", structure="virtual allocation table", offset=0)
        return Extent(block * self.block_size, self.block_size, self._physical, entry * self.block_size)


class MetadataPartition(Partition):
    """The blocks of the metadata file."""

    def __init__(self, physical: Partition, data: MappedDevice) -> None:
        super().__init__(physical.device, physical.block_size, data.size)
        self._data = data

    def extent(self, offset: int) -> Extent:
        return self._data.extent(offset)
