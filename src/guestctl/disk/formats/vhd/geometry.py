"""Cylinders, heads and sectors of a disk ("Appendix: CHS Calculation")."""

from __future__ import annotations

from guestctl.disk.formats.vhd import layout


def geometry_for(sectors: int) -> tuple[int, int, int]:
    """The geometry of a disk of so many sectors; it may have fewer."""
    if sectors > layout.MAX_GEOMETRY_SECTORS:
        return layout.MAX_GEOMETRY
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track = 17
    heads = max(4, (sectors // per_track + 1023) // 1024)
    if sectors // per_track >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
    if sectors // per_track >= heads * 1024:
        per_track, heads = 63, 16
    return sectors // per_track // heads, heads, per_track


def geometry_with(sectors: int) -> tuple[int, int, int]:
    """The geometry of the smallest disk that has one and no fewer sectors than this."""
    for wanted in range(sectors, layout.MAX_GEOMETRY_SECTORS):
        cylinders, heads, per_track = geometry_for(wanted)
        if cylinders * heads * per_track >= sectors:
            return cylinders, heads, per_track
    return layout.MAX_GEOMETRY
