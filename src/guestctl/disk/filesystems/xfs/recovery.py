"""Log recovery (section "Log Items"): what a dirty log says, written into an overlay.

Replayed: buffers, but for those that were freed later ("cancelled"), inodes with both forks, and
the creation of inodes. A version 5 structure that is already newer than the log's copy stays as
it is, and gets a new checksum where it changes. Not replayed, since reading does not depend on
them: quotas, and the lists of unlinked inodes.

Intents (to free extents, to update reverse mappings, reference counts or file mappings) that were
not done by the end of the log are left so, with a warning. Most concern free space only; the
mappings and attributes of a file are read as they were before the intent.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from guestctl.block import BlockDevice, Overlay
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.inode import inode_offset
from guestctl.disk.filesystems.xfs.log import Log, Transaction, items
from guestctl.disk.filesystems.xfs.superblock import Superblock, Volume, checksum

_SECTOR_BYTES = 512
_MAX_BUFFER_BYTES = 64 << 10

# "Log Operation Magic Numbers"
_LI_INODE, _LI_BUFFER, _LI_ICREATE = 0x123B, 0x123C, 0x123F
# Intent -> (what is done about it, its name)
_INTENTS = {
    0x1236: (0x1237, "free extents"),
    0x1240: (0x1241, "update reverse mappings"),
    0x1242: (0x1243, "update reference counts"),
    0x1244: (0x1245, "update the mappings of a file"),
    0x1246: (0x1247, "update extended attributes"),
    0x1248: (0x1249, "exchange the mappings of two files"),
}
_DONE = {done: intent for intent, (done, _name) in _INTENTS.items()}
_INTENT_ID = struct.Struct("<8xQ")

# "Buffer Log Item": blf_type blf_size blf_flags blf_len blf_blkno blf_map_size
_BUFFER = struct.Struct("<4HqI")
_BUFFER_INODES, _BUFFER_CANCEL, _BUFFER_QUOTA = 0x1, 0x2, 0x1C
_CHUNK_BYTES = 128  # that one bit of blf_data_map stands for
_MAX_BITMAP_BYTES = 128  # a buffer has 64 KiB at most; the kernel's map is a word longer than it must be

# "Inode Log Item": ilf_type ilf_size ilf_fields ilf_asize ilf_dsize, ilf_ino, ilfu_rdev, ilf_blkno ilf_len
# ilf_boffset; the 32-bit form has no padding before ilf_ino
_INODE = struct.Struct("<2HI2H4xQI12xq2i")
_INODE_32 = struct.Struct("<2HI2HQI12xq2i")
_CORE, _DATA_LOCAL, _DATA_EXTENTS, _DATA_ROOT, _DEVICE = 0x1, 0x2, 0x4, 0x8, 0x10
_ATTRIBUTE_LOCAL, _ATTRIBUTE_EXTENTS, _ATTRIBUTE_ROOT = 0x40, 0x80, 0x100
_DATA_FORK = _DATA_LOCAL | _DATA_EXTENTS | _DATA_ROOT
_ATTRIBUTE_FORK = _ATTRIBUTE_LOCAL | _ATTRIBUTE_EXTENTS | _ATTRIBUTE_ROOT

# "Inode Creation Log Item": icl_ag icl_agbno icl_count icl_isize icl_length icl_gen
_ICREATE = struct.Struct(">4x6I")

# The core of an inode as fields, for the log has it in the host's order. In the middle are
# di_flushiter or di_big_nextents, the time stamps, and the counts of extents of either kind.
_CORE_HEAD = "2H2BH3I2H"
_CORE_SMALL, _CORE_LARGE = "6sH", "Q"
_CORE_TIMES, _CORE_BIG_TIMES = "6i", "3Q"
_CORE_SIZES = "2QI"
_CORE_COUNTS = "IH"  # large counters have the same widths here
_CORE_TAIL = "2BIHHI"
_CORE_V3 = "I4s3QI12s"
_CORE_BYTES_V2, _CORE_BYTES_V3 = 96, 176
_CORE_CRTIME, _CORE_BIG_CRTIME = "2i", "Q"
_CORE_END = "Q16s"
_NEXT_UNLINKED = 96
_NULL_AG_INODE = b"\xff" * 4
_LSN_NULL = (1 << 64) - 1
_DI_FLUSHITER, _DI_LSN = 30, 112
_MAX_FLUSHITER = 0xFFFF
_CHUNK_INODES = 64


class Replay(NamedTuple):
    """What the log holds and the filesystem does not: ``overlay`` reads as the device after recovery."""

    overlay: Overlay
    transactions: int
    warnings: list[str]


def replay(device: BlockDevice, superblock: Superblock) -> Replay | None:
    """Replay the log of the filesystem over `device`; None where it is empty.

    Raises `InvalidFormat`, `ChecksumMismatch` and `UnsupportedFeature`.
    """
    volume = Volume(device, superblock, verify=False)
    offset = volume.offset(superblock.log_block, superblock.log_blocks)
    if offset < 0:
        message = f"a log of {superblock.log_blocks} blocks from {superblock.log_block} on"
        raise InvalidFormat(message, structure="superblock", offset=0)
    size = superblock.log_blocks << superblock.block_log
    log = Log(device, offset, size, uuid=superblock.user_uuid, has_checksums=superblock.v5)
    if not log.is_dirty:
        return None
    overlay = Overlay(device)
    recovery = _Recovery(Volume(overlay, superblock, verify=False), overlay)
    for transaction in log.transactions():
        recovery.note(transaction)
    for transaction in log.transactions():
        recovery.apply(transaction)
    return Replay(overlay, recovery.transactions, log.warnings + recovery.warnings())


class _Recovery:
    def __init__(self, volume: Volume, overlay: Overlay) -> None:
        self._volume = volume
        self._overlay = overlay
        self._v5 = volume.superblock.v5
        self._uuid = volume.superblock.uuid
        self._cancelled: Counter[tuple[int, int]] = Counter()  # (blf_blkno, blf_len)
        self._cancelled_starts: Counter[int] = Counter()  # blf_blkno
        self._intents: dict[tuple[int, int], None] = {}
        self.transactions = 0

    def note(self, transaction: Transaction) -> None:
        """The first pass: which buffers are freed, and which intents remain."""
        for regions in items(transaction):
            kind = int.from_bytes(regions[0][:2], "little")
            if kind == _LI_BUFFER:
                _size, flags, length, block, _bitmap = _buffer(regions[0], transaction.lsn)
                if flags & _BUFFER_CANCEL:
                    self._cancelled[block, length] += 1
                    self._cancelled_starts[block] += 1
            elif kind in _INTENTS or kind in _DONE:
                if len(regions[0]) < _INTENT_ID.size:
                    raise _bad(f"an intent of {len(regions[0])} bytes", transaction.lsn)
                (identity,) = _INTENT_ID.unpack_from(regions[0])
                if kind in _INTENTS:
                    self._intents[kind, identity] = None
                else:
                    self._intents.pop((_DONE[kind], identity), None)

    def warnings(self) -> list[str]:
        """What was left undone."""
        counts = Counter(kind for kind, _ in self._intents)
        return [f"left unfinished: {count} intents to {_INTENTS[kind][1]}" for kind, count in counts.items()]

    def apply(self, transaction: Transaction) -> None:
        """The second pass. Buffers come before what depends on them, those that are freed come last."""
        self.transactions += 1
        first: list[Callable[[], None]] = []
        then: list[Callable[[], None]] = []
        last: list[Callable[[], None]] = []
        for regions in items(transaction):
            kind = int.from_bytes(regions[0][:2], "little")
            if kind == _LI_BUFFER:
                cancels = _buffer(regions[0], transaction.lsn)[1] & _BUFFER_CANCEL
                group = last if cancels else first
                group.append(lambda regions=regions: self._replay_buffer(regions, transaction.lsn))  # type: ignore[misc]
            elif kind == _LI_ICREATE:
                first.append(lambda regions=regions: self._create_inodes(regions[0], transaction.lsn))  # type: ignore[misc]
            elif kind == _LI_INODE:
                then.append(lambda regions=regions: self._replay_inode(regions, transaction.lsn))  # type: ignore[misc]
        for action in (*first, *then, *last):
            action()

    # Buffers

    def _replay_buffer(self, regions: list[bytes], lsn: int) -> None:
        _size, flags, length, block, bitmap = _buffer(regions[0], lsn)
        if flags & _BUFFER_CANCEL:
            self._cancelled[block, length] -= 1
            self._cancelled_starts[block] -= 1
            return
        if self._cancelled.get((block, length), 0) > 0 or flags & (_BUFFER_INODES | _BUFFER_QUOTA):
            return
        offset, size = block * _SECTOR_BYTES, length * _SECTOR_BYTES
        if block < 0 or not 0 < size <= _MAX_BUFFER_BYTES or offset + size > self._overlay.size:
            raise _bad(f"a buffer of {length} sectors at {block}", lsn)
        data = bytearray(self._overlay.read(offset, size))
        if self._v5 and self._is_newer(data, lsn):
            return
        for start, content in _changes(bitmap, regions[1:], lsn):
            if start + len(content) > size:
                raise _bad(f"{len(content)} bytes at {start} of a buffer of {size}", lsn)
            data[start : start + len(content)] = content
        if self._v5:
            _restore_checksum(data, self._volume.superblock)
        self._overlay.write(offset, bytes(data))

    def _is_newer(self, data: bytearray, lsn: int) -> bool:
        """Whether a structure on the disk was written after this transaction."""
        found = _self_description(data)
        if found is None:
            return False
        _crc, lsn_at, uuid_at = found
        if uuid_at >= 0 and data[uuid_at : uuid_at + 16] != self._uuid:
            return False  # a block that was free
        stored = int.from_bytes(data[lsn_at : lsn_at + 8], "big")
        return stored not in (0, _LSN_NULL) and stored >= lsn

    # Inodes

    def _create_inodes(self, item: bytes, lsn: int) -> None:
        if len(item) < _ICREATE.size:
            raise _bad(f"an item of {len(item)} bytes", lsn)
        group, block, count, size, length, generation = _ICREATE.unpack_from(item)
        superblock = self._volume.superblock
        absolute = group << superblock.ag_block_log | block
        offset = self._volume.offset(absolute, length) if group < superblock.ag_count else -1
        possible = max(_CHUNK_INODES, 1 << superblock.inodes_per_block_log)
        if offset < 0 or size != self._volume.inode_size or count * size > length << superblock.block_log:
            raise _bad(f"{count} inodes of {size} bytes in {length} blocks from {absolute} on", lsn)
        if count > possible:
            raise _bad(f"{count} inodes of {size} bytes in {length} blocks from {absolute} on", lsn)
        sectors = range(offset // _SECTOR_BYTES, (offset + count * size) // _SECTOR_BYTES)
        if any(self._cancelled_starts.get(sector, 0) > 0 for sector in sectors):
            return  # a part of the chunk is freed later
        first = absolute << superblock.inodes_per_block_log
        inodes = bytearray(count * size)
        for number in range(count):
            inode = bytearray(size)
            inode[:2] = L.INODE_MAGIC
            inode[4] = 3 if self._v5 else 2
            inode[92:96] = generation.to_bytes(4, "big")
            inode[_NEXT_UNLINKED : _NEXT_UNLINKED + 4] = _NULL_AG_INODE
            if self._v5:
                inode[L.DI_INO : L.DI_INO + 8] = (first + number).to_bytes(8, "big")
                inode[L.DI_UUID : L.DI_UUID + 16] = self._uuid
                inode[L.DI_CRC : L.DI_CRC + 4] = checksum(bytes(inode), L.DI_CRC).to_bytes(4, "little")
            inodes[number * size : (number + 1) * size] = inode
        self._overlay.write(offset, bytes(inodes))

    def _replay_inode(self, regions: list[bytes], lsn: int) -> None:
        layout = _INODE if len(regions[0]) >= _INODE.size else _INODE_32
        if len(regions[0]) < layout.size:
            raise _bad(f"an item of {len(regions[0])} bytes", lsn)
        _type, _size, fields, _asize, _dsize, ino, device, block, length, within = layout.unpack_from(regions[0])
        if self._cancelled.get((block, length), 0) > 0:
            return
        offset = inode_offset(self._volume, ino)
        size = self._volume.inode_size
        if offset < 0 or offset != block * _SECTOR_BYTES + within:
            raise _bad(f"inode {ino} at byte {within} of sector {block}", lsn)
        inode = bytearray(self._overlay.read(offset, size))
        if inode[:2] != L.INODE_MAGIC:
            raise InvalidFormat(f"di_magic is {bytes(inode[:2])!r}", structure="inode", offset=offset)
        core = regions[1] if len(regions) > 1 else b""
        if self._is_newer_inode(inode, core, lsn):
            return
        _write_core(inode, core, lsn)
        if not self._v5:
            inode[_DI_FLUSHITER : _DI_FLUSHITER + 2] = bytes(2)
        literal = L.LITERAL_V3 if self._v5 else L.LITERAL_V2
        forkoff = inode[82] * 8
        boundary = literal + forkoff if forkoff else size
        if boundary > size:
            raise _bad(f"di_forkoff is {inode[82]}", lsn)
        rest = regions[2:]
        for mask, root, start, end in (
            (_DATA_FORK, _DATA_ROOT, literal, boundary),
            (_ATTRIBUTE_FORK, _ATTRIBUTE_ROOT, boundary, size),
        ):
            if not fields & mask:
                continue
            if not rest:
                raise _bad(f"ilf_fields is {fields:#x}, with {len(regions)} regions", lsn)
            content = rest.pop(0)
            if fields & root:
                content = self._root(content, end - start, lsn)
            if len(content) > end - start + 3:  # regions are padded
                raise _bad(f"{len(content)} bytes in a fork of {end - start}", lsn)
            content = content[: end - start]
            inode[start : start + len(content)] = content
        if fields & _DEVICE:
            inode[literal : literal + 4] = device.to_bytes(4, "big")
        if self._v5:
            inode[L.DI_CRC : L.DI_CRC + 4] = checksum(bytes(inode), L.DI_CRC).to_bytes(4, "little")
        self._overlay.write(offset, bytes(inode))

    def _is_newer_inode(self, inode: bytearray, core: bytes, lsn: int) -> bool:
        if self._v5:
            stored = int.from_bytes(inode[_DI_LSN : _DI_LSN + 8], "big")
            return stored not in (0, _LSN_NULL) and stored > lsn
        stored = int.from_bytes(inode[_DI_FLUSHITER : _DI_FLUSHITER + 2], "big")
        logged = int.from_bytes(core[_DI_FLUSHITER : _DI_FLUSHITER + 2], "little")
        wrapped = stored == _MAX_FLUSHITER and logged < _MAX_FLUSHITER // 2
        return logged < stored and not wrapped

    def _root(self, root: bytes, size: int, lsn: int) -> bytes:
        """The root of a B+tree, which the log has as a block of its own, in the form that inodes have."""
        header = L.BMBT_HEADER_V5 if self._v5 else L.BMBT_HEADER_V4
        if len(root) < header:
            raise _bad(f"a root of {len(root)} bytes", lsn)
        _magic, level, count = L.BLOCK_HEADER.unpack_from(root)
        logged, stored = (len(root) - header) // 16, (size - L.BMDR_BYTES) // 16
        if count > min(logged, stored):
            raise _bad(f"bb_numrecs is {count}", lsn)
        result = bytearray(size)
        L.BMDR.pack_into(result, 0, level, count)
        for source, target in ((header, L.BMDR_BYTES), (header + 8 * logged, L.BMDR_BYTES + 8 * stored)):
            result[target : target + 8 * count] = root[source : source + 8 * count]
        return bytes(result)


def _buffer(item: bytes, lsn: int) -> tuple[int, int, int, int, bytes]:
    """(blf_size, blf_flags, blf_len, blf_blkno, blf_data_map) of a buffer item."""
    if len(item) < _BUFFER.size:
        raise _bad(f"an item of {len(item)} bytes", lsn)
    _type, size, flags, length, block, words = _BUFFER.unpack_from(item)
    bitmap = item[_BUFFER.size : _BUFFER.size + 4 * words]
    if len(bitmap) != 4 * words:
        raise _bad(f"blf_map_size is {words}", lsn)
    return size, flags, length, block, bitmap


def _changes(bitmap: bytes, regions: list[bytes], lsn: int) -> list[tuple[int, bytes]]:
    """(start, content) of what changes: each run of bits in turn is filled from the regions."""
    if len(bitmap) > _MAX_BITMAP_BYTES:
        raise _bad(f"a data map of {len(bitmap)} bytes", lsn)
    bits = int.from_bytes(bitmap, "little")
    changes = []
    position = 0
    for region in regions:
        rest = bits >> position
        if not rest:
            raise _bad(f"{len(regions)} regions, and fewer runs of changes", lsn)
        position += (rest & -rest).bit_length() - 1
        rest = bits >> position
        run = (~rest & rest + 1).bit_length() - 1
        chunks = min(run, len(region) // _CHUNK_BYTES)
        if not chunks:
            raise _bad(f"a region of {len(region)} bytes", lsn)
        changes.append((position * _CHUNK_BYTES, region[: chunks * _CHUNK_BYTES]))
        position += chunks
    return changes


# Magic at offset 0 -> where a version 5 structure has its checksum, its LSN and its UUID (-1: not compared).
_SHORT_TREE, _DATA_BLOCK = (52, 24, 32), (4, 16, 24)
_SELF = {
    L.MAGIC: (L.SUPERBLOCK_CRC, 240, -1),
    L.AGF_MAGIC: (L.AGF_CRC, 208, 64),
    b"XAFL": (32, 24, 8),
    L.AGI_MAGIC: (L.AGI_CRC, 320, 296),
    **dict.fromkeys((b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC"), _SHORT_TREE),
    L.BMBT_MAGIC_V5: (64, 32, 40),
    **dict.fromkeys((b"XDB3", b"XDD3", b"XDF3"), _DATA_BLOCK),
    L.SYMLINK_MAGIC: (12, 48, 16),
}
# Magic at offset 8: nodes and leaves of directories and attributes.
_DA_SELF = (12, 24, 32)
_DA_MAGICS = {0x3DF1, 0x3DFF, 0x3EBE, 0x3BEE}


def _self_description(data: bytearray) -> tuple[int, int, int] | None:
    found = _SELF.get(bytes(data[:4]))
    if found is None and int.from_bytes(data[8:10], "big") in _DA_MAGICS:
        found = _DA_SELF
    return found


def _restore_checksum(data: bytearray, superblock: Superblock) -> None:
    """Replay changes a buffer's content, not its checksum."""
    if data[:2] == L.INODE_MAGIC:
        size = 1 << superblock.inode_log
        for start in range(0, len(data) - size + 1, size):
            inode = bytes(data[start : start + size])
            data[start + L.DI_CRC : start + L.DI_CRC + 4] = checksum(inode, L.DI_CRC).to_bytes(4, "little")
        return
    found = _self_description(data)
    if found is not None:
        data[found[0] : found[0] + 4] = checksum(bytes(data), found[0]).to_bytes(4, "little")


def _write_core(inode: bytearray, core: bytes, lsn: int) -> None:
    """The core as the disk has it; the list of unlinked inodes is not the core's to change."""
    version = core[4] if len(core) > 4 else 0
    size = _CORE_BYTES_V3 if version == 3 else _CORE_BYTES_V2
    if version not in (1, 2, 3) or len(core) < size or len(inode) < size:
        raise _bad(f"a core of {len(core)} bytes, di_version {version}", lsn)
    if int.from_bytes(core[:2], "little") != int.from_bytes(L.INODE_MAGIC, "big"):
        raise _bad(f"di_magic is {core[:2]!r}", lsn)
    flags2 = int.from_bytes(core[120:128], "little") if version == 3 else 0
    big_times = flags2 & L.DIFLAG2_BIGTIME
    fields = _CORE_HEAD + (_CORE_LARGE if flags2 & L.DIFLAG2_NREXT64 else _CORE_SMALL)
    fields += (_CORE_BIG_TIMES if big_times else _CORE_TIMES) + _CORE_SIZES + _CORE_COUNTS + _CORE_TAIL
    unlinked = bytes(inode[_NEXT_UNLINKED : _NEXT_UNLINKED + 4])
    if version == 3:
        fields += _CORE_V3 + (_CORE_BIG_CRTIME if big_times else _CORE_CRTIME) + _CORE_END
    values = struct.unpack_from("<" + fields, core)
    inode[:size] = struct.pack(">" + fields, *values)
    if version == 3:
        inode[_NEXT_UNLINKED : _NEXT_UNLINKED + 4] = unlinked


def _bad(message: str, lsn: int) -> InvalidFormat:
    return InvalidFormat(message, structure="log item", offset=lsn)
