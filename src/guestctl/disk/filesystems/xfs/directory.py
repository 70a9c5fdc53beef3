"""Directories (chapter "Directories").

Read: short form directories with inode numbers of 4 and 8 bytes, and block, leaf, node and B+tree
directories, whose names are all in data blocks; file types on or off; directory blocks of several
filesystem blocks, in one piece or not. The hash index behind the data blocks is read to look up
one name in a large directory.

A block that is damaged fails alone: the entries of the others are given first, then its error is
raised. An entry whose inode does not exist fails when its inode is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.extents import ForkData, open_data
from guestctl.disk.filesystems.xfs.inode import InodeStat
from guestctl.disk.filesystems.xfs.superblock import Volume

DirEntries = list[tuple[str, int, int]]  # name, inode, file type bits of st_mode or 0

_PIECE_BYTES = 256 << 10
# A directory with so many damaged blocks holds something else; looking on would cost time for nothing.
_MAX_DAMAGED_BLOCKS = 256
_NO_FILE_TYPES = (0,) * 256
_DOTS = (b".", b"..")
_FREE = L.FREE_TAG << 48
# The largest inode number has its sign bit clear: 2^56 blocks of 512 bytes, of two inodes each.
_MAX_INODE = (1 << 63) - 1
_STRUCTURE = "directory block"
_INDEX = "directory leaf or node block"
_SHORT = "short form directory"
_entry = L.DATA_ENTRY.unpack_from
_unused = L.DATA_UNUSED.unpack_from


class DirectoryReader:
    """The entries of one directory, in on-disk order."""

    __slots__ = ("_block_bytes", "_damage", "_inode", "_volume")

    def __init__(self, volume: Volume, inode: InodeStat) -> None:
        self._volume = volume
        self._inode = inode
        self._block_bytes = 1 << volume.superblock.directory_block_log
        self._damage: list[InvalidFormat] = []

    def entries(self) -> Iterator[DirEntries]:
        """Every name but ``.`` and ``..``, in lists; then the first damage is raised."""
        if self._inode.form == L.FMT_LOCAL:
            found: DirEntries = []
            try:
                self._short(self._inode.data_fork, found)
            except InvalidFormat as error:
                self._damage.append(error)
            yield found
        else:
            yield from self._blocks(self._open())
        if self._damage:
            raise self._damage[0]

    @property
    def is_large(self) -> bool:
        """Whether there is a hash index apart from the names."""
        return self._inode.form != L.FMT_LOCAL and self._inode.st_size > self._block_bytes

    def _open(self) -> ForkData:
        """The data blocks. Behind them in the fork is the hash index, which ``di_size`` does not count."""
        size = self._inode.st_size
        limit = min(L.DIR_LEAF_OFFSET, self._volume.superblock.blocks_count << self._volume.block_log)
        if not 0 < size <= limit or size % self._block_bytes:
            raise self._bad(f"a directory of {size} bytes", self._inode.offset)
        return open_data(self._volume, self._inode, size)

    def _short(self, fork: bytes, found: DirEntries) -> None:
        """Section "Shortform Directories": ``xfs_dir2_sf``."""
        size = self._inode.st_size
        base = self._inode.offset + self._inode.literal
        if not 6 <= size <= len(fork):
            raise self._bad(f"{size} bytes in a fork of {len(fork)}", base, structure=_SHORT)
        count, wide = fork[0], 8 if fork[1] else 4
        types = self._volume.superblock.ftype
        kinds = L.FILE_TYPES if types else _NO_FILE_TYPES
        position = 2 + wide
        for _ in range(count):
            start = position + 3
            length = fork[position] if position < size else 0
            number = start + length + types
            following = number + wide
            name = fork[start : start + length]
            if following > size or not length or 0 in name:
                message = f"an entry of {length} bytes at {position} of {size}"
                raise self._bad(message, base + position, structure=_SHORT)
            kind = kinds[fork[number - 1]]
            inode = int.from_bytes(fork[number:following], "big")
            found.append((name.decode("utf-8", "surrogateescape"), inode, kind))
            position = following

    def _blocks(self, data: ForkData) -> Iterator[DirEntries]:
        step = self._block_bytes
        for start, offset, length in self._spans(data):
            if len(self._damage) >= _MAX_DAMAGED_BLOCKS:
                return
            if offset >= 0 and not length % step:
                piece = bytes(self._volume.device.read(offset, length))
                found: DirEntries = []
                for at in range(0, length, step):
                    self._block(piece[at : at + step] if length > step else piece, offset + at, found)
                yield found
            elif offset < 0:
                self._note(self._bad(f"a hole of {length} bytes at {start}", self._inode.offset))
            else:
                found = []
                extent = data.extent(start)
                self._block(bytes(data.read(start, step)), extent.source_offset + start - extent.start, found)
                yield found

    def _spans(self, data: ForkData) -> list[tuple[int, int, int]]:
        """(position, device offset, bytes) of whole directory blocks in one piece; (position, device offset, 1)
        for a block in several; (position, -1, bytes) for the missing part of a block.

        A few blocks that appear a million times would make a directory without end; that is refused.
        """
        spans = list(self._all_spans(data))
        expected = 0
        for offset, length in sorted([(offset, length) for _, offset, length in spans if offset >= 0]):
            if offset < expected:
                raise self._bad("the block appears twice in one directory", offset)
            expected = offset + length
        return spans

    def _all_spans(self, data: ForkData) -> Iterator[tuple[int, int, int]]:
        step, position = self._block_bytes, 0
        while position < data.size:
            start, length, source, source_offset = data.extent(position)
            available = min(start + length, data.size) - position
            if source is None:
                # Directories lose their blocks as a whole; a hole shorter than that is damage.
                whole = max(step, available - available % step)
                if available < step:
                    yield position, -1, available
            elif available < step:
                whole = step
                yield position, source_offset + position - start, 1
            else:
                whole = min(_PIECE_BYTES, available) // step * step
                yield position, source_offset + position - start, whole
            position += whole

    def _block(self, block: bytes, offset: int, found: DirEntries) -> None:
        """Append the entries of one block to `found`, or its damage to the directory's."""
        if len(self._damage) >= _MAX_DAMAGED_BLOCKS:
            return
        try:
            self._parse(block, *self._entry_area(block, offset), offset, found)
        except InvalidFormat as error:
            self._note(error)

    def _note(self, error: InvalidFormat) -> None:
        if len(self._damage) < _MAX_DAMAGED_BLOCKS:
            self._damage.append(error)

    def _entry_area(self, block: bytes, offset: int) -> tuple[int, int]:
        """Where the entries of a data block begin and end, after checking what it says of itself."""
        v5 = self._volume.superblock.v5
        has_index = (L.DATA_MAGICS_V5 if v5 else L.DATA_MAGICS_V4).get(block[:4])
        if has_index is None:
            raise self._bad(f"magic is {block[:4]!r}", offset, actual=block[:4])
        if v5:
            self._volume.check_self(block, L.DATA_SELF, self._inode.st_ino, _STRUCTURE, offset)
        start, end = L.DATA_HEADER_V5 if v5 else L.DATA_HEADER_V4, len(block)
        if has_index:
            end -= L.BLOCK_TAIL.size
            count, _stale = L.BLOCK_TAIL.unpack_from(block, end)
            end -= count * L.HASH_ENTRY_BYTES
            if end < start:
                raise self._bad(f"count is {count}", offset, actual=count)
        return start, end

    def _parse(self, block: bytes, position: int, end: int, offset: int, found: DirEntries) -> None:
        """Append the entries from `position` to `end` to `found`; those before damage are kept."""
        types = self._volume.superblock.ftype
        kinds = L.FILE_TYPES if types else _NO_FILE_TYPES
        fixed = 18 + types  # inumber namelen ftype tag, and 7 for rounding up
        append = found.append
        while position < end:
            inode, length = _entry(block, position)
            if inode >= _FREE:
                _tag, free = _unused(block, position)
                if not free or free & 7 or position + free > end:
                    raise self._bad(f"length is {free}", offset + position, actual=free)
                position += free
                continue
            start = position + 9
            following = position + (length + fixed & ~7)
            if following > end or not length:
                raise self._bad(f"namelen is {length}", offset + position, actual=length)
            name = block[start : start + length]
            if length > 2 or name not in _DOTS:
                if 0 in name:
                    raise self._bad(f"inode {inode} has the name {name!r}", offset + position)
                kind = kinds[block[start + length]]
                try:
                    append((name.decode(), inode, kind))
                except UnicodeDecodeError:
                    append((name.decode("utf-8", "surrogateescape"), inode, kind))
            position = following

    # The hash index (sections "Leaf Directories" and "Node Directories")

    def find(self, name: bytes) -> int | None:
        """The inode that `name` has by the hash index; None where it is not there. Raises `InvalidFormat`."""
        data = self._open()
        size = 2 * L.DIR_LEAF_OFFSET
        index = HashIndex(
            self._volume,
            open_data(self._volume, self._inode, size),
            L.DIR_LEAF_OFFSET,
            self._block_bytes,
            self._inode.st_ino,
        )
        for address in index.addresses(hash_name(name)):
            position = address * L.DATA_ALIGN
            if position >= data.size:
                raise self._bad(f"address {address} is outside the directory", self._inode.offset, structure=_INDEX)
            start = position - position % self._block_bytes
            block, offset = read_piece(data, start, self._block_bytes, _STRUCTURE)
            first, end = self._entry_area(block, offset)
            at = position - start
            if not first <= at <= end - 12:
                raise self._bad(f"address {address} is not that of an entry", offset, structure=_INDEX)
            inode, length = _entry(block, at)
            if block[at + 9 : at + 9 + length] == name and inode <= _MAX_INODE:
                return int(inode)
        return None

    def _bad(self, message: str, offset: int, *, actual: object = None, structure: str = _STRUCTURE) -> InvalidFormat:
        return InvalidFormat(message, structure=structure, offset=offset, actual=actual)


class HashIndex:
    """The B+tree of hashes in a fork (section "Directory Attribute Block B+trees"): nodes, and leaves of
    (hash, address)."""

    def __init__(self, volume: Volume, data: ForkData, base: int, block_bytes: int, owner: int) -> None:
        self._volume = volume
        self._data = data
        self._base = base
        self._block_bytes = block_bytes
        self._owner = owner
        self._header = L.LEAF_HEADER_V5 if volume.superblock.v5 else L.LEAF_HEADER_V4

    def addresses(self, hashval: int) -> Iterator[int]:
        """The addresses of the entries whose names have this hash."""
        block, offset, following = self._leaf(hashval)
        for _ in range(_MAX_DAMAGED_BLOCKS):
            entries = self._entries(block, offset)
            first = bisect_left(entries, (hashval, 0))
            for entry_hash, address in entries[first:]:
                if entry_hash != hashval:
                    return
                if address:
                    yield address
            # The same hash may go on in the next leaf.
            if not following:
                return
            block, offset, following, _magic = self._read(following)

    def _leaf(self, hashval: int) -> tuple[bytes, int, int]:
        number = self._base >> self._volume.block_log
        for _ in range(L.MAX_DA_LEVELS + 1):
            block, offset, following, magic = self._read(number)
            if magic in L.DIR_LEAF_MAGICS:
                return block, offset, following
            if magic not in L.DA_NODE_MAGICS:
                raise _bad_index(f"magic is {magic:#x}", offset, magic)
            entries = self._entries(block, offset)
            index = bisect_left(entries, (hashval, 0))
            if not entries:
                raise _bad_index("a node without entries", offset)
            number = entries[min(index, len(entries) - 1)][1]
        raise _bad_index(f"more than {L.MAX_DA_LEVELS} levels", offset)

    def _read(self, number: int) -> tuple[bytes, int, int, int]:
        """(block, device offset, next block, magic) of the block with this number in the fork."""
        position = number << self._volume.block_log
        if position + self._block_bytes > self._data.size:
            raise _bad_index(f"block {number} is outside the fork", 0)
        block, offset = read_piece(self._data, position, self._block_bytes, _INDEX)
        following, _back, magic = L.DA_INFO.unpack_from(block)
        if self._volume.superblock.v5:
            self._volume.check_self(block, L.DA_SELF, self._owner, _INDEX, offset)
        return block, offset, following, magic

    def _entries(self, block: bytes, offset: int) -> list[tuple[int, int]]:
        count, _ = L.DA_COUNT.unpack_from(block, L.DA_HEADER_V5 if self._volume.superblock.v5 else L.DA_HEADER_V4)
        end = self._header + count * L.HASH_ENTRY_BYTES
        if end > len(block):
            raise _bad_index(f"count is {count}", offset, count)
        return list(L.HASH_ENTRY.iter_unpack(block[self._header : end]))


def read_piece(data: ForkData, position: int, length: int, structure: str) -> tuple[bytes, int]:
    """A block of a fork, and where it begins on the device; a hole is `InvalidFormat`."""
    start, extent_length, source, source_offset = data.extent(position)
    offset = source_offset + position - start
    if source is None:
        raise InvalidFormat(f"a hole at {position} of the fork", structure=structure, offset=0)
    if position - start + length <= extent_length:
        return bytes(source.read(offset, length)), offset
    return bytes(data.read(position, length)), offset


def hash_name(name: bytes) -> int:
    """The hash of a name (section "Leaf Directories")."""
    result = 0
    for byte in name:
        result = (result << 7 & 0xFFFFFFFF | result >> 25) ^ byte
    return result


# Names that differ in the case of a letter of Latin-1 are equal in a case-insensitive filesystem.
_FOLD = bytes(
    byte + 32 if 0x41 <= byte <= 0x5A or (0xC0 <= byte <= 0xDE and byte != 0xD7) else byte for byte in range(256)
)


def fold(name: str) -> bytes:
    """The form in which names of a case-insensitive filesystem (``mkfs.xfs -n version=ci``) are equal."""
    return name.encode("utf-8", "surrogateescape").translate(_FOLD)


def _bad_index(message: str, offset: int, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure=_INDEX, offset=offset, actual=actual)
