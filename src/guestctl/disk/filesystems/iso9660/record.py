"""Directory records (section 9.1), and the entries of Rock Ridge in their system use areas.

Rock Ridge is a sequence of entries with a signature of two letters; CE leads to where it goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.iso9660 import layout as L

_NS = 1_000_000_000
_UNIX_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MAX_CONTINUATIONS = 64
_MAX_CONTINUATION_BYTES = 32 << 10
# A link to the longest path has some thirty, attributes of 64 KiB that other readers know some 300.
_MAX_ENTRIES = 1024
_MAX_ZONE = 52  # quarters of an hour


@dataclass(slots=True)
class Record:
    """A directory record. Offsets and sizes are in bytes."""

    offset: int
    length: int
    data_offset: int
    size: int
    recorded: bytes
    flags: int
    interleaved: bool
    identifier: bytes
    system_use: bytes

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & L.FLAG_DIRECTORY)


def parse_record(data: bytes, at: int, offset: int, block_size: int) -> Record:
    """The record at `at` in `data`, which is at `offset` of the device."""
    if at + L.RECORD.size > len(data):
        raise _bad("ends early", offset)
    length, xar, block, size, recorded, flags, unit, gap, name_length = L.RECORD.unpack_from(data, at)
    end = at + L.RECORD.size + name_length
    if length < L.RECORD.size + name_length or at + length > len(data) or not name_length:
        raise _bad(f"{length} bytes with a name of {name_length}", offset)
    return Record(
        offset,
        length,
        (block + xar) * block_size,
        size,
        recorded,
        flags,
        bool(unit or gap),
        data[at + L.RECORD.size : end],
        data[end + (~name_length & 1) : at + length],
    )


@dataclass(slots=True)
class RockRidge:
    """What the entries of a record say; None where they say nothing."""

    name: bytes = b""
    mode: int | None = None
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    times: dict[int, int] = field(default_factory=dict)  # by the flags of TF, in nanoseconds
    child_block: int | None = None
    relocated: bool = False
    zisofs: tuple[bytes, int, int, int] | None = None  # algorithm, bytes of the header, log2 of a block, size
    target: bytes | None = None
    error: InvalidFormat | None = None  # where they are damaged; what comes before is known


class SystemUse:
    """Reads the system use areas of a volume; `skip` is LEN_SKP."""

    def __init__(self, device: BlockDevice, block_size: int, skip: int) -> None:
        self._device = device
        self._block_size = block_size
        self._skip = skip

    def rock_ridge(self, record: Record) -> RockRidge:
        """What the entries of `record` say."""
        rock = RockRidge()
        parts: list[bytes] = []
        joined = True
        try:
            for signature, payload in self.entries(record):
                if signature == b"SL" and payload:
                    joined = _add_components(parts, payload[1:], joined)
                else:
                    _interpret(rock, signature, payload)
        except InvalidFormat as error:
            rock.error = error
        if parts:
            rock.target = b"".join(parts)
        return rock

    def entries(self, record: Record) -> Iterator[tuple[bytes, bytes]]:
        """(signature, what follows the version) of each entry."""
        area, offset = record.system_use[self._skip :], record.offset
        count = 0
        for _ in range(_MAX_CONTINUATIONS):
            following = None
            for signature, payload in _split(area, offset):
                count += 1
                if count > _MAX_ENTRIES:
                    raise _bad(f"more than {_MAX_ENTRIES}", offset, "system use entry")
                if signature == b"CE" and len(payload) >= L.CONTINUATION.size:
                    following = L.CONTINUATION.unpack_from(payload)
                else:
                    yield signature, payload
            if following is None:
                return
            block, skip, length = following
            offset = block * self._block_size + skip
            if length > _MAX_CONTINUATION_BYTES:
                raise _bad(f"a continuation of {length} bytes", offset, "system use entry")
            area = bytes(self._device.read(offset, length))
        raise _bad("continued without an end", record.offset, "system use entry")


def _split(area: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + L.SYSTEM_USE.size <= len(area):
        signature, length, _ = L.SYSTEM_USE.unpack_from(area, at)
        if length < L.SYSTEM_USE.size or signature == b"ST":
            return
        if at + length > len(area):
            raise _bad(f"{signature!r} of {length} bytes", offset, "system use entry")
        yield signature, area[at + L.SYSTEM_USE.size : at + length]
        at += length


def _interpret(rock: RockRidge, signature: bytes, payload: bytes) -> None:
    size = len(payload)
    if signature == b"NM" and payload:
        if not payload[0] & (L.NAME_CURRENT | L.NAME_PARENT):
            rock.name += payload[1:]
    elif signature == b"PX" and size >= L.POSIX_ATTRIBUTES.size:
        rock.mode, rock.nlink, rock.uid, rock.gid = L.POSIX_ATTRIBUTES.unpack_from(payload)
    elif signature == b"PN" and size >= L.DEVICE_NUMBER.size:
        high, low = L.DEVICE_NUMBER.unpack_from(payload)
        if low > 0xFF and not high:  # some writers put all in the low half
            high, low = low >> 8, low & 0xFF
        rock.rdev = os.makedev(high & 0xFFF, low & 0xFFFFF)  # what Linux has room for
    elif signature == b"TF" and payload:
        rock.times.update(_times(payload[0], payload[1:]))
    elif signature == b"CL" and size >= L.BLOCK.size:
        (rock.child_block,) = L.BLOCK.unpack_from(payload)
    elif signature == b"RE":
        rock.relocated = True
    elif signature == b"ZF" and size >= L.ZISOFS.size:
        algorithm, header, block_log, length = L.ZISOFS.unpack_from(payload)
        rock.zisofs = algorithm, header * 4, block_log, length & 0xFFFFFFFF if algorithm == b"pz" else length


def _add_components(parts: list[bytes], area: bytes, joined: bool) -> bool:
    """Add the components of an SL; `joined` says whether the next one needs no slash before it, as does the result."""
    at = 0
    while at + 2 <= len(area):
        flags, length = area[at], area[at + 1]
        text = area[at + 2 : at + 2 + length]
        if flags & L.NAME_CURRENT:
            text = b"."
        elif flags & L.NAME_PARENT:
            text = b".."
        elif flags & L.COMPONENT_ROOT:
            text = b"/"
        parts.append(text if joined else b"/" + text)
        joined = bool(flags & (L.NAME_CONTINUE | L.COMPONENT_ROOT))
        at += 2 + length
    return joined


def _times(flags: int, data: bytes) -> Iterator[tuple[int, int]]:
    width = 17 if flags & L.TIME_LONG else 7
    at = 0
    for bit in (L.TIME_CREATION, L.TIME_MODIFY, L.TIME_ACCESS, L.TIME_ATTRIBUTES):
        if flags & bit and at + width <= len(data):
            stamp = data[at : at + width]
            yield bit, _long_time_ns(stamp) if flags & L.TIME_LONG else time_ns(stamp)
            at += width


@lru_cache(maxsize=4096)
def time_ns(stamp: bytes) -> int:
    """Section 9.1.5: years from 1900, month, day, hour, minute, second, quarters of an hour east of Greenwich."""
    zone = int.from_bytes(stamp[6:], "big", signed=True)
    return _join_time(1900 + stamp[0], stamp[1], stamp[2], stamp[3:6], zone) * _NS


def _long_time_ns(stamp: bytes) -> int:
    """Section 8.4.26.1: digits for year, month, day, hour, minute, second and hundredths, then the zone."""
    digits = stamp[:16]
    if not digits.isdigit():
        return 0
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    clock = bytes(int(digits[at : at + 2]) for at in (8, 10, 12))
    zone = int.from_bytes(stamp[16:], "big", signed=True)
    return _join_time(year, month, day, clock, zone) * _NS + int(digits[14:]) * (_NS // 100)


def _join_time(year: int, month: int, day: int, clock: bytes, zone: int) -> int:
    """Seconds since 1970; 0 where that is no date."""
    if not 1 <= year <= 9999 or not 1 <= month <= 12 or not 1 <= day <= 31:
        return 0
    days = date(year, month, 1).toordinal() + day - 1 - _UNIX_EPOCH_DAY
    hour, minute, second = clock
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    return seconds - zone * 900 if abs(zone) <= _MAX_ZONE else seconds


def mapped_name(identifier: bytes) -> bytes:
    """A name as Linux shows it without extensions: in lower case, without a version of 1."""
    if identifier.endswith(b";1"):
        identifier = identifier[:-2].removesuffix(b".")
    return identifier.lower().replace(b";", b".").replace(b"/", b".")


def joliet_name(identifier: bytes) -> str:
    """As Linux shows it: without a version of 1, and without periods at its end."""
    name = identifier.decode("utf-16-be", "replace").removesuffix(";1")
    return name.rstrip(".") or name[:1]


def is_file_type(mode: int) -> bool:
    return stat.S_IFMT(mode) in _FILE_TYPES


_FILE_TYPES = {
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK,
}  # fmt: skip


def _bad(message: str, offset: int, structure: str = "directory record") -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
