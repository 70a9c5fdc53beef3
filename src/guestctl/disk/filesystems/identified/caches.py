"""Bcache (its own documentation, "bcache superblock") and bcachefs, whose superblock grew from the same one."""

from __future__ import annotations

from struct import Struct

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text, uuid

_OFFSET = 4096
# bcache: offset in sectors, version. bcachefs: version; then both: magic, UUID, UUID of the set, label.
_BCACHE = Struct("<8xQQ")
_BCACHEFS = Struct("<16xH")
_UUID, _SET_UUID, _LABEL, _LABEL_BYTES = 40, 56, 72, 32
_BCACHE_SECTOR = 8  # where bcachefs has a part of its checksum


def _head(device: BlockDevice) -> bytes | None:
    head = read_at(device, _OFFSET, _LABEL + _LABEL_BYTES)
    return head if len(head) == _LABEL + _LABEL_BYTES else None


def identify_bcache(device: BlockDevice) -> Identity | None:
    head = _head(device)
    if head is None:
        return None
    sector, version = _BCACHE.unpack_from(head)
    if sector != _BCACHE_SECTOR:
        return None
    return Identity("bcache", "other", str(version), text(head[_LABEL:]), uuid(head[_UUID : _UUID + 16]))


def identify_bcachefs(device: BlockDevice) -> Identity | None:
    head = _head(device)
    if head is None or _BCACHE.unpack_from(head)[0] == _BCACHE_SECTOR:
        return None
    (version,) = _BCACHEFS.unpack_from(head)
    name = f"{version >> 10}.{version & 0x3FF}"
    return Identity("bcachefs", version=name, label=text(head[_LABEL:]), uuid=uuid(head[_SET_UUID : _SET_UUID + 16]))
