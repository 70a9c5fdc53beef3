"""The table of internal snapshots ("Snapshots").

Read: every version of the extra data, of which the size of the machine state, the size of the disk
and the instruction count are known; the rest is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guestctl.block.device import BlockDevice
from guestctl.core.errors import DetectionError, InvalidFormat
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.header import Header, decode_name

_NO_ICOUNT = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An entry of the table. ``disk_size`` is in bytes; ``icount`` is None where none was recorded."""

    id: str
    name: str
    l1_table_offset: int
    l1_size: int
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    vm_state_size: int
    disk_size: int
    icount: int | None
    extra_data_size: int


def read_snapshots(device: BlockDevice, header: Header) -> tuple[list[Snapshot], int]:
    """All snapshots, and the bytes that their table occupies."""
    start = header.snapshots_offset
    if not header.nb_snapshots:
        return [], 0
    if header.nb_snapshots > layout.MAX_SNAPSHOTS:
        raise _invalid(f"{header.nb_snapshots} snapshots, more than {layout.MAX_SNAPSHOTS}", start)
    if start % header.cluster_size:
        raise _invalid("not aligned to a cluster", start)
    snapshots = []
    offset = start
    for _ in range(header.nb_snapshots):
        snapshot, length = _read_entry(device, offset, header.size)
        snapshots.append(snapshot)
        offset += length + 7 & ~7
        if offset - start > layout.MAX_SNAPSHOT_TABLE_BYTES:
            raise _invalid(f"longer than {layout.MAX_SNAPSHOT_TABLE_BYTES} bytes", start)
    return snapshots, offset - start


def _read_entry(device: BlockDevice, offset: int, disk_size: int) -> tuple[Snapshot, int]:
    """The entry at `offset` and its length without padding."""
    fixed = _read(device, offset, layout.SNAPSHOT.size)
    l1_offset, l1_size, id_size, name_size, date_sec, date_nsec, clock, state_size, extra_size = layout.SNAPSHOT.unpack(
        fixed
    )
    if extra_size > layout.MAX_SNAPSHOT_EXTRA_BYTES:
        raise _invalid(f"{extra_size} bytes of extra data", offset + 36)
    length = layout.SNAPSHOT.size + extra_size + id_size + name_size
    variable = memoryview(_read(device, offset, length))[layout.SNAPSHOT.size :]
    icount = _NO_ICOUNT
    if extra_size >= 8:
        (state_size,) = layout.SNAPSHOT_EXTRA_FIELD.unpack_from(variable, 0)
    if extra_size >= 16:
        (disk_size,) = layout.SNAPSHOT_EXTRA_FIELD.unpack_from(variable, 8)
    if extra_size >= 24:
        (icount,) = layout.SNAPSHOT_EXTRA_FIELD.unpack_from(variable, 16)
    names = variable[extra_size:]
    return Snapshot(
        id=decode_name(names[:id_size]),
        name=decode_name(names[id_size:]),
        l1_table_offset=l1_offset,
        l1_size=l1_size,
        date_sec=date_sec,
        date_nsec=date_nsec,
        vm_clock_nsec=clock,
        vm_state_size=state_size,
        disk_size=disk_size,
        icount=None if icount == _NO_ICOUNT else icount,
        extra_data_size=extra_size,
    ), length


def find_snapshot(snapshots: Sequence[Snapshot], wanted: str) -> Snapshot:
    """The snapshot whose id, or else whose name, is `wanted`; `DetectionError` lists what there is."""
    for snapshot in snapshots:
        if snapshot.id == wanted:
            return snapshot
    for snapshot in snapshots:
        if snapshot.name == wanted:
            return snapshot
    there = ", ".join(f"{snapshot.id[:64]} ({snapshot.name[:64]})" for snapshot in snapshots[:20]) or "none"
    raise DetectionError(f"no snapshot {wanted!r}; the image has: {there}")


def _read(device: BlockDevice, offset: int, length: int) -> bytes:
    if offset + length > device.size:
        raise _invalid(f"an entry of {length} bytes reaches past the end of the file ({device.size} bytes)", offset)
    return bytes(device.read(offset, length))


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="snapshot table", offset=offset)
