"""All that LVM2 reports of physical volumes, volume groups and logical volumes, from the groups' metadata.

What only a running kernel knows is missing: device numbers are -1, percentages None. Numbers of bytes are in bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from guestctl.disk.volumes.lvm2.group import VolumeGroup
from guestctl.disk.volumes.lvm2.physical import PhysicalVolume
from guestctl.disk.volumes.lvm2.text import Section
from guestctl.guestfs.calls import launched
from guestctl.guestfs.volumes import Volumes

_SECTOR_BYTES = 512
_POLICIES = {"anywhere": "a", "contiguous": "c", "cling": "l", "normal": "n"}


class _Kind(NamedTuple):
    """Volume type and target type in lv_attr, as lvs(8) has them, and kernel modules."""

    type: str
    target: str
    module: str


_KINDS = {
    "mirror": _Kind("m", "m", "mirror"),
    "raid": _Kind("r", "r", "raid"),
    "thin-pool": _Kind("t", "t", "thin-pool"),
    "thin": _Kind("V", "t", "thin,thin-pool"),
    "cache-pool": _Kind("C", "C", "cache"),
    "cache": _Kind("C", "C", "cache"),
    "zero": _Kind("v", "v", "zero"),
    "error": _Kind("v", "v", "error"),
}


class LvmReports(Volumes):
    """``pvs_full``, ``vgs_full``, ``lvs_full`` and ``vgmeta``."""

    @launched
    def pvs_full(self) -> list[dict[str, Any]]:
        """A table for each physical volume: those of each group, then those of none. `pv_uuid` has no hyphens."""
        volumes = {volume.uuid: volume for volume in self._physical_volumes()}
        found = []
        orphans = dict(volumes)
        for group in self._groups():
            relations = _Relations(group, volumes)
            for key, uuid in group.physical_uuids.items():
                orphans.pop(uuid, None)
                found.append(_physical(volumes.get(uuid), group, key, relations.allocated[key]))
        return found + [_orphan(volume) for volume in orphans.values()]

    @launched
    def vgs_full(self) -> list[dict[str, Any]]:
        """A table for each volume group."""
        volumes = {volume.uuid: volume for volume in self._physical_volumes()}
        return [_group(group, volumes) for group in self._groups()]

    @launched
    def lvs_full(self) -> list[dict[str, Any]]:
        """A table for each logical volume, pools among them."""
        devices = self._machine.devices
        used = {parent for device in devices for parent in self._machine.parents(device)}
        used |= {mountable for mountable, _ in self._mounts.values()}
        volumes = {volume.uuid: volume for volume in self._physical_volumes()}
        found = []
        assembled: dict[str, VolumeGroup] = {}  # of groups of the same name the first is
        for group in self._groups():
            active = devices if assembled.setdefault(group.name, group) is group else {}
            relations = _Relations(group, volumes)
            found += [_logical(relations, name, active, used) for name in relations.listed()]
        return found

    @launched
    def vgmeta(self, vgname: str) -> bytes:
        """The metadata of a volume group as they lie on the disk."""
        return self._group(vgname).text.rstrip(b"\0")


class _Relations:
    """What the logical volumes of a group are to each other."""

    def __init__(self, group: VolumeGroup, present: Container[str]) -> None:
        self.group = group
        segments = list(_segments(group))
        self.snapshots = [segment for segment in segments if _kind(segment) == "snapshot"]
        self.stores = {str(one.get("cow_store")): one for one in self.snapshots}
        self.origins = {str(one.get("origin")): one for one in self.snapshots}
        self.external_origins = {str(one.get("external_origin")) for one in segments}
        self.used_pools = {str(one.get("thin_pool")) for one in segments}
        self.allocated: Counter[int | str] = Counter()  # extents, by the names of physical volumes
        for segment in segments:
            for key, parts in (("stripes", "stripe_count"), ("mirrors", "")):
                legs = segment.list(key)[::2] if key in segment else ()
                share = segment.number("extent_count") // max(segment.number(parts, 1), 1)
                for leg in legs:
                    self.allocated[leg] += share
        self.partial = self._partial([key for key, uuid in group.physical_uuids.items() if uuid not in present])

    def _partial(self, missing: list[str]) -> set[str]:
        """The volumes that lie on what is missing."""
        users: defaultdict[str, set[str]] = defaultdict(set)
        for name, section in self.group.logical_volumes.items():
            for segment in _parts(section):
                for below in _below(segment):
                    users[below].add(name)
        found: set[str] = set()
        while missing:
            fresh = users[missing.pop()] - found
            found |= fresh
            missing += fresh
        return found

    def listed(self) -> list[str]:
        """The volumes that users see, pools and the stores of snapshots among them."""
        return [
            name
            for name, section in self.group.logical_volumes.items()
            if _kind(section.section("segment1")) != "snapshot"
            and ("VISIBLE" in section.list("status") or name in self.stores)
        ]


def _segments(group: VolumeGroup) -> Iterator[Section]:
    for section in group.logical_volumes.values():
        yield from _parts(section)


def _parts(section: Section) -> Iterator[Section]:
    yield from (part for key, part in section.items() if key.startswith("segment") and isinstance(part, Section))


def _below(segment: Section) -> Iterator[str]:
    """The names of what a segment lies on."""
    for key in ("stripes", "mirrors", "raids", "raid0_lvs"):
        yield from map(str, segment.list(key) if key in segment else ())
    for key in ("mirror_log", "thin_pool", "external_origin", "metadata", "data", "pool", "cache_pool"):
        yield str(segment.get(key))
    if _kind(segment) == "cache":
        yield str(segment.get("origin"))


def _kind(segment: Section) -> str:
    kind = segment.text("type").partition("+")[0]
    return "raid" if kind.startswith("raid") else kind


def _logical(relations: _Relations, name: str, active: Mapping[str, object], used: Container[str]) -> dict[str, Any]:
    group = relations.group
    section, segments = group.logical_volumes[name], group.segments(name)
    segment = relations.stores.get(name, segments[0])
    kind = _KINDS.get(_kind(segments[0]))
    snapshot = name in relations.stores or name in relations.origins
    fixed = "FIXED_MINOR" in section.list("status")
    return {
        "lv_name": name,
        "lv_uuid": _compact(section.text("id")),
        "lv_attr": _attributes(relations, name, active, used),
        "lv_major": section.number("major") if fixed else -1,
        "lv_minor": section.number("minor") if fixed else -1,
        "lv_kernel_major": -1,
        "lv_kernel_minor": -1,
        "lv_size": group.bytes(sum(one.number("extent_count") for one in segments)),
        "seg_count": len(segments),
        "origin": _bracketed(group, segment.get("origin") or segment.get("external_origin")),
        "snap_percent": None,
        "copy_percent": None,
        "move_pv": "",
        "lv_tags": _tags(section),
        "mirror_log": _bracketed(group, segment.get("mirror_log")),
        "modules": ",".join(["snapshot"] * snapshot + ([kind.module] if kind else [])),
    }


def _attributes(relations: _Relations, name: str, active: Mapping[str, object], used: Container[str]) -> str:
    """``lv_attr``, as lvs(8) has it."""
    section = relations.group.logical_volumes[name]
    segment = section.section("segment1")
    status = section.list("status")
    kind = _KINDS.get(_kind(segment))
    path = f"/dev/{relations.group.name}/{name}"
    is_active = path in active or (active and kind is not None and kind.type == "t")
    pool = relations.group.logical_volumes.get(str(segment.get("thin_pool")))
    zeroes = (pool.section("segment1") if pool else segment).get("zero_new_blocks") == 1
    return "".join(
        (
            _volume_type(relations, name, kind),
            "w" if "WRITE" in status else "r",
            _POLICIES.get(str(section.get("allocation_policy")), "i"),
            "m" if "FIXED_MINOR" in status else "-",
            "a" if is_active else "-",
            "o" if is_active and (path in used or name in relations.used_pools) else "-",
            "s" if name in relations.stores or name in relations.origins else kind.target if kind else "-",
            "z" if zeroes else "-",
            "p" if name in relations.partial else "-",
            "k" if relations.group.skips_activation(name) else "-",
        )
    )


def _volume_type(relations: _Relations, name: str, kind: _Kind | None) -> str:
    if name in relations.origins:
        return "O" if "merging_store" in relations.origins[name] else "o"
    if name in relations.external_origins:
        return "o"
    if name in relations.stores:
        return "s"
    if kind is None:
        return "-"
    stale = kind.type in "mr" and "NOTSYNCED" in relations.group.logical_volumes[name].list("status")
    return kind.type.upper() if stale else kind.type


def _bracketed(group: VolumeGroup, name: object) -> str:
    """The name of a volume, in brackets where users do not see it."""
    if not isinstance(name, str):
        return ""
    section = group.logical_volumes.get(name)
    return name if section is not None and "VISIBLE" in section.list("status") else f"[{name}]"


def _physical(volume: PhysicalVolume | None, group: VolumeGroup, key: str, allocated: int) -> dict[str, Any]:
    section = group.physical(key)
    count = section.number("pe_count")
    areas = volume.areas if volume else ()
    exported = "EXPORTED" in group.section.list("status")
    return {
        "pv_name": volume.name if volume else "[unknown]",
        "pv_uuid": _compact(section.text("id")),
        "pv_fmt": "lvm2",
        "pv_size": group.bytes(count),
        "dev_size": volume.device.size if volume else 0,
        "pv_free": group.bytes(max(count - allocated, 0)),
        "pv_used": group.bytes(allocated),
        "pv_attr": ("a" if "ALLOCATABLE" in section.list("status") else "u")
        + ("x" if exported else "-")
        + ("-" if volume else "m"),
        "pv_pe_count": count,
        "pv_pe_alloc_count": allocated,
        "pv_tags": _tags(section),
        "pe_start": section.number("pe_start") * _SECTOR_BYTES,
        "pv_mda_count": len(areas),
        "pv_mda_free": min((area.free for area in areas), default=0),
    }


def _orphan(volume: PhysicalVolume) -> dict[str, Any]:
    size = volume.device.size
    return {
        "pv_name": volume.name,
        "pv_uuid": _compact(volume.uuid),
        "pv_fmt": "lvm2",
        "pv_size": size,
        "dev_size": size,
        "pv_free": size,
        "pv_used": 0,
        "pv_attr": "---",
        "pv_pe_count": 0,
        "pv_pe_alloc_count": 0,
        "pv_tags": "",
        "pe_start": volume.data_offset,
        "pv_mda_count": len(volume.areas),
        "pv_mda_free": min((area.free for area in volume.areas), default=0),
    }


def _group(group: VolumeGroup, volumes: dict[str, PhysicalVolume]) -> dict[str, Any]:
    status = group.section.list("status")
    members = [volumes.get(uuid) for uuid in group.physical_uuids.values()]
    areas = [area for volume in members if volume for area in volume.areas]
    count = sum(section.number("pe_count") for section in group.physical_volumes.values())
    relations = _Relations(group, volumes)
    free = max(count - sum(relations.allocated[key] for key in group.physical_volumes), 0)
    attributes = (
        "w" if "WRITE" in status else "r",
        "z" if "RESIZEABLE" in status else "-",
        "x" if "EXPORTED" in status else "-",
        "-" if all(members) else "p",
        _POLICIES.get(str(group.section.get("allocation_policy")), "n"),
        "c" if "CLUSTERED" in status else "-",
    )
    system = group.section.get("system_id", "")
    return {
        "vg_name": group.name,
        "vg_uuid": _compact(group.uuid),
        "vg_fmt": "lvm2",
        "vg_attr": "".join(attributes),
        "vg_size": group.bytes(count),
        "vg_free": group.bytes(free),
        "vg_sysid": system if isinstance(system, str) else "",
        "vg_extent_size": group.extent_bytes,
        "vg_extent_count": count,
        "vg_free_count": free,
        "max_lv": group.section.number("max_lv", 0),
        "max_pv": group.section.number("max_pv", 0),
        "pv_count": len(members),
        "lv_count": len(relations.listed()),
        "snap_count": len(relations.snapshots),
        "vg_seqno": group.sequence,
        "vg_tags": _tags(group.section),
        "vg_mda_count": len(areas),
        "vg_mda_free": min((area.free for area in areas), default=0),
    }


def _tags(section: Section) -> str:
    tags = section.get("tags", [])
    return ",".join(sorted(map(str, tags))) if isinstance(tags, list) else ""


def _compact(uuid: str) -> str:
    return uuid.replace("-", "")
