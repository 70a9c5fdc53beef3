"""File entries (ICBs, 4/14.9 and 4/14.17) and where the data of files lies (4/14.14)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestctl.block.device import Extent, ExtentsDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.udf import layout as L
from guestctl.disk.filesystems.udf.partitions import Partition
from guestctl.disk.filesystems.udf.tag import check_tag
from guestctl.disk.stat import PlainStat

_MAX_INDIRECT_ENTRIES = 64
# One file of 1 TiB in extents of 1 MiB; each needs some 200 bytes of memory.
_MAX_EXTENTS = 1 << 20
_MAX_SIZE = (1 << 63) - 1
_STRUCTURE = "file entry"


class FileEntry(NamedTuple):
    """What an ICB holds. ``partition`` is the number of its partition, ``offset`` its place on the device."""

    partition: int
    block: int
    offset: int
    data: bytes
    kind: int  # file type as in ICB tags
    flags: int
    uid: int
    gid: int
    permissions: int
    links: int
    size: int
    extended: bool

    @property
    def mode(self) -> int:
        allowed = self.permissions & 0o7 | self.permissions >> 2 & 0o70 | self.permissions >> 4 & 0o700
        for flag, bit in L.FLAG_MODES:
            allowed |= bit if self.flags & flag else 0
        kind = L.FILE_TYPES.get(self.kind)
        if kind is None:
            raise InvalidFormat(f"file type {self.kind}", structure=_STRUCTURE, offset=self.offset)
        return kind | (0o777 if kind == stat.S_IFLNK else allowed)

    def allocation(self) -> tuple[int, int]:
        """Where in ``data`` the allocation descriptors are, and their length."""
        lengths = L.EXTENDED_ENTRY_LENGTHS if self.extended else L.ENTRY_LENGTHS
        attributes, length = lengths.unpack_from(self.data)
        start = (L.EXTENDED_ENTRY_BYTES if self.extended else L.ENTRY_BYTES) + attributes
        if start + length > len(self.data):
            raise InvalidFormat(
                f"{length} bytes of allocation descriptors at {start}", structure=_STRUCTURE, offset=self.offset
            )
        return start, length

    def device_numbers(self) -> int:
        """Of the device specification among the extended attributes (4/14.10.7), without which there is no device."""
        start = L.EXTENDED_ENTRY_BYTES if self.extended else L.ENTRY_BYTES
        end = self.allocation()[0]
        at = start + L.ATTRIBUTES_BYTES
        if at <= end:
            identifier, *_, location = L.TAG.unpack_from(self.data, start)
            if (identifier, location) != (L.ATTRIBUTE_HEADER, self.block):
                message = f"descriptor {identifier} of block {location}"
                raise InvalidFormat(message, structure="extended attributes", offset=self.offset + start)
        while at + L.DEVICE_NUMBERS.size <= end:
            kind, subtype, length = L.ATTRIBUTE.unpack_from(self.data, at)
            if (kind, subtype) == L.DEVICE_SPECIFICATION:
                major, minor = L.DEVICE_NUMBERS.unpack_from(self.data, at)
                return os.makedev(major & 0xFFF, minor & 0xFFFFF)
            if length < L.ATTRIBUTE.size:
                break
            at += length
        raise InvalidFormat("no device specification", structure="extended attributes", offset=self.offset + start)

    def status(self, inode: int) -> PlainStat:
        """As Linux shows it."""
        if self.extended:
            accessed, modified, created, changed = L.EXTENDED_ENTRY_TIMES.unpack_from(self.data)
            (blocks,) = L.EXTENDED_ENTRY_BLOCKS.unpack_from(self.data)
        else:
            accessed, modified, changed = L.ENTRY_TIMES.unpack_from(self.data)
            (blocks,) = L.ENTRY_BLOCKS.unpack_from(self.data)
            created = b""
        mode = self.mode
        if not self.links:
            raise InvalidFormat("0 links", structure=_STRUCTURE, offset=self.offset)
        return PlainStat(
            st_ino=inode,
            st_mode=mode,
            st_nlink=self.links + stat.S_ISDIR(mode),
            st_size=self.size,
            st_blocks=blocks * len(self.data) // 512,
            st_atime_ns=_time_ns(accessed),
            st_mtime_ns=_time_ns(modified),
            st_ctime_ns=_time_ns(changed),
            st_birthtime_ns=_time_ns(created) if created else None,
            st_uid=L.OVERFLOW_OWNER if self.uid == L.NO_OWNER else self.uid,
            st_gid=L.OVERFLOW_OWNER if self.gid == L.NO_OWNER else self.gid,
            st_rdev=self.device_numbers() if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        )


class Entries:
    """Reads the entries of a volume with these partitions, and where their data lies."""

    def __init__(self, partitions: Sequence[Partition], *, verify: bool) -> None:
        self.partitions = partitions
        self._verify = verify

    def partition(self, number: int) -> Partition:
        if number >= len(self.partitions):
            raise InvalidFormat(f"no partition {number}", structure="address", offset=0)
        return self.partitions[number]

    def descriptor(self, number: int, block: int) -> tuple[int, bytes, int]:
        """(identifier, the whole block, its offset on the device) of a descriptor in a partition."""
        partition = self.partition(number)
        offset = partition.address(block) * partition.block_size
        data = bytes(partition.read(block * partition.block_size, partition.block_size))
        return check_tag(data, offset, block, verify=self._verify), data, offset

    def read(self, number: int, block: int) -> FileEntry:
        """The entry in a block, or with strategy 4096 the last one that it leads to."""
        for _ in range(_MAX_INDIRECT_ENTRIES):
            identifier, data, offset = self.descriptor(number, block)
            if identifier not in (L.FILE_ENTRY, L.EXTENDED_FILE_ENTRY):
                raise InvalidFormat(f"descriptor {identifier} instead", structure=_STRUCTURE, offset=offset)
            strategy, kind, flags, uid, gid, permissions, links, size = L.ENTRY.unpack_from(data)
            if strategy not in (L.STRATEGY, L.STRATEGY_INDIRECT):
                raise UnsupportedFeature(f"ICB strategy {strategy}", feature=f"ICB strategy {strategy}")
            following = self._indirect(number, block + 1) if strategy == L.STRATEGY_INDIRECT else None
            if following is None:
                if size > _MAX_SIZE:
                    raise InvalidFormat(f"{size} bytes", structure=_STRUCTURE, offset=offset)
                extended = identifier == L.EXTENDED_FILE_ENTRY
                return FileEntry(number, block, offset, data, kind, flags, uid, gid, permissions, links, size, extended)
            number, block = following
        raise InvalidFormat("indirect entries without end", structure=_STRUCTURE, offset=offset)

    def _indirect(self, number: int, block: int) -> tuple[int, int] | None:
        """Where the indirect entry in a block leads, if there is one."""
        try:
            identifier, data, _ = self.descriptor(number, block)
        except InvalidFormat:  # nothing was ever written there
            return None
        length, following, partition = L.LONG_AD.unpack(data[L.INDIRECT_ICB])
        return (partition, following) if identifier == L.INDIRECT_ENTRY and length else None

    def data(self, entry: FileEntry) -> ExtentsDevice:
        """The bytes of a file of any type."""
        start, length = entry.allocation()
        kind = entry.flags & L.ALLOCATION_MASK
        if kind == L.EMBEDDED:
            if length != entry.size:
                message = f"{length} bytes embedded of {entry.size}"
                raise InvalidFormat(message, structure=_STRUCTURE, offset=entry.offset)
            partition = self.partition(entry.partition)
            extent = Extent(0, length, partition, entry.block * partition.block_size + start)
            return ExtentsDevice([extent], entry.size)
        if kind not in (L.SHORT, L.LONG):
            feature = "extended allocation descriptors" if kind == L.EXTENDED else f"allocation descriptors {kind}"
            raise UnsupportedFeature(feature, feature=feature)
        return ExtentsDevice(self._extents(entry, entry.data[start : start + length], kind), entry.size)

    def _extents(self, entry: FileEntry, descriptors: bytes, kind: int) -> list[Extent]:
        """One that ends inside a block has it to itself: Linux writes such files, and so it reads them (4/12.1)."""
        extents: list[Extent] = []
        position = recorded_bytes = 0
        for length, recorded, block, number in self._descriptors(entry, descriptors, kind):
            if position >= entry.size:
                break
            partition = self.partition(number)
            recorded_bytes += length
            length = recorded_bytes + -recorded_bytes % partition.block_size - position
            if not length:
                continue
            start = block * partition.block_size
            if recorded and start + length > partition.size:
                message = f"an extent of {length} bytes at block {block}, outside its partition"
                raise InvalidFormat(message, structure=_STRUCTURE, offset=entry.offset)
            if len(extents) >= _MAX_EXTENTS:
                raise InvalidFormat("too many extents", structure=_STRUCTURE, offset=entry.offset)
            extents.append(Extent(position, length, partition if recorded else None, start if recorded else 0))
            position += length
        if position < entry.size:
            extents.append(Extent(position, entry.size - position, None))
        return extents

    def _descriptors(self, entry: FileEntry, data: bytes, kind: int) -> Iterator[tuple[int, bool, int, int]]:
        """(length, whether it is recorded, block, partition) of each extent, through the continuations."""
        layout = L.SHORT_AD if kind == L.SHORT else L.LONG_AD
        number, seen = entry.partition, set()
        while True:
            following = None
            for length, block, *rest in layout.iter_unpack(data[: len(data) // layout.size * layout.size]):
                place = rest[0] if rest else number
                if not length & L.EXTENT_LENGTH_MASK:
                    return
                if length >> 30 == L.EXTENT_CONTINUES:
                    following = place, block
                    break
                yield length & L.EXTENT_LENGTH_MASK, length >> 30 == L.EXTENT_RECORDED, block, place
            if following is None:
                return
            if following in seen:
                raise InvalidFormat("allocation descriptors in a circle", structure=_STRUCTURE, offset=entry.offset)
            seen.add(following)
            data = self._continuation(*following)

    def _continuation(self, number: int, block: int) -> bytes:
        identifier, data, offset = self.descriptor(number, block)
        (length,) = L.ALLOCATION_EXTENT_LENGTH.unpack_from(data)
        if identifier != L.ALLOCATION_EXTENT or L.ALLOCATION_EXTENT_BYTES + length > len(data):
            message = f"descriptor {identifier} of {length} bytes"
            raise InvalidFormat(message, structure="allocation extent descriptor", offset=offset)
        return data[L.ALLOCATION_EXTENT_BYTES : L.ALLOCATION_EXTENT_BYTES + length]


def _time_ns(data: bytes) -> int:
    """A time in its own zone, or in UTC where that is not given (1/7.3)."""
    zone, year, month, day, hour, minute, second, centi, hundreds, micro = L.TIMESTAMP.unpack(data)
    offset = (zone & 0xFFF ^ 0x800) - 0x800 if zone >> 12 == 1 else 0
    if offset == -2047:
        offset = 0
    # Days of a calendar whose years begin in March, so that impossible dates count on, as Linux has it
    month -= 2
    if month <= 0:
        month, year = month + 12, year - 1
    days = year * 365 + year // 4 - year // 100 + year // 400 + 367 * month // 12 + day - 719499
    seconds: int = ((days * 24 + hour) * 60 + minute - offset) * 60 + second
    microseconds: int = centi * 10_000 + hundreds * 100 + micro
    return seconds * 10**9 + (microseconds * 1000 if max(centi, hundreds, micro) < 100 else 0)
