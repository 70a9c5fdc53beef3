"""Makes the devices of a volume group: each logical volume from its segments, those from what they lie on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from guestctl.block import BlockDevice, SliceDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes import Volume
from guestctl.disk.volumes.lvm2.cache import CacheDevice
from guestctl.disk.volumes.lvm2.group import VolumeGroup
from guestctl.disk.volumes.lvm2.physical import PhysicalVolume
from guestctl.disk.volumes.lvm2.raid import usable_legs
from guestctl.disk.volumes.lvm2.snapshot import SnapshotDevice
from guestctl.disk.volumes.lvm2.text import Section
from guestctl.disk.volumes.lvm2.thin import ThinDevice, ThinPool
from guestctl.disk.volumes.raid import parity
from guestctl.disk.volumes.raid.linear import Concatenation, Stripes, Zeros
from guestctl.disk.volumes.raid.mirrors import MirroredStripes, parse_layout
from guestctl.disk.volumes.raid.missing import TooManyMissing

_SECTOR_BYTES = 512
_MAX_DEPTH = 16  # of logical volumes that lie on each other
_MAX_LEGS = 128

_Leg = tuple[int | str, int | str]  # name of a volume, and its extent

# segment type -> level, layout, as the kernel's dm-raid has them
_PARITY_TYPES = {
    "raid4": (5, parity.PARITY_0),
    "raid5": (5, parity.LEFT_SYMMETRIC),
    "raid5_la": (5, parity.LEFT_ASYMMETRIC),
    "raid5_ra": (5, parity.RIGHT_ASYMMETRIC),
    "raid5_ls": (5, parity.LEFT_SYMMETRIC),
    "raid5_rs": (5, parity.RIGHT_SYMMETRIC),
    "raid5_0": (5, parity.PARITY_0),
    "raid5_n": (5, parity.PARITY_N),
    "raid6": (6, parity.ROTATING_ZERO_RESTART),
    "raid6_zr": (6, parity.ROTATING_ZERO_RESTART),
    "raid6_nr": (6, parity.ROTATING_N_RESTART),
    "raid6_nc": (6, parity.ROTATING_N_CONTINUE),
    "raid6_n_6": (6, parity.PARITY_N),
    "raid6_0_6": (6, parity.PARITY_0_6),
    "raid6_la_6": (6, parity.LEFT_ASYMMETRIC_6),
    "raid6_ra_6": (6, parity.RIGHT_ASYMMETRIC_6),
    "raid6_ls_6": (6, parity.LEFT_SYMMETRIC_6),
    "raid6_rs_6": (6, parity.RIGHT_SYMMETRIC_6),
}


class _MissingVolume(GuestctlError):
    """A physical volume that is needed is not there."""


def assemble_group(group: VolumeGroup, physical: Mapping[str, PhysicalVolume], warnings: list[str]) -> list[Volume]:
    """The visible logical volumes; a warning for each that cannot be assembled, and for what it lacks."""
    builder = _Builder(group, physical)
    volumes = []
    for name in group.visible():
        path = f"/dev/{group.name}/{name}"
        try:
            device = builder.volume(name)
        except GuestctlError as error:
            warnings.append(f"{path}: {error}")
            continue
        volumes.append(Volume(path, device, tuple(sorted(builder.parents[name]))))
    for name, missing in builder.missing.items():
        numbers = ", ".join(map(str, missing))
        warnings.append(f"/dev/{group.name}/{name}: degraded: legs {numbers} are missing or not in sync")
    return volumes


class _Builder:
    """Makes each volume once; ``parents`` are the names of the devices that a volume lies on."""

    def __init__(self, group: VolumeGroup, physical: Mapping[str, PhysicalVolume]) -> None:
        self._group = group
        self._physical = physical
        self._made: dict[str, BlockDevice] = {}
        self._pools: dict[str, ThinPool] = {}
        self._open: list[str] = []
        self.parents: dict[str, set[str]] = {}
        self.missing: dict[str, list[int]] = {}

    def volume(self, name: str) -> BlockDevice:
        """The visible volume `name`: a snapshot's store as the snapshot."""
        merging = self._group.snapshot("origin", name)
        if merging is not None and "merging_store" in merging:
            raise UnsupportedFeature("a snapshot is being merged into it", feature="LVM2 merging snapshot")
        snapshot = self._group.snapshot("cow_store", name)
        store = self._plain(name)
        if snapshot is None:
            return store
        origin = self._below(name, snapshot.text("origin"))
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

    def _below(self, name: str, other: str) -> BlockDevice:
        """The volume `other`, which `name` lies on."""
        device = self._plain(other)
        self.parents[name] |= self.parents[other]
        return device

    def _segment(self, name: str, segment: Section) -> BlockDevice:
        size = self._group.bytes(segment.number("extent_count"))
        kind = segment.text("type").partition("+")[0]
        if kind in _PARITY_TYPES:
            return self._parity(name, segment, size)
        make = _TYPES.get(kind)
        if make is None:
            raise UnsupportedFeature(f"{kind} segments", feature=f"LVM2 {kind}")
        return make(self, name, segment, size)

    def _striped(self, name: str, segment: Section, size: int) -> BlockDevice:
        legs = _pairs(segment, "stripes")
        if len(legs) != segment.number("stripe_count"):
            raise segment.bad(f"{name} has {len(legs)} stripes")
        return self._area(name, *legs[0], size) if len(legs) == 1 else self._stripes(name, segment, size, legs)

    def _raid0(self, name: str, segment: Section, size: int) -> BlockDevice:
        return self._stripes(name, segment, size, [(leg, 0) for leg in segment.list("raid0_lvs")])

    def _raid0_meta(self, name: str, segment: Section, size: int) -> BlockDevice:
        return self._stripes(name, segment, size, [(leg, 0) for _, leg in _pairs(segment, "raids")])

    def _stripes(self, name: str, segment: Section, size: int, legs: list[_Leg]) -> BlockDevice:
        stripe = segment.number("stripe_size") * _SECTOR_BYTES
        if not 0 < len(legs) <= _MAX_LEGS or not stripe or size % len(legs) or size // len(legs) % stripe:
            raise segment.bad(f"{len(legs)} stripes of {stripe} bytes in {size}")
        return Stripes([self._area(name, leg, extent, size // len(legs)) for leg, extent in legs], stripe)

    def _mirror(self, name: str, segment: Section, size: int) -> BlockDevice:
        """The first leg that is there: the kernel brings the others in line with it."""
        legs = [self._optional(name, leg, size, extent) for leg, extent in _pairs(segment, "mirrors")[:_MAX_LEGS]]
        self._note_missing(name, [number for number, leg in enumerate(legs) if leg is None])
        return _first(legs)

    def _raid1(self, name: str, segment: Section, size: int) -> BlockDevice:
        return _first(self._legs(name, segment, size, needs_parity=False))

    def _raid10(self, name: str, segment: Section, size: int) -> BlockDevice:
        copies, count = segment.number("data_copies", 2), len(_pairs(segment, "raids"))
        if copies > _MAX_LEGS or size * copies % count:
            raise segment.bad(f"{size} bytes in {copies} copies on {count} legs")
        layout = parse_layout(1 << 8 | copies, count)
        legs = self._legs(name, segment, size * copies // count, needs_parity=False)
        return MirroredStripes(legs, segment.number("stripe_size") * _SECTOR_BYTES, layout)

    def _parity(self, name: str, segment: Section, size: int) -> BlockDevice:
        level, layout = _PARITY_TYPES[segment.text("type").partition("+")[0]]
        width = len(_pairs(segment, "raids")) - (2 if level == 6 else 1)
        stripe = segment.number("stripe_size") * _SECTOR_BYTES
        if width < 1 or not stripe or size % width or size // width % stripe:
            raise segment.bad(f"{width} stripes of {stripe} bytes in {size}")
        return parity.ParityStripes(self._legs(name, segment, size // width, needs_parity=True), stripe, level, layout)

    def _legs(self, name: str, segment: Section, size: int, *, needs_parity: bool) -> list[BlockDevice | None]:
        """The legs of a RAID volume; None for those that are missing, stale or being rebuilt."""
        pairs = _pairs(segment, "raids")
        if not 0 < len(pairs) <= _MAX_LEGS:
            raise segment.bad(f"{len(pairs)} legs")
        legs = [self._optional(name, leg, size) for _, leg in pairs]
        notes = [self._optional(name, meta, None) if leg else None for (meta, _), leg in zip(pairs, legs, strict=True)]
        usable = usable_legs(notes, needs_parity=needs_parity)
        self._note_missing(name, [number for number in range(len(legs)) if number not in usable])
        return [leg if number in usable else None for number, leg in enumerate(legs)]

    def _note_missing(self, name: str, legs: list[int]) -> None:
        if legs:
            self.missing[name] = legs

    def _optional(self, name: str, leg: int | str, size: int | None, extent: int | str = 0) -> BlockDevice | None:
        try:
            return self._area(name, leg, extent, size)
        except _MissingVolume:
            return None

    def _area(self, name: str, leg: int | str, extent: int | str, size: int | None) -> BlockDevice:
        """`size` bytes from an extent of a physical volume or of another logical volume, or all of it."""
        if not isinstance(leg, str) or not isinstance(extent, int) or extent < 0:
            raise InvalidFormat(f"{name} lies on {leg!r} {extent!r}", structure="LVM2 metadata", offset=0)
        start = self._group.bytes(extent)
        if self._group.is_logical(leg):
            device = self._below(name, leg)
        else:
            section = self._group.physical(leg)
            found = self._physical.get(section.text("id"))
            if found is None:
                raise _MissingVolume(f"the physical volume {section.text('id')} is missing")
            start += section.number("pe_start") * _SECTOR_BYTES
            device = found.device
            self.parents[name].add(found.name)
        if size is None:
            size = max(0, device.size - start)
        if start + size > device.size:
            raise InvalidFormat(
                f"{name} needs {size} bytes at {start:#x} of {leg}, which has {device.size}",
                structure="LVM2 metadata",
                offset=0,
            )
        return SliceDevice(device, start, size)

    def _thin(self, name: str, segment: Section, size: int) -> BlockDevice:
        pool_name = segment.text("thin_pool")
        pool_segment = self._group.only_segment(pool_name)
        metadata = self._below(name, pool_segment.text("metadata"))
        data = self._below(name, pool_segment.text("pool"))
        if pool_name not in self._pools:
            self._pools[pool_name] = ThinPool(metadata, data)
        origin = self._below(name, segment.text("external_origin")) if "external_origin" in segment else None
        return ThinDevice(self._pools[pool_name], segment.number("device_id"), size, origin)

    def _cache(self, name: str, segment: Section, size: int) -> BlockDevice:
        origin = self._below(name, segment.text("origin"))
        pool_name = segment.text("cache_pool")
        pool = segment if "metadata_start" in segment else self._group.only_segment(pool_name)
        if pool.get("cache_mode", "writethrough") != "writeback":
            return origin
        if pool is segment:
            volume = self._below(name, pool_name)
            metadata, data = (
                SliceDevice(
                    volume,
                    segment.number(f"{part}_start") * _SECTOR_BYTES,
                    segment.number(f"{part}_len") * _SECTOR_BYTES,
                )
                for part in ("metadata", "data")
            )
            return CacheDevice(origin, metadata, data)
        return CacheDevice(origin, self._below(name, pool.text("metadata")), self._below(name, pool.text("data")))

    def _error(self, name: str, segment: Section, size: int) -> BlockDevice:
        raise _MissingVolume(f"{name} lies on nothing any more")

    def _zeros(self, name: str, segment: Section, size: int) -> BlockDevice:
        return Zeros(size)


def _first(legs: Sequence[BlockDevice | None]) -> BlockDevice:
    found = next((leg for leg in legs if leg is not None), None)
    if found is None:
        raise TooManyMissing("a mirror", range(len(legs)))
    return found


def _pairs(segment: Section, key: str) -> list[_Leg]:
    items = segment.list(key)
    if len(items) % 2 or not items:
        raise segment.bad(f"{key} are {items!r}")
    return list(zip(items[::2], items[1::2], strict=True))


_TYPES: dict[str, Callable[[_Builder, str, Section, int], BlockDevice]] = {
    "striped": _Builder._striped,
    "linear": _Builder._striped,
    "raid0": _Builder._raid0,
    "raid0_meta": _Builder._raid0_meta,
    "mirror": _Builder._mirror,
    "raid1": _Builder._raid1,
    "raid10": _Builder._raid10,
    "raid10_near": _Builder._raid10,
    "thin": _Builder._thin,
    "cache": _Builder._cache,
    "zero": _Builder._zeros,
    "error": _Builder._error,
}
