"""Directories (section "Directory Entries" of the kernel's ext4 documentation).

Read: linear and hash tree directories (a hash tree's interior blocks look like unused entries, so
all are read from end to end), file types on or off, checksums of leaf and of hash tree blocks,
directories inside their inode, encrypted names. An entry without an inode number is unused.

Refused: entries that do not fill their block exactly, names that are empty or hold NUL (those with
``/`` are refused for all filesystems alike), holes, and blocks that serve one directory twice. A
block that is damaged fails alone: the entries of the others are given first, then its error is
raised. An entry whose inode does not exist fails when its inode is asked for.

Names of encrypted directories are shown without a key as the kernel shows them: base64url without
padding of eight bytes of hash, the encrypted name and, past 149 bytes, the SHA-256 of the rest. The
hash is zero here, as in the kernel for directories that have no hash tree.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterator

from google_crc32c import extend

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ext4 import layout as L
from guestctl.disk.filesystems.ext4.checksums import inode_prefix
from guestctl.disk.filesystems.ext4.extents import FileData
from guestctl.disk.filesystems.ext4.inode import InodeStat
from guestctl.disk.filesystems.ext4.superblock import Volume

DirEntries = list[tuple[str, int, int]]  # name, inode, file type bits of st_mode or 0
Spans = list[tuple[int, int]]  # (device offset or _HOLE, length) of a directory's blocks, in its order

_PIECE_BYTES = 256 << 10
# A directory with so many damaged blocks holds something else; looking on would cost time for nothing.
_MAX_DAMAGED_BLOCKS = 256
_NOKEY_NAME_BYTES = 149
_DOTS = (b".", b"..")
_HOLE = -1
_MASK = 0xFFFFFFFF
_NO_FILE_TYPES = (0,) * 256
_STRUCTURE = "directory block"
_unpack = L.DIR_ENTRY.unpack_from
_tail = L.DIR_BLOCK_TAIL.unpack_from


class DirectoryReader:
    """The entries of one directory, in on-disk order."""

    __slots__ = ("_damage", "_inode", "_seed", "_volume")

    def __init__(self, volume: Volume, inode: InodeStat) -> None:
        self._volume = volume
        self._inode = inode
        self._seed: int | None = None
        if volume.seed is not None:
            self._seed = extend(volume.seed, inode_prefix(inode.st_ino, inode.generation))
        self._damage: list[InvalidFormat] = []

    def undamaged(self, offset: int) -> DirEntries | None:
        """As `entries`, for a directory of few whole blocks in one piece; None where `entries` must look closer."""
        size, block_size = self._inode.st_size, self._volume.block_size
        if size > _PIECE_BYTES or size % block_size:
            return None
        piece = bytes(self._volume.device.read(offset, size))
        found: DirEntries = []
        try:
            for start in range(0, size, block_size):
                if self._seed is not None:
                    self._verify(self._seed, piece, start, start + block_size, offset + start)
                self._parse(piece, start, start + block_size, offset + start, found)
        except InvalidFormat:
            return None
        return found

    def entries(self, spans: Spans) -> Iterator[DirEntries]:
        """Every name but ``.`` and ``..``, in lists; then the first damage is raised."""
        block_size = self._volume.block_size
        encrypted = self._inode.flags & L.FL_ENCRYPT
        for device_offset, piece in self._pieces(spans):
            found: DirEntries = []
            for start in range(0, len(piece), block_size):
                self._read_block(piece, start, device_offset + start, found)
            yield _nokey_names(found) if encrypted else found
        if self._damage:
            raise self._damage[0]

    def inline_entries(self, areas: list[tuple[int, bytes]]) -> Iterator[DirEntries]:
        """As `entries`, for a directory inside its inode, in areas of (device offset, bytes)."""
        for device_offset, area in areas:
            found: DirEntries = []
            try:
                self._parse(area, 0, len(area), device_offset, found)
            except InvalidFormat as error:
                self._damage.append(error)
            yield _nokey_names(found) if self._inode.flags & L.FL_ENCRYPT else found
        if self._damage:
            raise self._damage[0]

    def search(self, spans: Spans, name: str) -> int | None:
        """The inode that `name` has, without parsing the blocks where its bytes are not.

        None does not say that the name is missing: its block may be damaged.
        """
        key = name.encode("utf-8", "surrogateescape")
        block_size = self._volume.block_size
        for device_offset, piece in self._pieces(spans):
            at = piece.find(key)
            while at >= 0:
                if at % block_size >= L.DIR_ENTRY_HEADER_BYTES and piece[at - 2] == len(key):
                    start = at - at % block_size
                    found: DirEntries = []
                    self._read_block(piece, start, device_offset + start, found)
                    for found_name, inode, _ in found:
                        if found_name == name:
                            return inode
                at = piece.find(key, at + 1)
        return None

    def _pieces(self, spans: Spans) -> Iterator[tuple[int, bytes]]:
        """The blocks as (device offset, bytes) of up to `_PIECE_BYTES`."""
        read = self._volume.device.read
        for offset, length in spans:
            if offset == _HOLE:
                self._damage.append(_bad(f"a hole of {length} bytes", self._inode.offset))
                continue
            while length > _PIECE_BYTES:
                yield offset, bytes(read(offset, _PIECE_BYTES))
                offset += _PIECE_BYTES
                length -= _PIECE_BYTES
            yield offset, bytes(read(offset, length))

    def _read_block(self, piece: bytes, start: int, device_offset: int, found: DirEntries) -> None:
        """Append the entries of one block to `found`, or its damage to the directory's."""
        end = start + self._volume.block_size
        if len(self._damage) >= _MAX_DAMAGED_BLOCKS:
            return
        try:
            if self._seed is not None:
                self._verify(self._seed, piece, start, end, device_offset)
            self._parse(piece, start, end, device_offset, found)
        except InvalidFormat as error:
            self._damage.append(error)

    def _verify(self, seed: int, piece: bytes, start: int, end: int, device_offset: int) -> None:
        """Check the checksum in the tail of a leaf, or in that of an interior block of a hash tree."""
        tail, stored = _tail(piece, end - L.DIR_TAIL_BYTES)
        # The root of a hash tree was a leaf once, and keeps what looks like a leaf's tail.
        count_offset = self._count_offset(piece[start:end]) if self._inode.flags & L.FL_INDEX else 0
        if tail == L.DIR_TAIL and not count_offset:
            computed = extend(seed, piece[start : end - L.DIR_TAIL_BYTES]) ^ _MASK
        else:
            computed, stored = self._hash_tree_checksum(seed, piece[start:end], count_offset, device_offset)
        if computed != stored:
            raise self._volume.mismatch(_STRUCTURE, device_offset, stored=stored, computed=computed)

    def _parse(self, data: bytes, start: int, end: int, device_offset: int, found: DirEntries) -> None:
        """Append the entries from `start` to `end` to `found`; those before damage are kept."""
        kinds = L.FILE_TYPES if self._volume.superblock.incompat & L.INCOMPAT_FILETYPE else _NO_FILE_TYPES
        any_byte = self._inode.flags & L.FL_ENCRYPT
        append = found.append
        last = end - L.DIR_ENTRY_MIN_BYTES
        position = start
        if position > last:
            raise _bad(f"{end - start} bytes hold no entry", device_offset)
        while position < end:
            inode, rec_len, name_len, file_type = _unpack(data, position)
            following = position + rec_len
            if rec_len < name_len + 8 or rec_len & 3 or (following > last and following != end):
                if rec_len not in (0, 0xFFFF) or end - start != L.BIGGEST_BLOCK_BYTES or position != start:
                    offset = device_offset + position - start
                    raise _bad(f"rec_len is {rec_len} for a name of {name_len} bytes", offset, actual=rec_len)
                following = end
            if inode:
                name = data[position + 8 : position + 8 + name_len]
                if name_len > 2 or name not in _DOTS:
                    if (0 in name and not any_byte) or not name:
                        raise _bad(f"inode {inode} has the name {name!r}", device_offset + position - start)
                    try:
                        append((name.decode(), inode, kinds[file_type]))
                    except UnicodeDecodeError:
                        append((name.decode("utf-8", "surrogateescape"), inode, kinds[file_type]))
            position = following

    def _hash_tree_checksum(self, seed: int, block: bytes, at: int, device_offset: int) -> tuple[int, int]:
        """The checksum of an interior block of a hash tree, and what is stored for it.

        `at` is where ``dx_countlimit`` lies, or 0 where the block has none.
        """
        limit, count = L.DX_COUNT_LIMIT.unpack_from(block, at)
        tail = at + limit * L.DX_ENTRY_BYTES
        if not at or count > limit or tail + L.DX_TAIL_BYTES > len(block):
            raise _bad("has no checksum", device_offset)
        covered = block[: at + count * L.DX_ENTRY_BYTES] + block[tail : tail + 4] + bytes(4)
        return extend(seed, covered) ^ _MASK, int.from_bytes(block[tail + 4 : tail + 8], "little")

    def _count_offset(self, block: bytes) -> int:
        """Where ``dx_countlimit`` lies in an interior block of a hash tree; 0 where it is none."""
        dot_rec_len, dotdot_rec_len, info_length = L.DX_ROOT.unpack_from(block)
        if dot_rec_len == len(block) or (len(block) == L.BIGGEST_BLOCK_BYTES and dot_rec_len in (0, 0xFFFF)):
            return L.DX_NODE_COUNT_OFFSET
        if dot_rec_len == 12 and dotdot_rec_len == len(block) - 12 and info_length == L.DX_ROOT_INFO_BYTES:
            return L.DX_ROOT_COUNT_OFFSET
        return 0


def spans_of(volume: Volume, inode: InodeStat, data: FileData) -> Spans:
    """The spans of a directory whose blocks are `data`.

    A few blocks that appear a million times would make a directory without end; that is refused.
    """
    limit = min(volume.blocks_count << volume.block_shift, volume.device.size)
    spans: Spans = []
    position = 0
    holes = 0
    while position < data.size:
        start, length, source, source_offset = data.extent(position)
        end = min(start + length, data.size)
        spans.append((_HOLE if source is None else source_offset + position - start, end - position))
        holes += source is None
        if holes > _MAX_DAMAGED_BLOCKS or len(spans) << volume.block_shift > limit:
            raise _bad(f"a directory of {data.size} bytes in too many pieces", inode.offset)
        position = end
    expected = 0
    for offset, length in sorted(span for span in spans if span[0] != _HOLE):
        if offset < expected:
            raise _bad("the block appears twice in one directory", offset)
        expected = offset + length
    return spans


def _nokey_names(found: DirEntries) -> DirEntries:
    return [(nokey_name(name.encode("utf-8", "surrogateescape")), inode, kind) for name, inode, kind in found]


def nokey_name(name: bytes) -> str:
    """How an encrypted name is shown without its key."""
    shown = bytes(8) + name[:_NOKEY_NAME_BYTES]
    if len(name) > _NOKEY_NAME_BYTES:
        shown += hashlib.sha256(name[_NOKEY_NAME_BYTES:]).digest()
    return base64.urlsafe_b64encode(shown).rstrip(b"=").decode("ascii")


def fold(name: str) -> str:
    """The form in which names of a case-insensitive directory are equal (section "Case-insensitive
    file name lookups"): NFD, case folded, without code points that are ignorable by default."""
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return "".join([character for character in decomposed if unicodedata.category(character) != "Cf"])


def _bad(message: str, offset: int, *, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure=_STRUCTURE, offset=offset, actual=actual)
