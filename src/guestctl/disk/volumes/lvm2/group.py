"""A volume group: its logical volumes, and the segments of physical volumes that they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from guestctl.core.errors import InvalidFormat
from guestctl.disk.volumes.lvm2.physical import PhysicalVolume
from guestctl.disk.volumes.lvm2.text import Section

_SECTOR_BYTES = 512
_POOLS = ("thin-pool", "cache-pool")


def newest(volumes: Iterable[PhysicalVolume], warnings: list[str]) -> list[VolumeGroup]:
    """Each volume group by its newest metadata."""
    groups: dict[str, VolumeGroup] = {}
    for volume in volumes:
        if volume.damage is not None:
            warnings.append(f"{volume.name}: {volume.damage}")
        if volume.newest is None or volume.newest.metadata is None:
            continue
        try:
            group = VolumeGroup(volume.newest.metadata, volume.newest.text)
        except InvalidFormat as error:
            warnings.append(f"{volume.name}: {error}")
            continue
        known = groups.get(group.uuid)
        if known is None or group.sequence > known.sequence:
            groups[group.uuid] = group
    return list(groups.values())


class VolumeGroup:
    """A volume group as its metadata describes it; ``text`` is what they were parsed from."""

    def __init__(self, metadata: Section, text: bytes = b"") -> None:
        self.name, self.section = metadata.group()
        self.text = text
        self.uuid = self.section.text("id")
        self.sequence = self.section.number("seqno")
        self.extent_bytes = self.section.number("extent_size") * _SECTOR_BYTES
        self.logical_volumes = self.section.sections("logical_volumes")
        self.physical_volumes = self.section.sections("physical_volumes")
        if not 0 < self.extent_bytes < 1 << 50:
            raise metadata.bad(f"extent_size is {self.extent_bytes // _SECTOR_BYTES}")

    @property
    def logical_uuids(self) -> dict[str, str]:
        """The UUIDs of all logical volumes, by name."""
        return {name: section.text("id") for name, section in self.logical_volumes.items()}

    @property
    def physical_uuids(self) -> dict[str, str]:
        """The UUIDs of the physical volumes, by the names that the metadata give them."""
        return {name: section.text("id") for name, section in self.physical_volumes.items()}

    def visible(self) -> list[str]:
        """The logical volumes that users see: no pools, and snapshots by the names of their exception stores."""
        names: dict[str, None] = {}
        for name, section in self.logical_volumes.items():
            segment = section.section("segment1")
            kind = segment.text("type").partition("+")[0]
            if "VISIBLE" in section.list("status") and kind not in _POOLS and "merging_store" not in segment:
                store = segment.text("cow_store") if kind == "snapshot" else name
                names[store if store in self.logical_volumes else name] = None
        return list(names)

    def skips_activation(self, name: str) -> bool:
        """Whether LVM2 activates it only when it is told to."""
        flags = self.logical_volumes[name].get("flags")
        return isinstance(flags, list) and "ACTIVATION_SKIP" in flags

    def segments(self, name: str) -> list[Section]:
        """The segments of a logical volume, ascending and without gaps."""
        if name not in self.logical_volumes:
            raise self.section.bad(f"no logical volume {name}")
        section = self.logical_volumes[name]
        segments = [value for key, value in section.items() if key.startswith("segment") and isinstance(value, Section)]
        segments.sort(key=lambda segment: segment.number("start_extent"))
        ends = [0, *(segment.number("start_extent") + segment.number("extent_count") for segment in segments)]
        if [segment.number("start_extent") for segment in segments] != ends[:-1]:
            raise section.bad(f"the segments of {name} leave gaps or overlap")
        if len(segments) != section.number("segment_count") or any(a >= b for a, b in pairwise(ends)):
            raise section.bad(f"{name} has {len(segments)} segments")
        return segments

    def only_segment(self, name: str) -> Section:
        """The one segment of a pool."""
        segments = self.segments(name)
        if len(segments) != 1:
            raise self.section.bad(f"{name} has {len(segments)} segments")
        return segments[0]

    def snapshot(self, key: str, name: str) -> Section | None:
        """The segment of a snapshot that has the logical volume `name` as its ``cow_store``, ``origin``…"""
        for section in self.logical_volumes.values():
            segment = section.get("segment1")
            if isinstance(segment, Section) and segment.get("type") == "snapshot" and segment.get(key) == name:
                return segment
        return None

    def physical(self, name: str) -> Section:
        if name not in self.physical_volumes:
            raise self.section.bad(f"no physical volume {name}")
        return self.physical_volumes[name]

    def is_logical(self, name: str) -> bool:
        return name in self.logical_volumes

    def bytes(self, extents: int) -> int:
        if extents * self.extent_bytes >= 1 << 63:
            raise self.section.bad(f"{extents} extents")
        return extents * self.extent_bytes
