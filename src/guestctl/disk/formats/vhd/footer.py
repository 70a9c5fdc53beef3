"""The footer of a VHD file ("Hard Disk Footer Format"); dynamic and differencing disks keep a copy at offset 0.

Refused: other major versions of the format, other types of disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vhd import layout
from guestctl.disk.formats.vhd.layout import DiskType


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer's fields under the specification's names."""

    features: int
    file_format_version: int
    data_offset: int
    time_stamp: int
    creator_application: bytes
    creator_version: int
    creator_host_os: bytes
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors_per_track: int
    disk_type: DiskType
    unique_id: bytes
    saved_state: int = 0

    @property
    def geometry_size(self) -> int:
        return self.cylinders * self.heads * self.sectors_per_track * layout.SECTOR_BYTES

    @property
    def disk_size(self) -> int:
        """The disk's size in bytes, as the creator application means it."""
        geometry = (self.cylinders, self.heads, self.sectors_per_track)
        if self.creator_application in layout.CURRENT_SIZE_CREATORS or geometry == layout.MAX_GEOMETRY:
            return self.current_size & -layout.SECTOR_BYTES
        return self.geometry_size or self.current_size & -layout.SECTOR_BYTES


class FoundFooter(NamedTuple):
    """The footer that counts, where the file's footer begins, and what was wrong with copies of it."""

    footer: Footer
    end_offset: int
    problems: Sequence[str]


class _Copy(NamedTuple):
    offset: int
    content: bytes
    problem: GuestctlError | None


def read_footer(device: BlockDevice) -> FoundFooter:
    """The footer at the end of `device`, or its copy at the start where that one is damaged."""
    end = _copy_at_end(device)
    end_offset = device.size if end is None else end.offset
    if end is not None and end.problem is None:
        return FoundFooter(parse_footer(end.content, end.offset), end_offset, ())
    start = _copy_at(device, 0, layout.FOOTER_BYTES)
    damage = "no footer at the end of the file" if end is None else f"the footer is damaged ({end.problem})"
    if start is None:
        raise InvalidFormat("no footer", structure="footer", offset=0) if end is None else _problem(end)
    footer = parse_footer(start.content, 0)
    if start.problem is None:
        if footer.disk_type is DiskType.FIXED:
            raise InvalidFormat(f"{damage}, and none of a dynamic disk at its start", structure="footer", offset=0)
        return FoundFooter(footer, end_offset, (f"{damage}: its copy at the start was used",))
    # Two copies that agree were written so; some tools leave the checksum as it was.
    if end is not None and start.content == end.content:
        return FoundFooter(footer, end_offset, (f"both copies of the footer have a wrong checksum ({end.problem})",))
    raise _problem(start)


def _problem(copy: _Copy) -> GuestctlError:
    assert copy.problem is not None
    return copy.problem


def _copy_at_end(device: BlockDevice) -> _Copy | None:
    for length in (layout.FOOTER_BYTES, layout.OLD_FOOTER_BYTES):
        found = _copy_at(device, device.size - length, length)
        if found is not None:
            return found
    return None


def _copy_at(device: BlockDevice, offset: int, length: int) -> _Copy | None:
    if offset < 0 or offset + length > device.size:
        return None
    content = bytes(device.read(offset, length))
    if not content.startswith(layout.FOOTER_COOKIE):
        return None
    stored = int.from_bytes(content[layout.FOOTER_CHECKSUM_OFFSET :][:4], "big")
    expected = layout.checksum(content, layout.FOOTER_CHECKSUM_OFFSET)
    problem = None
    if stored != expected:
        problem = ChecksumMismatch(structure="footer", offset=offset, expected=expected, actual=stored)
    return _Copy(offset, content, problem)


def parse_footer(content: bytes, offset: int) -> Footer:
    """The footer in `content`, which lies at `offset`; its checksum is the caller's to look at."""
    _, *fields = layout.FOOTER.unpack_from(content)
    version, disk_type = fields[1], fields[12]
    if version >> 16 != layout.FILE_FORMAT_VERSION >> 16:
        name = f"VHD format version {version >> 16}.{version & 0xFFFF}"
        raise UnsupportedFeature(f"{name} (1.0 is read)", feature=name)
    if disk_type not in tuple(DiskType):
        raise UnsupportedFeature(f"VHD disk type {disk_type}", feature=f"disk type {disk_type}")
    fields[12:14] = [DiskType(disk_type)]
    footer = Footer(*fields)
    if footer.disk_size > layout.MAX_DISK_BYTES:
        message = f"a disk of {footer.disk_size} bytes, more than {layout.MAX_DISK_BYTES}"
        raise InvalidFormat(message, structure="footer", offset=offset + 48)
    return footer


def build_footer(footer: Footer) -> bytes:
    """The 512 bytes of the footer, with their checksum."""
    packed = bytearray(layout.FOOTER_BYTES)
    layout.FOOTER.pack_into(
        packed,
        0,
        layout.FOOTER_COOKIE,
        footer.features,
        footer.file_format_version,
        footer.data_offset,
        footer.time_stamp,
        footer.creator_application,
        footer.creator_version,
        footer.creator_host_os,
        footer.original_size,
        footer.current_size,
        footer.cylinders,
        footer.heads,
        footer.sectors_per_track,
        footer.disk_type,
        0,
        footer.unique_id,
        footer.saved_state,
    )
    at = layout.FOOTER_CHECKSUM_OFFSET
    packed[at : at + 4] = layout.checksum(bytes(packed), at).to_bytes(4, "big")
    return bytes(packed)
