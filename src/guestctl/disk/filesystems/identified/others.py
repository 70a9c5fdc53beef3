"""HFS, HPFS of OS/2, OCFS2, VMFS, F2FS and NILFS2, by their own documentation and what their tools write."""

from __future__ import annotations

import hashlib
import zlib
from struct import Struct
from uuid import UUID

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text, uuid

# Master directory block of HFS: volume name, of which the first byte is the length, drFndrInfo, and what is embedded.
_HFS = Struct(">36x28s28x24s8s2s")
_HFS_EMBEDDED = (b"H+", b"HX")
# Apple's namespace for UUIDs that are made of identifiers of 8 bytes.
_HFS_NAMESPACE = UUID("b3e20f39-f292-11d6-97a4-00306543ecac")

_HPFS_SUPERBLOCK, _HPFS_VERSION = 0x2000, 8
# Boot sector: mark of the extended fields, serial number, label, name of the filesystem.
_HPFS_BOOT = Struct("<38xBI11s8s")
_HPFS_MARKS, _HPFS_NAME = (0x28, 0x29), b"HPFS    "
_HPFS_SECOND_MAGIC = b"\xc5\xe9\x53\xfa"

_OCFS2_MAGIC = b"OCFSV2"
_OCFS2_OFFSETS = (1024, 2048, 4096, 8192)
# Superblock in its inode: versions, label, UUID.
_OCFS2 = Struct("<192xHH76x64s16s")

_VMFS_OFFSET = 0x200000
# Version, UUID, label.
_VMFS = Struct("<8xB16s4x128s")

_SUPERBLOCK_OFFSET = 1024
# Versions, UUID, label.
_F2FS = Struct("<4xHH100x16s1024s")
# Revision, bytes that count, seed and checksum; UUID, label.
_NILFS2 = Struct("<I4xH2xII132x16s80s")
_NILFS2_SUM, _NILFS2_BYTES = 16, 1024


def identify_hfs(device: BlockDevice) -> Identity | None:
    """None where there is an HFS Plus in it."""
    data = read_at(device, _SUPERBLOCK_OFFSET, _HFS.size)
    if len(data) < _HFS.size:
        return None
    name, _, identifier, embedded = _HFS.unpack(data)
    if embedded in _HFS_EMBEDDED:
        return None
    digest = hashlib.md5(_HFS_NAMESPACE.bytes + identifier, usedforsecurity=False).digest()
    found = str(UUID(bytes=digest, version=3)) if any(identifier) else None
    return Identity("hfs", label=text(name[1 : 1 + name[0]]), uuid=found)


def identify_hpfs(device: BlockDevice) -> Identity | None:
    superblock = read_at(device, _HPFS_SUPERBLOCK, 12)
    boot = read_at(device, 0, _HPFS_BOOT.size)
    if superblock[4:8] != _HPFS_SECOND_MAGIC or len(superblock) < 12:
        return None
    mark, serial, label, name = _HPFS_BOOT.unpack(boot)
    version = str(superblock[_HPFS_VERSION])
    if mark not in _HPFS_MARKS or name != _HPFS_NAME:
        return Identity("hpfs", version=version)
    return Identity(
        "hpfs", version=version, label=text(label, "latin-1"), uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
    )


def identify_ocfs2(device: BlockDevice) -> Identity | None:
    for offset in _OCFS2_OFFSETS:
        data = read_at(device, offset, _OCFS2.size)
        if data.startswith(_OCFS2_MAGIC) and len(data) == _OCFS2.size:
            major, minor, label, identifier = _OCFS2.unpack(data)
            return Identity("ocfs2", version=f"{major}.{minor}", label=text(label), uuid=uuid(identifier))
    return None


def identify_vmfs(device: BlockDevice) -> Identity | None:
    data = read_at(device, _VMFS_OFFSET, _VMFS.size)
    if len(data) < _VMFS.size:
        return None
    version, identifier, label = _VMFS.unpack(data)
    # Two words of 32 bits and one of 16, little-endian, then six bytes.
    first, second, third, rest = Struct("<IIH6s").unpack(identifier)
    return Identity(
        "VMFS",
        version=str(version),
        label=text(label),
        uuid=f"{first:08x}-{second:08x}-{third:04x}-{rest.hex()}",
    )


def identify_f2fs(device: BlockDevice) -> Identity | None:
    data = read_at(device, _SUPERBLOCK_OFFSET, _F2FS.size)
    if len(data) < _F2FS.size:
        return None
    major, minor, identifier, label = _F2FS.unpack(data)
    return Identity("f2fs", version=f"{major}.{minor}", label=text(label, "utf-16-le"), uuid=uuid(identifier))


def identify_nilfs2(device: BlockDevice) -> Identity | None:
    """None unless the checksum is right, as the magic has only two bytes."""
    data = read_at(device, _SUPERBLOCK_OFFSET, _NILFS2_BYTES)
    if len(data) < _NILFS2_BYTES:
        return None
    revision, length, seed, checksum, identifier, label = _NILFS2.unpack_from(data)
    covered = data[:_NILFS2_SUM] + bytes(4) + data[_NILFS2_SUM + 4 : length]
    # The kernel's CRC-32 begins with the seed and is not inverted at its end.
    if length <= _NILFS2_SUM or zlib.crc32(covered, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF != checksum:
        return None
    return Identity("nilfs2", version=str(revision), label=text(label), uuid=uuid(identifier))
