"""The superblock and its mirrors.

Section "Superblock". The copies are at 64 KiB, 64 MiB and 256 GiB; the sound one with the highest
generation is used, and a warning says where the first is not it. Incompatible features that are not
read are refused by name; of those that are known these are zoned, extent_tree_v2,
raid_stripe_tree and remap_tree.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.btrfs import layout as L
from guestctl.disk.filesystems.btrfs.checksums import checksum_of

_STRUCTURE = "superblock"
_MIN_BLOCK, _MAX_BLOCK = 4096, 64 << 10


class TreeRoot(NamedTuple):
    """Where a tree begins. ``generation`` is None where nothing says which it must be."""

    bytenr: int
    level: int
    generation: int | None


class Superblock(NamedTuple):
    """The fields that are used, under their own names."""

    fsid: bytes
    metadata_uuid: bytes  # what tree blocks bear as their fsid
    generation: int
    root: TreeRoot
    chunk_root: TreeRoot
    log_root: TreeRoot
    total_bytes: int
    bytes_used: int
    root_dir_objectid: int
    num_devices: int
    sectorsize: int
    nodesize: int
    compat_ro_flags: int
    incompat_flags: int
    csum_type: int
    devid: int
    device_uuid: bytes
    label: bytes
    sys_chunk_array: bytes


def identify(data: bytes) -> Identity | None:
    """By blkid's rules: the magic, and no wrong checksum where it is CRC-32C."""
    if data[0x40:0x48] != L.MAGIC:
        return None
    if data[0xC4:0xC6] == b"\0\0":
        computed = checksum_of(L.CSUM_CRC32C)
        if computed is not None and computed(data[L.CSUM_BYTES :]) != data[:4]:
            return None
    label = data[L.LABEL_AT : L.LABEL_AT + L.LABEL_BYTES].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return Identity("btrfs", label=label or None, uuid=str(uuid.UUID(bytes=data[0x20:0x30])))


def parse_superblock(data: bytes, offset: int, *, verify: bool = True) -> Superblock:
    """The superblock in `data`, which lay at `offset`."""
    if data[0x40:0x48] != L.MAGIC:
        raise InvalidFormat("has no magic", structure=_STRUCTURE, offset=offset)
    fields = L.SUPERBLOCK.unpack_from(data, L.SUPERBLOCK_AT)
    fsid, bytenr, _flags, _magic, generation, root, chunk_root, log_root, _log_transid, total, used, root_dir = fields[
        :12
    ]
    num_devices, sectorsize, nodesize, _leafsize, _stripesize, array_size, chunk_generation = fields[12:19]
    _compat, compat_ro, incompat, csum_type, root_level, chunk_level, log_level = fields[19:]
    checksum = checksum_of(csum_type)
    if checksum is None:
        raise UnsupportedFeature(f"checksums of type {csum_type}", feature=f"csum_type {csum_type}")
    computed = checksum(data[L.CSUM_BYTES :])
    if verify and computed != data[: len(computed)]:
        raise ChecksumMismatch(
            structure=_STRUCTURE,
            offset=offset,
            expected=int.from_bytes(data[: len(computed)], "little"),
            actual=int.from_bytes(computed, "little"),
        )
    if bytenr != offset:
        raise InvalidFormat(f"says it is at {bytenr:#x}", structure=_STRUCTURE, offset=offset)
    _refuse_features(incompat)
    for name, value in (("sectorsize", sectorsize), ("nodesize", nodesize)):
        if not _MIN_BLOCK <= value <= _MAX_BLOCK or value & (value - 1):
            raise InvalidFormat(f"{name} is {value}", structure=_STRUCTURE, offset=offset)
    if nodesize < sectorsize or array_size > L.SYS_CHUNK_ARRAY_BYTES:
        raise InvalidFormat(
            f"nodesize {nodesize}, sectorsize {sectorsize}, sys_chunk_array_size {array_size}",
            structure=_STRUCTURE,
            offset=offset,
        )
    if max(root_level, chunk_level, log_level) >= L.MAX_LEVEL:
        raise InvalidFormat("a tree with too many levels", structure=_STRUCTURE, offset=offset)
    device = L.DEV_ITEM.unpack_from(data, L.DEV_ITEM_AT)
    metadata_uuid = fsid
    if incompat & L.INCOMPAT_METADATA_UUID:
        metadata_uuid = data[L.METADATA_UUID_AT : L.METADATA_UUID_AT + 16]
    return Superblock(
        fsid=fsid,
        metadata_uuid=metadata_uuid,
        generation=generation,
        root=TreeRoot(root, root_level, generation),
        chunk_root=TreeRoot(chunk_root, chunk_level, chunk_generation),
        # The log is written in the transaction after the one that the superblock describes.
        log_root=TreeRoot(log_root, log_level, generation + 1),
        total_bytes=total,
        bytes_used=used,
        root_dir_objectid=root_dir,
        num_devices=num_devices,
        sectorsize=sectorsize,
        nodesize=nodesize,
        compat_ro_flags=compat_ro,
        incompat_flags=incompat,
        csum_type=csum_type,
        devid=device[0],
        device_uuid=device[12],
        label=data[L.LABEL_AT : L.LABEL_AT + L.LABEL_BYTES].partition(b"\0")[0],
        sys_chunk_array=data[L.SYS_CHUNK_ARRAY_AT : L.SYS_CHUNK_ARRAY_AT + array_size],
    )


def _refuse_features(incompat: int) -> None:
    for bit in range(64):
        if incompat >> bit & 1 and not L.INCOMPAT_READ >> bit & 1:
            name = L.INCOMPAT_NAMES.get(bit, f"incompatible feature {1 << bit:#x}")
            raise UnsupportedFeature(f"Btrfs with {name}", feature=name)


def read_superblock(device: BlockDevice, warnings: list[str], *, verify: bool = True) -> Superblock:
    """The newest sound superblock of `device`. Raises what is wrong with the first where none is sound."""
    best: Superblock | None = None
    first_error: Exception | None = None
    for offset in L.SUPERBLOCK_OFFSETS:
        if offset + L.SUPERBLOCK_BYTES > device.size:
            break
        try:
            superblock = parse_superblock(bytes(device.read(offset, L.SUPERBLOCK_BYTES)), offset, verify=verify)
        except (InvalidFormat, UnsupportedFeature) as error:
            if offset == L.SUPERBLOCK_OFFSETS[0]:
                if isinstance(error, UnsupportedFeature):
                    raise
                first_error = error
            continue
        if best is None:
            best = superblock
        elif superblock.fsid == best.fsid and superblock.generation > best.generation:
            warnings.append(f"the superblock at {offset:#x} is newer than the one before it, and was used")
            best = superblock
    if best is None:
        raise first_error or InvalidFormat("no superblock", structure=_STRUCTURE, offset=L.SUPERBLOCK_OFFSETS[0])
    if first_error is not None:
        warnings.append(f"{first_error}; a mirror was used")
    return best
