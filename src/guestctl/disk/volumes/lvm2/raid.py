"""The superblocks on the metadata volumes of RAID volumes, as the kernel's dm-raid keeps them.

They tell which legs hold the array as it is now. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature

# magic, compat_features, array_position, events, failed_devices, disk_recovery_offset, array_resync_offset;
# flags; data_offset; incompat_features
_SUPERBLOCK = struct.Struct("<II4xIQQQQ12xI32xQ40xI")
_MAGIC = 0x64526D44
_EXTENDED = 1  # compat_features: what follows array_resync_offset and the layout counts
_RESHAPE_ACTIVE = 1
_NEVER = (1 << 64) - 1


class _Superblock(NamedTuple):
    position: int
    events: int
    failed: int  # bit for each leg
    is_rebuilt: bool
    is_synced: bool


def usable_legs(metadata: Sequence[BlockDevice | None], *, needs_parity: bool) -> set[int]:
    """The legs that are in sync, by the metadata volumes of those that are there.

    Raises `UnsupportedFeature` where a leg is not, and parity cannot be trusted to stand for it.
    """
    found = {number: _read(device) for number, device in enumerate(metadata) if device is not None}
    known = {number: superblock for number, superblock in found.items() if superblock is not None}
    if not known:  # never activated, so nothing is known to differ
        return set(found)
    newest = max(known.values(), key=lambda superblock: superblock.events)
    usable = {
        number
        for number, superblock in known.items()
        if newest.events - superblock.events <= 1  # a crash comes between the updates of two legs
        and superblock.position == number
        and not superblock.is_rebuilt
        and not newest.failed >> number & 1
    }
    if needs_parity and len(usable) < len(metadata) and not newest.is_synced:
        raise UnsupportedFeature("legs are missing of RAID that is not in sync", feature="dirty degraded array")
    return usable


def _read(device: BlockDevice) -> _Superblock | None:
    """The superblock of a leg; None where it has none yet."""
    if device.size < _SUPERBLOCK.size:
        raise InvalidFormat(f"{device.size} bytes of metadata", structure="dm-raid superblock", offset=0)
    raw = _SUPERBLOCK.unpack(device.read(0, _SUPERBLOCK.size))
    magic, compatible, position, events, failed, recovery, resync, flags, data_offset, incompatible = raw
    if magic != _MAGIC:
        return None
    if incompatible or compatible & ~_EXTENDED:
        message = f"dm-raid with features {compatible:#x} and {incompatible:#x}"
        raise UnsupportedFeature(message, feature="dm-raid feature")
    if compatible & _EXTENDED and (flags & _RESHAPE_ACTIVE or data_offset):
        raise UnsupportedFeature("RAID that is or was reshaped", feature="LVM2 reshape")
    return _Superblock(position, events, failed, recovery != _NEVER, resync == _NEVER)
