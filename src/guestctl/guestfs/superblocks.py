"""What superblocks say: ``tune2fs_l``, ``xfs_info`` and ``isoinfo``.

ext4: kernel, Documentation/filesystems/ext4, "Super Block"; XFS: "XFS Algorithms & Data Structures", Superblocks;
ISO 9660: ECMA-119, 8.4. Only what is to be printed is decoded here: what reading needs is in each filesystem's room.
"""

from __future__ import annotations

import errno
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from guestctl.block import BlockDevice
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

_EXT_OFFSET, _EXT_BYTES = 1024, 1024
_PVD_OFFSET, _PVD_BYTES = 32768, 2048
_XFS_BYTES = 264
_XFS_DIRV2, _XFS_LOGV2, _XFS_BORG = 0x2000, 0x0400, 0x4000
_XFS_LAZY, _XFS_ATTR2 = 0x2, 0x8

_EXT_FEATURES: Sequence[tuple[int, dict[int, str]]] = (
    (
        0x5C,
        {
            0x1: "dir_prealloc",
            0x2: "imagic_inodes",
            0x4: "has_journal",
            0x8: "ext_attr",
            0x10: "resize_inode",
            0x20: "dir_index",
            0x200: "sparse_super2",
            0x400: "fast_commit",
            0x800: "stable_inodes",
            0x1000: "orphan_file",
        },
    ),
    (
        0x60,
        {
            0x1: "compression",
            0x2: "filetype",
            0x4: "needs_recovery",
            0x8: "journal_dev",
            0x10: "meta_bg",
            0x40: "extent",
            0x80: "64bit",
            0x100: "mmp",
            0x200: "flex_bg",
            0x400: "ea_inode",
            0x1000: "dirdata",
            0x2000: "metadata_csum_seed",
            0x4000: "large_dir",
            0x8000: "inline_data",
            0x10000: "encrypt",
            0x20000: "casefold",
        },
    ),
    (
        0x64,
        {
            0x1: "sparse_super",
            0x2: "large_file",
            0x8: "huge_file",
            0x10: "uninit_bg",
            0x20: "dir_nlink",
            0x40: "extra_isize",
            0x100: "quota",
            0x200: "bigalloc",
            0x400: "metadata_csum",
            0x1000: "read-only",
            0x2000: "project",
            0x4000: "shared_blocks",
            0x8000: "verity",
            0x10000: "orphan_present",
        },
    ),
)
_FLAGS = {0x1: "signed_directory_hash", 0x2: "unsigned_directory_hash", 0x4: "test_filesystem"}
_JOURNAL_MODES = {0x20: "journal_data", 0x40: "journal_data_ordered", 0x60: "journal_data_writeback"}
_MOUNT_OPTIONS = {
    0x1: "debug",
    0x2: "bsdgroups",
    0x4: "user_xattr",
    0x8: "acl",
    0x10: "uid16",
    0x100: "nobarrier",
    0x200: "block_validity",
    0x400: "discard",
    0x800: "nodelalloc",
}
_SYSTEMS = ("Linux", "Hurd", "Masix", "FreeBSD", "Lites")
_ERRORS = {1: "Continue", 2: "Remount read-only", 3: "Panic"}
_HASHES = {0: "legacy", 1: "half_md4", 2: "tea"}
_PERIODS = (("month", 2592000), ("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_WRITTEN = (("kB", 0), ("MB", 10), ("GB", 20), ("TB", 30))


class Superblocks(Handle):
    """``tune2fs_l``, ``xfs_info`` and ``isoinfo``."""

    @launched
    def tune2fs_l(self, device: str) -> Any:
        """What ``tune2fs -l`` prints of an ext2, ext3 or ext4 filesystem: its words -> texts."""
        found = self._device(device)
        raw = _read(found, device, _EXT_OFFSET, _EXT_BYTES)
        if raw[0x38:0x3A] != b"\x53\xef":
            raise GuestFSError(f"Bad magic number in super-block while trying to open {device}", errno.EINVAL)
        return self._hash(dict(_ext_lines(raw)))

    @launched
    def xfs_info(self, pathordevice: str) -> dict[str, Any]:
        """The geometry of an XFS filesystem, on a device or where it is mounted; sizes in bytes and blocks."""
        mounted = self._mounts.get(pathordevice)
        device = mounted[0] if mounted else pathordevice
        raw = _read(self._device(device), device, 0, _XFS_BYTES)
        if raw[:4] != b"XFSB":
            raise GuestFSError(f"{pathordevice}: not an XFS filesystem", errno.EINVAL)
        return _xfs_geometry(raw, device)

    @launched
    def isoinfo_device(self, device: str) -> dict[str, Any]:
        """The primary volume descriptor of an ISO 9660 filesystem; times in seconds since 1970, or -1."""
        return _volume_descriptor(self._device(device), device)

    @launched
    def isoinfo(self, isofile: str) -> dict[str, Any]:
        """`isoinfo_device` of a file in a mounted filesystem."""
        return _volume_descriptor(self._tree.device(self._path(isofile)), isofile)


def _read(device: BlockDevice, name: str, offset: int, length: int) -> bytes:
    if device.size < offset + length:
        raise GuestFSError(f"{name}: too small", errno.EINVAL)
    return bytes(device.read(offset, length))


def _named(bits: int, names: dict[int, str]) -> Iterator[str]:
    return (name for bit, name in names.items() if bits & bit)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


# ext2, ext3, ext4


def _ext_lines(raw: bytes) -> Iterable[tuple[str, str]]:
    """The lines in their order; one without a value is left out."""
    u8, u16, u32 = raw.__getitem__, _reader(raw, "<H"), _reader(raw, "<I")
    wide = u32(0x60) & 0x80
    high = u32 if wide else (lambda _offset: 0)
    block_size = 1024 << (u32(0x18) & 31)
    checksums = u32(0x64) & 0x400
    lines: dict[str, object] = {
        "Filesystem volume name": _text(raw[0x78:0x88]),
        "Last mounted on": _text(raw[0x88:0xC8]),
        "Filesystem UUID": str(uuid.UUID(bytes=raw[0x68:0x78])),
        "Filesystem magic number": "0xEF53",
        "Filesystem revision #": f"{u32(0x4C)} ({'dynamic' if u32(0x4C) else 'original'})",
        "Filesystem features": " ".join(name for at, names in _EXT_FEATURES for name in _named(u32(at), names))
        or "(none)",
        "Filesystem flags": "".join(f"{name} " for name in _named(u32(0x160), _FLAGS)) or None,
        "Default mount options": _mount_options(u32(0x100)),
        "Filesystem state": ("clean" if u16(0x3A) & 1 else "not clean") + (" with errors" if u16(0x3A) & 2 else ""),
        "Errors behavior": _ERRORS.get(u16(0x3C), "Unknown (continue)"),
        "Filesystem OS type": _SYSTEMS[u32(0x48)] if u32(0x48) < len(_SYSTEMS) else "(unknown os)",
        "Inode count": u32(0),
        "Block count": u32(4) | high(0x150) << 32,
        "Reserved block count": u32(8) | high(0x154) << 32,
        "Overhead clusters": u32(0x248) or None,
        "Free blocks": u32(0xC) | high(0x158) << 32,
        "Free inodes": u32(0x10),
        "First block": u32(0x14),
        "Block size": block_size,
        "Cluster size" if u32(0x64) & 0x200 else "Fragment size": 1024 << (u32(0x1C) & 31),
        "Group descriptor size": u16(0xFE) if wide else None,
        "Reserved GDT blocks": u16(0xCE) or None,
        "Blocks per group": u32(0x20),
        "Clusters per group" if u32(0x64) & 0x200 else "Fragments per group": u32(0x24),
        "Inodes per group": u32(0x28),
        "Inode blocks per group": -(-u32(0x28) * (u16(0x58) or 128) // block_size),
        "First meta block group": u32(0x104) or None,
        "RAID stride": u16(0x164) or None,
        "RAID stripe width": u32(0x170) or None,
        "Flex block group size": 1 << (u8(0x174) & 31) if u8(0x174) else None,
        "Filesystem created": _date(u32(0x108)) if u32(0x108) else None,
        "Last mount time": _date(u32(0x2C)) if u32(0x2C) else "n/a",
        "Last write time": _date(u32(0x30)),
        "Mount count": u16(0x34),
        "Maximum mount count": struct.unpack_from("<h", raw, 0x36)[0],
        "Last checked": _date(u32(0x40)),
        "Check interval": f"{u32(0x44)} ({_period(u32(0x44))})",
        "Next check after": _date(u32(0x40) + u32(0x44)) if u32(0x44) else None,
        "Lifetime writes": _written(struct.unpack_from("<Q", raw, 0x178)[0]),
        "Reserved blocks uid": f"{u16(0x50)} (user unknown)",
        "Reserved blocks gid": f"{u16(0x52)} (group unknown)",
        "First inode": u32(0x54) if u32(0x4C) else None,
        "Inode size": u16(0x58) if u32(0x4C) else None,
        "Required extra isize": u16(0x15C) or None,
        "Desired extra isize": u16(0x15E) or None,
        "Journal UUID": str(uuid.UUID(bytes=raw[0xD0:0xE0])) if any(raw[0xD0:0xE0]) else None,
        "Journal inode": u32(0xE0) or None,
        "Journal device": f"0x{u32(0xE4):04x}" if u32(0xE4) else None,
        "First orphan inode": u32(0xE8) or None,
        "Default directory hash": _HASHES.get(u8(0xFC), u8(0xFC)) if u8(0xFC) or u32(0x5C) & 0x20 else None,
        "Directory Hash Seed": str(uuid.UUID(bytes=raw[0xEC:0xFC])) if any(raw[0xEC:0xFC]) else None,
        "Journal backup": "inode blocks" if u8(0xFD) == 1 and any(raw[0x10C:0x150]) else None,
        "User quota inode": u32(0x240) or None,
        "Group quota inode": u32(0x244) or None,
        "Project quota inode": u32(0x26C) or None,
        "Checksum type": ("crc32c" if u8(0x175) == 1 else u8(0x175)) if checksums else None,
        "Checksum": f"0x{u32(0x3FC):08x}" if checksums else None,
    }
    return [(key, str(value)) for key, value in lines.items() if value is not None]


def _reader(raw: bytes, code: str) -> Any:
    unpack = struct.Struct(code).unpack_from
    return lambda offset: unpack(raw, offset)[0]


def _mount_options(bits: int) -> str:
    mode = _JOURNAL_MODES.get(bits & 0x60)
    return " ".join([*([mode] if mode else ()), *_named(bits, _MOUNT_OPTIONS)]) or "(none)"


def _date(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%a %b} {moment.day:2} {moment:%H:%M:%S %Y}"


def _period(seconds: int) -> str:
    words = []
    for name, length in _PERIODS:
        count, seconds = divmod(seconds, length)
        if count:
            words.append(f"{count} {name}{'s' if count > 1 else ''}")
    return ", ".join(words) or "<none>"


def _written(kibibytes: int) -> str | None:
    unit, shift = next((one for one in _WRITTEN if kibibytes >> one[1] < 8192), _WRITTEN[-1])
    return f"{(kibibytes + (1 << shift >> 1)) >> shift} {unit}" if kibibytes else None


# XFS


def _xfs_geometry(raw: bytes, device: str) -> dict[str, Any]:
    u16, u32, u64 = (_reader(raw, code) for code in (">H", ">I", ">Q"))
    block, version, features = u32(4), u16(100), u32(200)
    return {
        "xfs_mntpoint": device,
        "xfs_inodesize": u16(104),
        "xfs_agcount": u32(88),
        "xfs_agsize": u32(84),
        "xfs_sectsize": u16(102),
        "xfs_attr": 2 if features & _XFS_ATTR2 else 1,
        "xfs_blocksize": block,
        "xfs_datablocks": u64(8),
        "xfs_imaxpct": raw[127],
        "xfs_sunit": u32(184),
        "xfs_swidth": u32(188),
        "xfs_dirversion": 2 if version & _XFS_DIRV2 else 1,
        "xfs_dirblocksize": block << (raw[192] & 31),
        "xfs_cimode": int(bool(version & _XFS_BORG)),
        "xfs_logname": "internal" if u64(48) else "external",
        "xfs_logblocksize": block,
        "xfs_logblocks": u32(96),
        "xfs_logversion": 2 if version & _XFS_LOGV2 else 1,
        "xfs_logsectsize": u16(194) or u16(102),
        "xfs_logsunit": u32(196) // block if u32(196) > 1 and block else u32(196),
        "xfs_lazycount": int(bool(features & _XFS_LAZY)),
        "xfs_rtname": "none" if not u64(16) else "external",
        "xfs_rtextsize": u32(80) * block,
        "xfs_rtblocks": u64(16),
        "xfs_rtextents": u64(24),
    }


# ISO 9660


def _volume_descriptor(device: BlockDevice, name: str) -> dict[str, Any]:
    raw = _read(device, name, _PVD_OFFSET, _PVD_BYTES)
    if raw[:6] != b"\x01CD001":
        raise GuestFSError(f"{name}: not an ISO file or CD-ROM", errno.EINVAL)
    texts = {
        "system": (8, 32),
        "volume": (40, 32),
        "volume_set": (190, 128),
        "publisher": (318, 128),
        "data_preparer": (446, 128),
        "application": (574, 128),
        "copyright_file": (702, 37),
        "abstract_file": (739, 37),
        "bibliographic_file": (776, 37),
    }
    times = {"creation": 813, "modification": 830, "expiration": 847, "effective": 864}
    return {
        **{f"iso_{key}_id": _text(raw[at : at + length]).rstrip(" ") for key, (at, length) in texts.items()},
        "iso_volume_space_size": _reader(raw, "<I")(80),
        "iso_volume_set_size": _reader(raw, "<H")(120),
        "iso_volume_sequence_number": _reader(raw, "<H")(124),
        "iso_logical_block_size": _reader(raw, "<H")(128),
        **{f"iso_volume_{key}_t": _seconds(raw[at : at + 17]) for key, at in times.items()},
    }


def _seconds(field: bytes) -> int:
    """A date of 16 digits and an offset from UTC in quarters of an hour (8.4.26.1)."""
    try:
        moment = datetime.strptime(field[:14].decode("ascii"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return -1
    return int((moment - timedelta(minutes=15 * struct.unpack("b", field[16:])[0])).timestamp())
