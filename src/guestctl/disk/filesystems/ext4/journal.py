"""The journal of ext3 and ext4 (jbd2), replayed into an overlay.

Specification: "Journal (jbd2)" in the kernel's ext4 documentation; its section names are quoted
below. Everything is big-endian, except the fast commits at the end.

Read:

- superblocks v1 and v2, in a journal inode or on an external journal device
- block tags of 8 and 12 bytes, of 10 and 14 bytes with checksum v2 (two bytes more than the
  specification says: the kernel never used them), of 16 bytes with checksum v3
- escaped blocks, revocation records of 4 and 8 bytes, a log that wraps around
- checksums: v1 (CRC32 of a transaction in its commit block), v2 and v3 (CRC32C of each block);
  a commit block of which only the first sector reached the disk
- asynchronous commits, which recovery meets like others: a bad commit block ends the log

Not applied, and named in a warning: fast commits. They are deltas of inodes and directories, not
blocks; without them the filesystem is as it was at its last full commit. Refused by name: unknown
incompatible features. Ignored, as in the kernel: the DELETED flag and the UUIDs of tags, and the
UUID of an internal journal (it only seeds checksums, and ``tune2fs -U`` leaves it behind).

Damage is met as the kernel's recovery meets it:

- a block without the expected magic and sequence ends the log; what came before is replayed
- a bad checksum of a commit block ends the log there, with a warning
- a bad checksum of a descriptor or revocation block is `ChecksumMismatch` where the commit block
  of its transaction follows and is no older than the last one; otherwise these are remains of an
  earlier log, and the log ends before them
- a bad checksum of a data block: the kernel leaves that block out, replays the rest and then
  refuses the mount; here it is left out with a warning
- a block that belongs past the end of the device is `InvalidFormat`; the kernel fails as well
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer
from guestctl.block.overlay import Overlay
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature

# "Block Header"
_MAGIC = 0xC03B3998
_MAGIC_BYTES = _MAGIC.to_bytes(4, "big")
_HEADER = struct.Struct(">III")  # h_magic h_blocktype h_sequence
_DESCRIPTOR, _COMMIT, _SUPERBLOCK_V1, _SUPERBLOCK_V2, _REVOKE = 1, 2, 3, 4, 5

# "Super Block": s_blocksize s_maxlen s_first s_sequence s_start s_errno, and in v2 s_feature_compat
# s_feature_incompat s_feature_ro_compat s_uuid s_nr_users s_checksum_type s_num_fc_blks
_SUPERBLOCK = struct.Struct(">12x5Ii3I16sI12xB3xI")
_SUPERBLOCK_BYTES = 1024
_SUPERBLOCK_CHECKSUM = 0xFC  # s_checksum
_USERS = 0x100  # s_users
_COMPAT_CHECKSUM = 0x1
_INCOMPAT_64BIT, _INCOMPAT_CSUM_V2, _INCOMPAT_CSUM_V3, _INCOMPAT_FAST_COMMIT = 0x2, 0x8, 0x10, 0x20
_INCOMPAT_KNOWN = 0x3F
_TYPE_CRC32, _TYPE_CRC32C = 1, 4
_EXT_MAGIC_OFFSET, _EXT_MAGIC = 0x438, b"\x53\xef"  # "External Journal"

# "Descriptor Block"
_U32 = struct.Struct(">I")
_TAG = struct.Struct(">IHH")  # t_blocknr t_checksum t_flags; with v3 t_flags is 32 bits, the upper half 0
_TAG_HIGH = 0x8  # t_blocknr_high
_TAG3_CHECKSUM = 0xC  # t_checksum
_TAG3_BYTES = 16
_UUID_BYTES = 16
_TAIL_BYTES = 4
_FLAG_ESCAPE, _FLAG_SAME_UUID, _FLAG_LAST_TAG = 0x1, 0x2, 0x8

# "Revocation Block", "Commit Block"
_REVOKE_COUNT, _REVOKE_RECORDS = 0xC, 0x10  # r_count, blocks[0]
_COMMIT_HEADER = struct.Struct(">12xBB2xI28xQ")  # h_chksum_type h_chksum_size h_chksum[0] h_commit_sec
_COMMIT_CHECKSUM = 0x10  # h_chksum[0]
_COMMIT_HEADER_BYTES = 64

# "Fast commits": struct ext4_fc_tl, and the values of HEAD (fc_features fc_tid) and TAIL (fc_tid fc_crc).
_FC_TAG = struct.Struct("<HH")
_FC_PAIR = struct.Struct("<II")
_FC_NAMES = {1: "ADD_RANGE", 2: "DEL_RANGE", 3: "CREAT", 4: "LINK", 5: "UNLINK", 6: "INODE"}
_FC_PAD, _FC_TAIL, _FC_HEAD = 7, 8, 9
_FC_DEFAULT_BLOCKS = 256
_FC_MIN_LOG_BLOCKS = 1024  # a log that the area would leave shorter has no such area

# mke2fs makes no longer journal unless told to, and the log in use, what was committed in the last
# half minute or so, is a part of it. A hostile inode can map few blocks of a disk to a log of any length.
_MAX_LOG_BLOCKS = 1 << 18
_MAX_REVOKES = 1 << 22  # 16 MiB of full revocation blocks; few transactions fill one
_MAX_FC_TAGS = 1 << 18  # counted for a warning only; an area of the default size holds some 10,000
_UNIT_BYTES = 1 << 20  # the log is read in such units; every block size divides it

_MASK = 0xFFFFFFFF
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Replay(NamedTuple):
    """What the journal holds and the filesystem does not.

    ``overlay`` reads as the device after recovery, ``transactions`` is how many were complete and
    ``blocks`` how many different blocks of the device they replaced.
    """

    overlay: Overlay
    transactions: int
    blocks: int
    warnings: list[str]


def replay(device: BlockDevice, journal: BlockDevice, *, block_size: int, uuid: bytes) -> Replay | None:
    """Replay `journal` over `device`; None where its log is empty.

    `journal` is the content of the journal inode or an external journal device, `block_size` (in
    bytes) and `uuid` (16 bytes) are the filesystem's. Recovery proper ends by marking the journal
    empty and clearing ``needs_recovery``; the overlay holds only what the log says.

    Raises `InvalidFormat` and `ChecksumMismatch` with offsets in bytes within `journal`, and
    `UnsupportedFeature`.
    """
    superblock = _read_superblock(journal, block_size, uuid)
    if not superblock.start:
        return None
    recovery = _Recovery(superblock, journal)
    if superblock.errno:
        recovery.warnings.append(f"the journal records error {superblock.errno} of the filesystem")
    recovery.scan()
    newest = recovery.resolve(device.size // block_size)
    if superblock.last < superblock.maxlen:
        recovery.count_fast_commits()
    overlay = Overlay(device)
    recovery.write(newest, overlay)
    return Replay(overlay, recovery.transactions, len(newest), recovery.warnings)


@dataclass(frozen=True, slots=True)
class _Superblock:
    """The journal superblock. Blocks `first` up to `last` are a ring that holds the log."""

    block_size: int
    maxlen: int
    first: int
    sequence: int
    start: int
    errno: int
    compat: int = 0
    incompat: int = 0
    uuid: bytes = b""
    fc_blocks: int = 0

    @property
    def last(self) -> int:
        """One past the ring: the fast commit area, where there is one, lies behind it."""
        if not self.incompat & _INCOMPAT_FAST_COMMIT:
            return self.maxlen
        last = self.maxlen - (self.fc_blocks or _FC_DEFAULT_BLOCKS)
        return last if last >= _FC_MIN_LOG_BLOCKS else self.maxlen

    @property
    def tag_bytes(self) -> int:
        if self.incompat & _INCOMPAT_CSUM_V3:
            return _TAG3_BYTES
        return (12 if self.incompat & _INCOMPAT_64BIT else 8) + (2 if self.incompat & _INCOMPAT_CSUM_V2 else 0)


def _read_superblock(journal: BlockDevice, block_size: int, uuid: bytes) -> _Superblock:
    offset = _superblock_offset(journal, block_size)
    if journal.size < offset + _SUPERBLOCK_BYTES:
        raise _bad(f"cut off by the end of a journal of {journal.size} bytes", offset)
    block = bytes(journal.read(offset, _SUPERBLOCK_BYTES))
    magic, kind, _ = _HEADER.unpack_from(block)
    if magic != _MAGIC:
        raise _bad(f"h_magic is {magic:#x}, expected {_MAGIC:#x}", offset, _MAGIC, magic)
    if kind not in (_SUPERBLOCK_V1, _SUPERBLOCK_V2):
        raise _bad(f"h_blocktype is {kind}, expected {_SUPERBLOCK_V2}", offset, _SUPERBLOCK_V2, kind)
    fields = _SUPERBLOCK.unpack_from(block)
    superblock = _Superblock(*fields[:6])
    if kind == _SUPERBLOCK_V2:
        compat, incompat, ro_compat, seed, users, method, fc_blocks = fields[6:]
        _check_features(compat, incompat, ro_compat, offset)
        if incompat & (_INCOMPAT_CSUM_V2 | _INCOMPAT_CSUM_V3):
            _check_superblock_checksum(block, method, offset)
        _check_owner(block[_USERS:], users, uuid, offset)
        superblock = replace(superblock, compat=compat, incompat=incompat, uuid=seed, fc_blocks=fc_blocks)
    if superblock.block_size != block_size:
        raise _bad(f"s_blocksize is {superblock.block_size}", offset, block_size, superblock.block_size)
    if not 0 < superblock.first < superblock.last <= superblock.maxlen <= journal.size // block_size:
        raise _bad(
            f"log from block {superblock.first} up to {superblock.maxlen} in a journal of {journal.size} bytes", offset
        )
    if superblock.start and not superblock.first <= superblock.start < superblock.last:
        raise _bad(f"s_start {superblock.start} is outside the log", offset, actual=superblock.start)
    return superblock


def _superblock_offset(journal: BlockDevice, block_size: int) -> int:
    """On an external journal device the journal superblock is in the block after an ext superblock."""
    if journal.size < 2048 or journal.read(0, 4) == _MAGIC_BYTES or journal.read(_EXT_MAGIC_OFFSET, 2) != _EXT_MAGIC:
        return 0
    return max(block_size, 2048)


def _check_features(compat: int, incompat: int, ro_compat: int, offset: int) -> None:
    unknown = [f"incompat {1 << bit:#x}" for bit in range(32) if incompat & ~_INCOMPAT_KNOWN & 1 << bit]
    unknown += [f"ro_compat {1 << bit:#x}" for bit in range(32) if ro_compat & 1 << bit]
    if unknown:
        names = ", ".join(unknown)
        raise UnsupportedFeature(f"the journal has unknown features: {names}", feature=names)
    methods = (compat & _COMPAT_CHECKSUM, incompat & _INCOMPAT_CSUM_V2, incompat & _INCOMPAT_CSUM_V3)
    if sum(map(bool, methods)) > 1:
        raise _bad("more than one version of checksums", offset)


def _check_superblock_checksum(block: bytes, method: int, offset: int) -> None:
    if method != _TYPE_CRC32C:
        raise UnsupportedFeature(f"journal checksums of type {method}", feature=f"s_checksum_type {method}")
    actual, expected = _checksums(block, _SUPERBLOCK_CHECKSUM, _MASK)
    if actual != expected:
        raise ChecksumMismatch(structure="journal superblock", offset=offset, expected=expected, actual=actual)


def _check_owner(users: bytes, count: int, uuid: bytes, offset: int) -> None:
    """An external journal names its filesystems; an internal one has none to name."""
    names = [users[at : at + 16] for at in range(0, min(16 * count, len(users)), 16)]
    if any(map(any, names)) and uuid not in names:
        raise _bad("the journal belongs to another filesystem", offset, uuid, names[0])


class _Recovery:
    """One recovery. Positions are block numbers within the journal, targets are block numbers on the device.

    Transactions are counted from 0: unlike sequence numbers, these do not wrap around.
    """

    def __init__(self, superblock: _Superblock, journal: BlockDevice) -> None:
        self.superblock = superblock
        self.transactions = 0
        self.warnings: list[str] = []
        self._seed: int | None = None  # of CRC32C, with checksums v2 and v3
        if superblock.incompat & (_INCOMPAT_CSUM_V2 | _INCOMPAT_CSUM_V3):
            self._seed = _crc32c(_MASK, superblock.uuid)
        self._tail_bytes = 0 if self._seed is None else _TAIL_BYTES
        self._journal = journal
        self._unit = memoryview(b"")
        self._unit_start = 0
        # One item per tag of the log.
        self._targets = array("Q")
        self._positions = array("L")
        self._flags = array("H")
        self._checksums = array("L")
        self._tag_transactions = array("L")
        # One item per revocation block.
        self._revokes = array("L")  # position
        self._revoke_transactions = array("L")
        # Of the transaction that is being scanned.
        self._damage: ChecksumMismatch | None = None
        self._crc = 0
        self._commit_time = 0  # of the one before, in seconds

    def scan(self) -> None:
        """The first pass: find the end of the log, and collect tags and revocation blocks up to there."""
        position, sequence = self.superblock.start, self.superblock.sequence
        length = self.superblock.last - self.superblock.first
        used = tags = revokes = 0
        while used <= length:
            block = self._block(position)
            magic, kind, block_sequence = _HEADER.unpack_from(block)
            if magic != _MAGIC or block_sequence != sequence:
                break
            step = 1
            if kind == _DESCRIPTOR:
                step += self._take_descriptor(block, position)
            elif kind == _REVOKE:
                self._check_tail(block, position, "journal revocation block")
                self._revokes.append(position)
                self._revoke_transactions.append(self.transactions)
            elif kind == _COMMIT and self._take_commit(block, sequence):
                sequence = (sequence + 1) & _MASK
                tags, revokes = len(self._targets), len(self._revokes)
            else:
                break
            used += step
            if used > _MAX_LOG_BLOCKS:
                message = f"more than {_MAX_LOG_BLOCKS} blocks of journal to replay"
                raise UnsupportedFeature(message, feature="large log")
            position = self._after(position, step)
        else:
            self.warnings.append(f"transaction {sequence} of the journal goes round in circles and is left out")
        for column in (self._targets, self._positions, self._flags, self._checksums, self._tag_transactions):
            del column[tags:]
        del self._revokes[revokes:], self._revoke_transactions[revokes:]

    def resolve(self, device_blocks: int) -> dict[int, int]:
        """The second and third pass: the newest valid copy of each target, as a tag's number."""
        revoked = self._read_revokes()
        newest: dict[int, int] = {}
        damaged = []
        for tag, (target, transaction) in enumerate(zip(self._targets, self._tag_transactions, strict=True)):
            if revoked and revoked.get(target, -1) >= transaction:
                continue
            if target >= device_blocks:
                raise InvalidFormat(
                    f"belongs at block {target} of a device of {device_blocks} blocks",
                    structure="journal data block",
                    offset=self._positions[tag] * self.superblock.block_size,
                    actual=target,
                )
            if self._seed is not None and not self._is_valid(tag, self._seed):
                damaged.append(target)
            else:
                newest[target] = tag
        if damaged:
            self.warnings.append(
                f"{len(damaged)} blocks of the journal have a bad checksum and are left out,"
                f" the first is for block {damaged[0]}"
            )
        return newest

    def write(self, newest: dict[int, int], overlay: Overlay) -> None:
        """Put the chosen copies in their places, neighbours in one step."""
        size = self.superblock.block_size
        unit_blocks = _UNIT_BYTES // size
        for _, tags in groupby(sorted(newest.values()), key=lambda tag: self._positions[tag] // unit_blocks):
            start = end = 0
            parts: list[Buffer] = []
            for target, tag in sorted((self._targets[tag], tag) for tag in tags):
                if target != end:
                    overlay.write(start * size, b"".join(parts))
                    start, end, parts = target, target, []
                data: Buffer = self._block(self._positions[tag])
                if self._flags[tag] & _FLAG_ESCAPE:
                    data = _MAGIC_BYTES + bytes(data[4:])
                parts.append(data)
                end += 1
            overlay.write(start * size, b"".join(parts))

    def _take_descriptor(self, block: memoryview, position: int) -> int:
        """Add the tags of a descriptor block; gives their number."""
        self._check_tail(block, position, "journal descriptor block")
        count = self._read_tags(block)
        following = [self._after(position, step) for step in range(1, count + 1)]
        self._positions.extend(following)
        self._tag_transactions.extend([self.transactions] * count)
        if self.superblock.compat & _COMPAT_CHECKSUM:
            # CRC32 with the most significant bit first: zlib's, with the bits of each byte reversed.
            self._crc = zlib.crc32(bytes(block).translate(_REVERSED_BITS), self._crc)
            for data in following:
                self._crc = zlib.crc32(bytes(self._block(data)).translate(_REVERSED_BITS), self._crc)
        return count

    def _read_tags(self, block: memoryview) -> int:
        incompat, tag_bytes = self.superblock.incompat, self.superblock.tag_bytes
        wide, v3 = incompat & _INCOMPAT_64BIT, incompat & _INCOMPAT_CSUM_V3
        end = len(block) - tag_bytes - self._tail_bytes
        offset, count = _HEADER.size, 0
        while offset <= end:
            target, checksum, flags = _TAG.unpack_from(block, offset)
            if wide:
                target |= _U32.unpack_from(block, offset + _TAG_HIGH)[0] << 32
            if v3:
                checksum = _U32.unpack_from(block, offset + _TAG3_CHECKSUM)[0]
            self._targets.append(target)
            self._flags.append(flags)
            self._checksums.append(checksum)
            count += 1
            offset += tag_bytes if flags & _FLAG_SAME_UUID else tag_bytes + _UUID_BYTES
            if flags & _FLAG_LAST_TAG:
                break
        return count

    def _take_commit(self, block: memoryview, sequence: int) -> bool:
        """Close a transaction; False where the log ends before it."""
        *_, time = _COMMIT_HEADER.unpack_from(block)
        if self._damage is not None and time >= self._commit_time:
            raise self._damage
        if self._damage is not None:
            return False
        if not self._is_commit_valid(block):
            if time >= self._commit_time:
                self.warnings.append(
                    f"the commit block of transaction {sequence} has a bad checksum: the log ends before it"
                )
            return False
        self._commit_time = time
        self._crc = 0
        self.transactions += 1
        return True

    def _is_commit_valid(self, block: memoryview) -> bool:
        if self._seed is not None:
            whole = bytes(block)
            # Of a block that was cut off while it was written, the header lies in the sector that was.
            cut = whole[:_COMMIT_HEADER_BYTES].ljust(len(whole), b"\0")
            for data in (whole, cut):
                actual, expected = _checksums(data, _COMMIT_CHECKSUM, self._seed)
                if actual == expected:
                    return True
            return False
        if self.superblock.compat & _COMPAT_CHECKSUM:
            method, size, checksum, _ = _COMMIT_HEADER.unpack_from(block)
            # zlib's CRC ends with an inversion, the kernel's does not.
            crc = int(f"{self._crc ^ _MASK:032b}"[::-1], 2)
            return (method, size, checksum) in ((_TYPE_CRC32, 4, crc), (0, 0, 0))
        return True

    def _check_tail(self, block: memoryview, position: int, structure: str) -> None:
        """Note a bad checksum of a descriptor or revocation block; the commit block decides what it means."""
        if self._seed is None or self._damage is not None:
            return
        whole = bytes(block)
        actual, expected = _checksums(whole, len(whole) - _TAIL_BYTES, self._seed)
        if actual != expected:
            offset = position * len(whole)
            self._damage = ChecksumMismatch(structure=structure, offset=offset, expected=expected, actual=actual)

    def _read_revokes(self) -> dict[int, int]:
        """For targets that the log writes: the last transaction that revokes them."""
        revoked: dict[int, int] = {}
        if not self._revokes:
            return revoked
        targets = set(self._targets)
        form, record = ("Q", 8) if self.superblock.incompat & _INCOMPAT_64BIT else ("I", 4)
        room = self.superblock.block_size - self._tail_bytes
        total = 0
        for position, transaction in zip(self._revokes, self._revoke_transactions, strict=True):
            block = self._block(position)
            used = _U32.unpack_from(block, _REVOKE_COUNT)[0]
            if used > room:
                raise InvalidFormat(
                    f"r_count is {used}, more than {room}",
                    structure="journal revocation block",
                    offset=position * self.superblock.block_size,
                    actual=used,
                )
            count = max(0, used - _REVOKE_RECORDS) // record
            total += count
            if total > _MAX_REVOKES:
                raise UnsupportedFeature(f"more than {_MAX_REVOKES} revocation records", feature="large log")
            records = struct.unpack_from(f">{count}{form}", block, _REVOKE_RECORDS)
            revoked.update(dict.fromkeys(targets.intersection(records), transaction))
        return revoked

    def _is_valid(self, tag: int, seed: int) -> bool:
        sequence = (self.superblock.sequence + self._tag_transactions[tag]) & _MASK
        checksum = _crc32c(seed, _U32.pack(sequence), bytes(self._block(self._positions[tag])))
        if not self.superblock.incompat & _INCOMPAT_CSUM_V3:
            checksum &= 0xFFFF
        return checksum == self._checksums[tag]

    def _after(self, position: int, step: int) -> int:
        first = self.superblock.first
        return first + (position - first + step) % (self.superblock.last - first)

    def _block(self, position: int) -> memoryview:
        size = self.superblock.block_size
        skip = position * size - self._unit_start
        if not 0 <= skip < len(self._unit):
            self._unit_start = position * size // _UNIT_BYTES * _UNIT_BYTES
            length = min(_UNIT_BYTES, self._journal.size - self._unit_start)
            self._unit = memoryview(self._journal.read(self._unit_start, length))
            skip = position * size - self._unit_start
        return self._unit[skip : skip + size]

    def count_fast_commits(self) -> None:
        """Warn of the fast commits that follow the last transaction."""
        superblock = self.superblock
        sequence = (superblock.sequence + self.transactions) & _MASK
        area = (self._block(position) for position in range(superblock.last + 1, superblock.maxlen))
        commits, changes = _count_fast_commits(area, sequence)
        if commits:
            what = ", ".join(f"{count} {_FC_NAMES[tag]}" for tag, count in sorted(changes.items()))
            self.warnings.append(
                f"{commits} fast commits of transaction {sequence} are not applied ({what}):"
                " the filesystem is shown as of the last full commit"
            )


def _count_fast_commits(area: Iterable[memoryview], sequence: int) -> tuple[int, Counter[int]]:
    """How many complete fast commits `area` begins with, and how many changes of each kind they make."""
    commits = crc = seen = 0
    complete: Counter[int] = Counter()
    pending: Counter[int] = Counter()
    for block in area:
        offset = 0
        while offset + _FC_TAG.size <= len(block):
            tag, length = _FC_TAG.unpack_from(block, offset)
            value, end = offset + _FC_TAG.size, offset + _FC_TAG.size + length
            seen += 1
            if end > len(block) or seen > _MAX_FC_TAGS or (seen == 1) != (tag == _FC_HEAD):
                return commits, complete
            if tag in (_FC_HEAD, _FC_TAIL):
                if length < _FC_PAIR.size:
                    return commits, complete
                first, second = _FC_PAIR.unpack_from(block, value)
            if tag == _FC_TAIL:
                if first != sequence or _crc32c(crc, bytes(block[offset : value + 4])) != second:
                    return commits, complete
                commits, crc = commits + 1, 0
                complete, pending = complete + pending, Counter()
            elif (tag == _FC_HEAD and second == sequence) or tag == _FC_PAD or tag in _FC_NAMES:
                crc = _crc32c(crc, bytes(block[offset:end]))
                pending[tag] += tag in _FC_NAMES
            else:
                return commits, complete
            offset = end
    return commits, complete


def _bad(message: str, offset: int, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="journal superblock", offset=offset, expected=expected, actual=actual)


def _checksums(block: bytes, field: int, seed: int) -> tuple[int, int]:
    """The checksum in `field` and the one that belongs there, taken with the field as zero."""
    actual: int = _U32.unpack_from(block, field)[0]
    return actual, _crc32c(seed, block[:field], bytes(4), block[field + 4 :])


def _crc32c(seed: int, *parts: bytes) -> int:
    """CRC32C as the kernel runs it: `seed` and the result are not inverted."""
    import google_crc32c

    crc = seed ^ _MASK
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return crc ^ _MASK
