"""UBI and UBIFS ("UBIFS" white papers of linux-mtd), and cramfs (the kernel's Documentation/filesystems/cramfs)."""

from __future__ import annotations

from struct import Struct

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text, uuid

# Erase counter header: version, image sequence number.
_UBI = Struct(">4xB19xI")
# Common header: node type; superblock node: format version, UUID, version of what may be read only.
_UBIFS = Struct("<20xB59xI24x16sI")
_SUPERBLOCK_NODE = 6
# Flags, signature, name.
_CRAMFS, _CRAMFS_BIG = Struct("<8xI4x16s16x16s"), Struct(">8xI4x16s16x16s")
_CRAMFS_SIGNATURE, _CRAMFS_VERSION_2 = b"Compressed ROMFS", 0x1


def identify_ubi(device: BlockDevice) -> Identity | None:
    head = read_at(device, 0, _UBI.size)
    if len(head) < _UBI.size:
        return None
    version, sequence = _UBI.unpack(head)
    return Identity("ubi", "raid", str(version), uuid=str(sequence))


def identify_ubifs(device: BlockDevice) -> Identity | None:
    head = read_at(device, 0, _UBIFS.size)
    if len(head) < _UBIFS.size:
        return None
    kind, version, identifier, read_only_version = _UBIFS.unpack(head)
    if kind != _SUPERBLOCK_NODE:
        return None
    return Identity("ubifs", version=f"w{version}r{read_only_version}", uuid=uuid(identifier))


def identify_cramfs(device: BlockDevice) -> Identity | None:
    head = read_at(device, 0, _CRAMFS.size)
    if len(head) < _CRAMFS.size:
        return None
    flags, signature, name = (_CRAMFS if head[0] == 0x45 else _CRAMFS_BIG).unpack(head)
    if signature != _CRAMFS_SIGNATURE:
        return None
    return Identity("cramfs", version="2" if flags & _CRAMFS_VERSION_2 else "1", label=text(name))
