"""A volume group: its logical volumes, and the segments of physical volumes that they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from guestctl.block import BlockDevice, SliceDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes import Volume
from guestctl.disk.volumes.lvm2.physical import PhysicalVolume
from guestctl.disk.volumes.lvm2.snapshot import SnapshotDevice
from guestctl.disk.volumes.lvm2.text import Section
from guestctl.disk.volumes.raid.linear import Concatenation, Stripes, Zeros

_SECTOR_BYTES = 512
_MAX_DEPTH = 16  # of logical volumes that lie on each other
_MAX_STRIPES = 128


class _MissingVolume(GuestctlError):
    """A physical volume that is needed is not there."""


def newest(volumes: Iterable[PhysicalVolume], warnings: list[str]) -> list[VolumeGroup]:
    """Each volume group by its newest metadata."""
    groups: dict[str, VolumeGroup] = {}
    for volume in volumes:
        if volume.damage is not None:
            warnings.append(f"{volume.name}: {volume.damage}")
        if volume.metadata is None:
            continue
        try:
            group = VolumeGroup(volume.metadata)
        except InvalidFormat as error:
            warnings.append(f"{volume.name}: {error}")
            continue
        known = groups.get(group.uuid)
        if known is None or group.sequence > known.sequence:
            groups[group.uuid] = group
    return list(groups.values())


class VolumeGroup:
    """A volume group as its metadata describes it."""

    def __init__(self, metadata: Section) -> None:
        self.name, self._section = metadata.group()
        self.uuid = self._section.text("id")
        self.sequence = self._section.number("seqno")
        self._extent_bytes = self._section.number("extent_size") * _SECTOR_BYTES
        self._volumes = self._section.sections("logical_volumes")
        self._physical = self._section.sections("physical_volumes")
        if not 0 < self._extent_bytes < 1 << 50:
            raise metadata.bad(f"extent_size is {self._extent_bytes // _SECTOR_BYTES}")

    def assemble(self, physical: Mapping[str, PhysicalVolume], warnings: list[str]) -> list[Volume]:
        """The visible logical volumes; a warning for each that cannot be assembled."""
        builder = _Builder(self, physical)
        volumes = []
        for name, section in self._volumes.items():
            if "VISIBLE" not in section.list("status"):
                continue
            try:
                device = builder.volume(name)
            except GuestctlError as error:
                warnings.append(f"/dev/{self.name}/{name}: {error}")
                continue
            volumes.append(Volume(f"/dev/{self.name}/{name}", device, tuple(sorted(builder.parents[name]))))
        return volumes

    def segments(self, name: str) -> list[Section]:
        """The segments of a logical volume, ascending and without gaps."""
        if name not in self._volumes:
            raise self._section.bad(f"no logical volume {name}")
        section = self._volumes[name]
        segments = [value for key, value in section.items() if key.startswith("segment") and isinstance(value, Section)]
        segments.sort(key=lambda segment: segment.number("start_extent"))
        ends = [0, *(segment.number("start_extent") + segment.number("extent_count") for segment in segments)]
        if [segment.number("start_extent") for segment in segments] != ends[:-1]:
            raise section.bad(f"the segments of {name} leave gaps or overlap")
        if len(segments) != section.number("segment_count") or any(a >= b for a, b in pairwise(ends)):
            raise section.bad(f"{name} has {len(segments)} segments")
        return segments

    def snapshot_of(self, name: str) -> Section | None:
        """The segment that makes the logical volume `name` the exception store of a snapshot."""
        for section in self._volumes.values():
            segment = section.get("segment1")
            if isinstance(segment, Section) and segment.get("type") == "snapshot" and segment.get("cow_store") == name:
                return segment
        return None

    def physical(self, name: str) -> Section:
        if name not in self._physical:
            raise self._section.bad(f"no physical volume {name}")
        return self._physical[name]

    def is_logical(self, name: str) -> bool:
        return name in self._volumes

    def bytes(self, extents: int) -> int:
        if extents * self._extent_bytes >= 1 << 63:
            raise self._section.bad(f"{extents} extents")
        return extents * self._extent_bytes


class _Builder:
    """Makes the devices of one group; ``parents`` are the names of the devices each volume lies on."""

    def __init__(self, group: VolumeGroup, physical: Mapping[str, PhysicalVolume]) -> None:
        self._group = group
        self._physical = physical
        self._made: dict[str, BlockDevice] = {}
        self._open: list[str] = []
        self.parents: dict[str, set[str]] = {}

    def volume(self, name: str) -> BlockDevice:
        """The visible volume `name`: a snapshot's store as the snapshot."""
        snapshot = self._group.snapshot_of(name)
        store = self._plain(name)
        if snapshot is None:
            return store
        origin_name = snapshot.text("origin")
        origin = self._plain(origin_name)
        self.parents[name] |= self.parents[origin_name]
        return SnapshotDevice(origin, store, snapshot.number("chunk_size") * _SECTOR_BYTES)

    def _plain(self, name: str) -> BlockDevice:
        if name in self._made:
            return self._made[name]
        if name in self._open or len(self._open) >= _MAX_DEPTH:
            raise InvalidFormat(f"{name} lies on itself", structure="LVM2 metadata", offset=0)
        self._open.append(name)
        self.parents[name] = set()
        try:
            parts = [self._segment(name, segment) for segment in self._group.segments(name)]
        finally:
            self._open.pop()
        device = self._made[name] = parts[0] if len(parts) == 1 else Concatenation(parts)
        return device

    def _segment(self, name: str, segment: Section) -> BlockDevice:
        size = self._group.bytes(segment.number("extent_count"))
        kind = segment.text("type").partition("+")[0]
        if kind in ("striped", "linear"):
            return self._striped(name, segment, size)
        if kind in ("raid0", "raid0_meta"):
            names = segment.list("raid0_lvs" if kind == "raid0" else "raids")
            legs = names if kind == "raid0" else names[1::2]
            return self._stripes(name, segment, size, [(leg, 0) for leg in legs])
        if kind in ("raid1", "mirror"):
            return self._mirror(name, segment, size, kind)
        if kind in ("zero", "error"):
            return Zeros(size)
        raise UnsupportedFeature(f"{kind} segments", feature=f"LVM2 {kind}")

    def _striped(self, name: str, segment: Section, size: int) -> BlockDevice:
        items = segment.list("stripes")
        legs = list(zip(items[::2], items[1::2], strict=False))
        if len(legs) != segment.number("stripe_count") or len(items) % 2:
            raise segment.bad(f"stripes of {name} are {items!r}")
        if len(legs) == 1:
            return self._area(name, *legs[0], size)
        return self._stripes(name, segment, size, legs)

    def _stripes(self, name: str, segment: Section, size: int, legs: list[tuple[int | str, int | str]]) -> BlockDevice:
        stripe = segment.number("stripe_size") * _SECTOR_BYTES
        if not 0 < len(legs) <= _MAX_STRIPES or not stripe or size % len(legs) or size // len(legs) % stripe:
            raise segment.bad(f"{len(legs)} stripes of {stripe} bytes in {size}")
        return Stripes([self._area(name, leg, extent, size // len(legs)) for leg, extent in legs], stripe)

    def _mirror(self, name: str, segment: Section, size: int, kind: str) -> BlockDevice:
        """The first leg that is there."""
        items = segment.list("raids" if kind == "raid1" else "mirrors")
        legs: list[tuple[int | str, int | str]]
        legs = (
            [(leg, 0) for leg in items[1::2]] if kind == "raid1" else list(zip(items[::2], items[1::2], strict=False))
        )
        missing: GuestctlError | None = None
        for leg, extent in legs:
            try:
                return self._area(name, leg, extent, size)
            except _MissingVolume as error:
                missing = error
        raise missing or segment.bad(f"{name} has no legs")

    def _area(self, name: str, leg: int | str, extent: int | str, size: int) -> BlockDevice:
        """`size` bytes from an extent of a physical volume or of another logical volume."""
        if not isinstance(leg, str) or not isinstance(extent, int) or extent < 0:
            raise InvalidFormat(f"{name} lies on {leg!r} {extent!r}", structure="LVM2 metadata", offset=0)
        start = self._group.bytes(extent)
        if self._group.is_logical(leg):
            device = self._plain(leg)
            self.parents[name] |= self.parents[leg]
        else:
            section = self._group.physical(leg)
            found = self._physical.get(section.text("id"))
            if found is None:
                raise _MissingVolume(f"the physical volume {section.text('id')} is missing")
            start += section.number("pe_start") * _SECTOR_BYTES
            device = found.device
            self.parents[name].add(found.name)
        if start + size > device.size:
            raise InvalidFormat(
                f"{name} needs {size} bytes at {start:#x} of {leg}, which has {device.size}",
                structure="LVM2 metadata",
                offset=0,
            )
        return SliceDevice(device, start, size)
