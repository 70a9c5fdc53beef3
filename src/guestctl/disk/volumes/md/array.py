"""An array: which of its members can be used, and how their data make a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice, SliceDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.md.journal import check_journal
from guestctl.disk.volumes.md.superblock import Superblock
from guestctl.disk.volumes.raid.linear import Concatenation, Stripes
from guestctl.disk.volumes.raid.mirrors import MirroredStripes, parse_layout
from guestctl.disk.volumes.raid.missing import TooManyMissing
from guestctl.disk.volumes.raid.parity import ParityStripes

_MAX_DISKS = 1920  # of version 1
_LEVEL_NAMES = {-1: "linear", -4: "multipath", -5: "faulty"}
_RAID0_ORIGINAL = 1
_RAID0_ALTERNATE = 2


class Component(NamedTuple):
    """A member and what its superblock says."""

    name: str
    device: BlockDevice
    superblock: Superblock


class Array:
    """The members of one array. ``used`` are those that its device reads, by role."""

    def __init__(self, name: str, components: Sequence[Component], warnings: list[str]) -> None:
        self.name = name
        self.superblock = max((component.superblock for component in components), key=lambda found: found.events)
        self.used: dict[int, Component] = {}
        replacements: dict[int, Component] = {}
        for component in components:
            role = self.superblock.roles.get(component.superblock.number)
            reason = self._reason_against(component.superblock, role)
            chosen = replacements if component.superblock.replacement else self.used
            if role is None or reason:
                if reason:
                    warnings.append(f"{component.name}: not used for {name}: {reason}")
            elif role in chosen:
                warnings.append(f"{component.name}: the same member of {name} as {chosen[role].name}, and not used")
            else:
                chosen[role] = component
        self.used = dict(sorted((replacements | self.used).items()))
        self.journal = next((c for c in components if c.superblock.number == self.superblock.journal), None)

    def _reason_against(self, member: Superblock, role: int | None) -> str | None:
        """Why a member cannot be used; None also for a spare."""
        newest = self.superblock
        behind = newest.events - member.events
        if role is None:
            is_stale = behind and member.number in member.roles
            return f"it is stale, removed from the array {behind} events ago" if is_stale else None
        # One behind was being marked clean or dirty when the machine stopped; the kernel takes it, too.
        if behind > 1:
            return f"it is stale, {behind} events behind"
        if not member.in_sync:
            return "it is being rebuilt"
        if member.bad_blocks:
            return "it has bad blocks"
        if not role < newest.disk_count:
            return f"it has the role {role} of {newest.disk_count}"
        if _geometry(member) != _geometry(newest):
            return "it describes another array"
        return None

    def open(self, warnings: list[str]) -> BlockDevice:
        """The array's device. Raises `InvalidFormat`, `UnsupportedFeature` and `TooManyMissing`."""
        newest = self.superblock
        level = newest.level
        build = _LEVELS.get(level)
        if build is None:
            kind = _LEVEL_NAMES.get(level, f"level {level}")
            raise UnsupportedFeature(f"md arrays of {kind}", feature=f"md {kind}")
        if newest.reshaping:
            raise UnsupportedFeature("an array in the middle of a reshape", feature="md reshape")
        if not 0 < newest.disk_count <= _MAX_DISKS:
            raise _bad(f"raid_disks is {newest.disk_count}")
        if newest.journal is not None and self.journal is None:
            raise UnsupportedFeature("an array whose journal is missing", feature="md journal")
        missing = [role for role in range(newest.disk_count) if role not in self.used]
        if missing and level in (4, 5, 6) and not newest.clean:
            raise UnsupportedFeature(
                "it was not stopped, and members are missing: its parity cannot be trusted",
                feature="dirty degraded array",
            )
        device = build(self, newest)
        if self.journal is not None:
            check_journal(self.journal.device, self.journal.superblock, device, degraded=bool(missing))
        if missing:
            warnings.append(f"{self.name}: degraded: members {', '.join(map(str, missing))} are missing")
        return device

    def legs(self, size: int) -> list[BlockDevice | None]:
        """The first `size` bytes of each member's data, by role."""
        return [self._leg(role, size) if role in self.used else None for role in range(self.superblock.disk_count)]

    def whole_legs(self) -> list[BlockDevice]:
        """The data of every member, in whole chunks."""
        missing = [role for role in range(self.superblock.disk_count) if role not in self.used]
        if missing:
            raise TooManyMissing(_LEVEL_NAMES.get(self.superblock.level, "RAID0"), missing)
        chunk = self.superblock.chunk_bytes or 1
        return [self._leg(role, self.used[role].superblock.data_bytes // chunk * chunk) for role in self.used]

    def _leg(self, role: int, size: int) -> BlockDevice:
        name, device, superblock = self.used[role]
        if size > superblock.data_bytes or superblock.data_offset + superblock.data_bytes > device.size:
            raise _bad(f"{name} of {device.size} bytes has no {size} bytes of data at {superblock.data_offset:#x}")
        return SliceDevice(device, superblock.data_offset, size)


def _geometry(superblock: Superblock) -> tuple[int | None, ...]:
    return (
        superblock.level,
        superblock.layout,
        superblock.chunk_bytes,
        superblock.disk_count,
        superblock.component_bytes,
    )


def _chunks(superblock: Superblock) -> int:
    """The bytes that the array uses of each member: whole chunks."""
    chunk = superblock.chunk_bytes
    if not chunk or chunk & chunk - 1:
        raise _bad(f"chunk_size is {chunk}")
    return superblock.component_bytes // chunk * chunk


def _linear(array: Array, _: Superblock) -> BlockDevice:
    return Concatenation(array.whole_legs())


def _raid0(array: Array, superblock: Superblock) -> BlockDevice:
    """Zones: stripes over all members, then over those that are larger than the smallest, and so on."""
    chunk = superblock.chunk_bytes
    legs = array.whole_legs()
    if not chunk or not all(leg.size for leg in legs):
        raise _bad(f"chunk_size is {chunk}")
    zones: list[BlockDevice] = []
    start = first_chunk = 0
    for end in sorted({leg.size for leg in legs}):
        parts = [SliceDevice(leg, start, end - start) for leg in legs if leg.size >= end]
        if len(zones) == 1 and len(parts) > 1 and superblock.layout not in (_RAID0_ORIGINAL, _RAID0_ALTERNATE):
            raise UnsupportedFeature("RAID0 of different members in an unknown layout", feature="md RAID0 layout")
        # The original layout counts chunks from the start of the array to choose the first member of a zone.
        turn = first_chunk % len(parts) if superblock.layout == _RAID0_ORIGINAL else 0
        zones.append(Stripes(parts[turn:] + parts[:turn], chunk))
        start = end
        first_chunk += zones[-1].size // chunk
    device = zones[0] if len(zones) == 1 else Concatenation(zones)
    # The kernel takes chunks for powers of two here, and leaves a little of other ones unused.
    return SliceDevice(device, 0, sum(leg.size & ~(chunk - 1) for leg in legs))


def _raid1(array: Array, superblock: Superblock) -> BlockDevice:
    """The first leg in sync; what is mostly written may lag behind in a machine that was not stopped."""
    legs = [leg for leg in array.legs(superblock.component_bytes) if leg is not None]
    if not legs:
        raise TooManyMissing("RAID1", range(superblock.disk_count))
    mostly_written = [component.superblock.write_mostly for component in array.used.values()]
    return legs[mostly_written.index(False) if False in mostly_written else 0]


def _parity(array: Array, superblock: Superblock) -> BlockDevice:
    legs = array.legs(_chunks(superblock))
    return ParityStripes(legs, superblock.chunk_bytes, superblock.level, superblock.layout or 0)


def _raid10(array: Array, superblock: Superblock) -> BlockDevice:
    layout = parse_layout(superblock.layout or 0, superblock.disk_count)
    return MirroredStripes(array.legs(_chunks(superblock)), superblock.chunk_bytes, layout)


_LEVELS: dict[int, Callable[[Array, Superblock], BlockDevice]] = {
    -1: _linear,
    0: _raid0,
    1: _raid1,
    4: _parity,
    5: _parity,
    6: _parity,
    10: _raid10,
}


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="md superblock", offset=0)
