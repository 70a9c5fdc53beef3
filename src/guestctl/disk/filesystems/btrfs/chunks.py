"""Chunks: the logical address space of a filesystem, as a device over its devices.

Sections "CHUNK_ITEM" and "DEV_ITEM". Every profile is read: single, DUP, RAID0, RAID1, RAID1C3,
RAID1C4, RAID10, RAID5 and RAID6, with as many devices missing as the profile bears. Of several
copies the first that is on a device at hand is read; `LogicalSpace.copy` reads the others, for who
can tell a good copy from a bad one. Parity is used where a device is missing, and for such a
copy; it is not checked otherwise.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from guestctl.block import BlockDevice, parity
from guestctl.block.device import Buffer, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.btrfs import layout as L

_STRUCTURE = "CHUNK_ITEM"
# profile -> (least number of stripes, copies of each byte as stored)
_PROFILES = {
    0: (1, 1),
    L.DUP: (2, 2),
    L.RAID0: (1, 1),
    L.RAID1: (2, 2),
    L.RAID1C3: (3, 3),
    L.RAID1C4: (4, 4),
    L.RAID10: (2, 2),
    L.RAID5: (2, 1),
    L.RAID6: (3, 1),
}
_MIRRORED = L.DUP | L.RAID1 | L.RAID1C3 | L.RAID1C4


class MissingDevice(UnsupportedFeature):
    """What is asked for lies on devices of the filesystem that are not at hand; ``devids`` says which."""

    def __init__(self, devids: Iterable[int], uuids: dict[int, bytes]) -> None:
        self.devids = tuple(sorted(set(devids)))
        names = ", ".join(
            f"{devid} ({uuid.UUID(bytes=uuids[devid])})" if devid in uuids else str(devid) for devid in self.devids
        )
        super().__init__(f"Btrfs device {names} is missing", feature="missing device")


class Chunk(NamedTuple):
    """A range of logical addresses; ``stripes`` are (devid, offset on that device)."""

    start: int
    length: int
    type: int
    stripes: tuple[tuple[int, int], ...]
    sub_stripes: int

    @property
    def profile(self) -> int:
        return self.type & L.PROFILE_MASK

    @property
    def parity_count(self) -> int:
        return 1 if self.type & L.RAID5 else 2 if self.type & L.RAID6 else 0

    @property
    def stored_share(self) -> tuple[int, int]:
        """Bytes stored for bytes of content, as a fraction."""
        data = len(self.stripes) - self.parity_count
        return (len(self.stripes), data) if self.parity_count else (_PROFILES[self.profile][1], 1)


def parse_chunk(start: int, data: bytes, offset: int) -> tuple[Chunk, dict[int, bytes], int]:
    """The chunk at logical address `start`, the UUIDs of its devices, and the length of the item in `data`."""
    if len(data) < L.CHUNK.size:
        raise InvalidFormat(f"{len(data)} bytes", structure=_STRUCTURE, offset=offset)
    length, _owner, stripe_len, kind, _align, _width, _sector, count, sub_stripes = L.CHUNK.unpack_from(data)
    size = L.CHUNK.size + count * L.STRIPE.size
    profile = kind & L.PROFILE_MASK
    if profile not in _PROFILES:
        raise InvalidFormat(f"type is {kind:#x}", structure=_STRUCTURE, offset=offset)
    least, _ = _PROFILES[profile]
    if (
        size > len(data)
        or count < least
        or (profile == 0 and count != 1)
        or (profile & _MIRRORED and count != least)
        or (profile == L.RAID10 and (sub_stripes != 2 or count % 2))
    ):
        message = f"{count} stripes, {sub_stripes} sub-stripes, type {kind:#x}, in {len(data)} bytes"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
    if stripe_len != L.STRIPE_LEN or not 0 < length <= L.MAX_U64 - start:
        message = f"length {length}, stripe_len {stripe_len}"
        raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
    rows = list(L.STRIPE.iter_unpack(data[L.CHUNK.size : size]))
    stripes = tuple((devid, physical) for devid, physical, _ in rows)
    return Chunk(start, length, kind, stripes, sub_stripes), {devid: name for devid, _, name in rows}, size


class LogicalSpace(MappedDevice):
    """The logical addresses as a device; `devices` are those at hand, by devid."""

    def __init__(self, devices: dict[int, BlockDevice]) -> None:
        self.devices = devices
        self.uuids: dict[int, bytes] = {}
        self.size = 0
        self.chunk_list: list[Chunk] = []
        self._starts: list[int] = []

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Make more addresses known. Raises `InvalidFormat` where chunks overlap."""
        by_start = {chunk.start: chunk for chunk in self.chunk_list}
        by_start.update((chunk.start, chunk) for chunk in chunks)
        self.chunk_list = [by_start[start] for start in sorted(by_start)]
        self._starts = [chunk.start for chunk in self.chunk_list]
        for chunk, following in zip(self.chunk_list, self._starts[1:], strict=False):
            if chunk.start + chunk.length > following:
                message = f"chunk {chunk.start:#x} of {chunk.length} bytes reaches over {following:#x}"
                raise InvalidFormat(message, structure=_STRUCTURE, offset=chunk.stripes[0][1])
        if self.chunk_list:
            self.size = self.chunk_list[-1].start + self.chunk_list[-1].length

    def missing(self) -> set[int]:
        """Devices that hold chunks and are not at hand."""
        return {devid for chunk in self.chunk_list for devid, _ in chunk.stripes if devid not in self.devices}

    def chunk(self, offset: int) -> Chunk:
        index = bisect_right(self._starts, offset) - 1
        if index >= 0:
            chunk = self.chunk_list[index]
            if offset < chunk.start + chunk.length:
                return chunk
        raise InvalidFormat(f"logical address {offset:#x} is in no chunk", structure=_STRUCTURE, offset=0)

    def extent(self, offset: int) -> Extent:
        chunk = self.chunk(offset)
        start, length, places = _places(chunk, offset)
        for devid, physical in places:
            device = self.devices.get(devid)
            if device is not None:
                return Extent(start, length, device, physical)
        if chunk.parity_count:
            return Extent(start, length, self, start)
        raise MissingDevice([devid for devid, _ in places], self.uuids)

    def compute(self, offset: int, length: int) -> Buffer:
        """Bytes of RAID5 or RAID6 whose device is missing."""
        parts = []
        while length:
            chunk = self.chunk(offset)
            start, extent_length, _ = _places(chunk, offset)
            part = min(length, start + extent_length - offset)
            parts.append(self._rebuild(chunk, offset, part, avoid=0))
            offset += part
            length -= part
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy_count(self, offset: int) -> int:
        """How many ways there are to read what is at `offset`."""
        chunk = self.chunk(offset)
        return 1 + chunk.parity_count if chunk.parity_count else _PROFILES[chunk.profile][1]

    def physical(self, offset: int) -> int:
        """Where the first copy lies on its device, for messages."""
        return _places(self.chunk(offset), offset)[2][0][1]

    def copy(self, offset: int, length: int, number: int) -> bytes:
        """The bytes from `offset` by copy `number`, from 0. Raises `MissingDevice` where that is not at hand.

        Of RAID5 and RAID6 copy 1 is what the other stripes and P say, copy 2 what they and Q say.
        """
        parts = []
        whole = self.chunk(offset)
        if offset + length > whole.start + whole.length:
            message = f"{length} bytes at {offset:#x} reach over the end of a chunk"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=whole.stripes[0][1])
        while length:
            chunk = self.chunk(offset)
            start, extent_length, places = _places(chunk, offset)
            part = min(length, start + extent_length - offset)
            if chunk.parity_count and (number or places[0][0] not in self.devices):
                parts.append(self._rebuild(chunk, offset, part, avoid=max(0, number - 1)))
            else:
                devid, physical = places[number]
                if devid not in self.devices:
                    raise MissingDevice([devid], self.uuids)
                parts.append(bytes(self.devices[devid].read(physical + offset - start, part)))
            offset += part
            length -= part
        return b"".join(parts)

    def _rebuild(self, chunk: Chunk, offset: int, length: int, *, avoid: int) -> bytes:
        """Bytes of one data stripe from the other stripes of its row; with `avoid` 1 not by P."""
        count = len(chunk.stripes)
        data_count = count - chunk.parity_count
        number, skip = divmod(offset - chunk.start, L.STRIPE_LEN)
        row, wanted = divmod(number, data_count)
        stripes: dict[int, bytes] = {}
        for index in range(count):
            devid, physical = chunk.stripes[(index + row) % count]
            if index != wanted and devid in self.devices and not (avoid and index == data_count):
                stripes[index] = bytes(self.devices[devid].read(physical + row * L.STRIPE_LEN + skip, length))
        p, q = stripes.pop(data_count, None), stripes.pop(data_count + 1, None)
        missing = [index for index in range(data_count) if index not in stripes]
        result = parity.rebuild(missing, stripes, p, q, length)
        if result is None:
            raise MissingDevice([devid for devid, _ in chunk.stripes if devid not in self.devices], self.uuids)
        return result[missing.index(wanted)]


def _places(chunk: Chunk, offset: int) -> tuple[int, int, list[tuple[int, int]]]:
    """The piece of a chunk around `offset`: logical start, length, and (devid, offset) of each copy of its start."""
    profile = chunk.profile
    if profile == 0 or profile & _MIRRORED:
        return chunk.start, chunk.length, list(chunk.stripes)
    count = len(chunk.stripes)
    number = (offset - chunk.start) // L.STRIPE_LEN
    start = chunk.start + number * L.STRIPE_LEN
    length = min(L.STRIPE_LEN, chunk.start + chunk.length - start)
    if profile == L.RAID0:
        row, index = divmod(number, count)
        chosen = chunk.stripes[index : index + 1]
    elif profile == L.RAID10:
        row, index = divmod(number, count // 2)
        chosen = chunk.stripes[2 * index : 2 * index + 2]
    else:
        row, index = divmod(number, count - chunk.parity_count)
        chosen = (chunk.stripes[(index + row) % count],)
    return start, length, [(devid, physical + row * L.STRIPE_LEN) for devid, physical in chosen]
