"""Inodes (``bfs_inode``) and their data streams."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.block.device import Extent, ExtentsDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.befs.superblock import Superblock
from guestctl.disk.stat import PlainStat

_MAGIC = 0x3BBE0AD9
# magic, inode_num, uid, gid, mode, flags, create_time, last_modified_time; the size of the data stream
_HEAD = "IIHHIIIIqq"
_SIZE_OFFSET, _BYTES = 208, 232
_SYMLINK = slice(72, 216)
# data_stream: direct runs, max_direct_range, indirect, max_indirect_range, double_indirect, max_double_indirect_range
_DIRECT_OFFSET, _DIRECT_RUNS = 72, 12
_INDIRECT = "168xqIHHqIHHq"
_RUN = "IHH"  # allocation_group, start, len
_DOUBLE_RUN_BLOCKS = 4  # of each run that a double indirect one leads to
_IN_USE, _LONG_SYMLINK = 0x01, 0x40
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
_TIME_SHIFT = 16  # what is below makes names in the index of times unique
_MAX_RUNS = 1 << 20
_STRUCTURE = "inode"


class Inode(NamedTuple):
    block: int
    offset: int  # in bytes
    data: bytes
    uid: int
    gid: int
    mode: int
    flags: int
    created: int  # in seconds
    modified: int
    size: int

    @property
    def short_target(self) -> bytes | None:
        """Of a symbolic link in the inode itself."""
        if not stat.S_ISLNK(self.mode) or self.flags & _LONG_SYMLINK:
            return None
        return self.data[_SYMLINK].partition(b"\0")[0]


class Inodes:
    """Reads inodes by their blocks, and the data of files."""

    def __init__(self, device: BlockDevice, superblock: Superblock) -> None:
        self._device = device
        self._superblock = superblock
        self._head = Struct(superblock.order + _HEAD)
        self._size = Struct(superblock.order + "q")
        self._indirect = Struct(superblock.order + _INDIRECT)
        self._run = Struct(superblock.order + _RUN)

    def read(self, block: int) -> Inode:
        """Raises `InvalidFormat` where there is none in use."""
        superblock = self._superblock
        offset = block * superblock.block_size
        if not 0 < block < superblock.blocks:
            raise InvalidFormat(f"block {block} is outside the volume", structure=_STRUCTURE, offset=offset)
        data = bytes(self._device.read(offset, superblock.block_size))
        magic, group, start, _, uid, gid, mode, flags, created, modified = self._head.unpack_from(data)
        if magic != _MAGIC or superblock.address(group, start) != block or not flags & _IN_USE:
            message = f"magic {magic:#x}, block {superblock.address(group, start)}, flags {flags:#x}"
            raise InvalidFormat(message, structure=_STRUCTURE, offset=offset)
        mode &= 0xFFFF
        (size,) = self._size.unpack_from(data, _SIZE_OFFSET)
        inode = Inode(block, offset, data, uid, gid, mode, flags, created >> _TIME_SHIFT, modified >> _TIME_SHIFT, size)
        if stat.S_IFMT(mode) not in _KINDS:
            raise InvalidFormat(f"mode {mode:#o}", structure=_STRUCTURE, offset=offset)
        if inode.short_target is not None:
            inode = inode._replace(size=0)
        elif size < 0:
            raise InvalidFormat(f"{size} bytes", structure=_STRUCTURE, offset=offset)
        return inode

    def status(self, inode: Inode) -> PlainStat:
        """As Linux shows it."""
        time = inode.modified * 10**9
        return PlainStat(
            st_ino=inode.block,
            st_mode=inode.mode,
            st_nlink=1,
            st_size=inode.size,
            st_blocks=self._count_blocks(inode),
            st_atime_ns=time,
            st_mtime_ns=time,
            st_ctime_ns=time,
            st_birthtime_ns=inode.created * 10**9,
            st_uid=inode.uid,
            st_gid=inode.gid,
        )

    def _count_blocks(self, inode: Inode) -> int:
        """In units of 512 bytes; those with addresses count too."""
        block_size = self._superblock.block_size
        if inode.short_target is not None:
            return block_size // 512
        direct, _, _, length, indirect, _, _, double_length, double = self._indirect.unpack_from(inode.data)
        count = -(-inode.size // block_size) + 1
        if inode.size > direct:
            count += length
        if inode.size > indirect > 0:
            runs = (double - indirect) // (block_size * _DOUBLE_RUN_BLOCKS)
            count += double_length + max(0, runs) // (block_size // self._run.size)
        return int(count) * (block_size // 512)

    def data(self, inode: Inode) -> ExtentsDevice:
        """The data stream. Raises `InvalidFormat` where it does not reach to the end of the file."""
        size = self._superblock.block_size
        extents: list[Extent] = []
        position = 0
        for block, count in self._runs(inode) if inode.size else ():
            if len(extents) >= _MAX_RUNS:
                raise self._bad(inode, "too many block runs")
            extents.append(Extent(position, count * size, self._device, block * size))
            position += count * size
            if position >= inode.size:
                break
        if position < inode.size:
            raise self._bad(inode, f"{inode.size} bytes, of which {position} have a place")
        return ExtentsDevice(extents, inode.size)

    def _runs(self, inode: Inode) -> Iterator[tuple[int, int]]:
        direct = inode.data[_DIRECT_OFFSET : _DIRECT_OFFSET + _DIRECT_RUNS * self._run.size]
        yield from self._parse(inode, direct)
        _, *indirect, _, group, start, length, _ = self._indirect.unpack_from(inode.data)
        yield from self._parse(inode, self._read_run(inode, *indirect[:3]))
        for block, count in self._parse(inode, self._read_run(inode, group, start, length)):
            data = self._read_blocks(block, count)
            runs = list(self._parse(inode, data))
            yield from runs
            if len(runs) * self._run.size < len(data):  # the file ends there
                return

    def _read_run(self, inode: Inode, group: int, start: int, length: int) -> bytes:
        """The bytes of a run with addresses; none where there is no such run."""
        return self._read_blocks(self._checked(inode, group, start, length), length) if length else b""

    def _read_blocks(self, block: int, count: int) -> bytes:
        """The addresses in some blocks; not more than may be used."""
        size = self._superblock.block_size
        return bytes(self._device.read(block * size, min(count * size, _MAX_RUNS * self._run.size)))

    def _parse(self, inode: Inode, data: bytes) -> Iterator[tuple[int, int]]:
        """(first block, count) of the runs in `data`, up to an empty one."""
        for group, start, length in self._run.iter_unpack(data):
            if not length:
                return
            yield self._checked(inode, group, start, length), length

    def _checked(self, inode: Inode, group: int, start: int, length: int) -> int:
        block = self._superblock.address(group, start)
        if block + length > self._superblock.blocks:
            raise self._bad(inode, f"{length} blocks at {block}, outside the volume")
        return block

    def _bad(self, inode: Inode, message: str) -> InvalidFormat:
        return InvalidFormat(message, structure="data stream", offset=inode.offset)
