"""What ``qemu-img map`` says of a VMDK image and its chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from guestctl.disk.formats.vmdk.grains import Kind
from guestctl.disk.map import joined
from guestctl.disk.reader import MapEntry

if TYPE_CHECKING:
    from guestctl.disk.formats.vmdk.reader import Part, Resolved, VmdkReader


def map_entries(reader: VmdkReader) -> Iterator[MapEntry]:
    """The whole disk, neighbours that are alike joined."""
    return joined(_entries(reader))


def _entries(reader: VmdkReader) -> Iterator[MapEntry]:
    offset = 0
    while offset < reader.size:
        resolved = reader.resolve(offset)
        yield from _resolved_entries(offset, resolved)
        offset = resolved.stop


def _resolved_entries(offset: int, resolved: Resolved) -> Iterator[MapEntry]:
    _, depth, part, mapping, stop = resolved
    length = stop - offset
    kind = mapping.kind
    if kind is Kind.COMPRESSED:
        yield MapEntry(offset, length, depth, present=True, zero=False, data=True, compressed=True)
    elif kind is not Kind.DATA:
        yield MapEntry(offset, length, depth, kind is Kind.ZERO, zero=True, data=False, compressed=False)
    else:
        host_offset = mapping.host_offset + offset - mapping.start
        for start, size, hole in _holes(part, host_offset, length):
            at = offset + start - host_offset
            place = part.device.host_offset(start) if part.device is not None else start
            yield MapEntry(at, size, depth, True, hole, True, False, place, part.path)


def _holes(part: Part, host_offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
    """The holes of a flat extent's file, and what lies between them; a grain is not looked at that closely."""
    assert part.device is not None
    if part.sparse is not None:
        yield host_offset, length, False
        return
    end = min(host_offset + length, part.device.size)
    for run in part.device.runs(host_offset, end - host_offset):
        yield run.offset, run.length, run.source is None
    if end < host_offset + length:
        yield end, host_offset + length - end, True
