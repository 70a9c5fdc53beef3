"""Forks (``HFSPlusForkData``): eight extents, and those in the extents overflow file."""

from __future__ import annotations

from guestctl.block.device import Extent, ExtentsDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.hfsplus import layout as L
from guestctl.disk.filesystems.hfsplus.btree import BTree
from guestctl.disk.filesystems.hfsplus.header import Header

_STRUCTURE = "fork data"


class Forks:
    """Opens the forks of a volume; those of the extents overflow file itself need no ``overflow``."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.overflow: BTree | None = None

    def open(self, data: bytes, file: int, kind: int = L.DATA_FORK) -> ExtentsDevice:
        """The fork that 80 bytes of a record, or of the volume header, describe."""
        size, blocks = L.FORK.unpack_from(data)
        header = self._header
        if size > blocks * header.block_size or blocks > header.blocks:
            raise self._bad(f"{size} bytes in {blocks} blocks", file)
        extents: list[Extent] = []
        done = self._add(extents, 0, data[L.EXTENTS_OFFSET :], file)
        if done < blocks and self.overflow is not None:
            for key, record in self.overflow.scan((file, kind, 0)):
                fork_kind, owner, start = L.EXTENT_KEY.unpack_from(key)
                if (owner, fork_kind) != (file, kind) or done >= blocks:
                    break
                if start < done and start < _blocks_of(data):
                    continue
                if start != done or len(record) < L.EXTENTS_BYTES:
                    raise self._bad(f"an extent of block {start} after {done} blocks", file)
                done = self._add(extents, done, record, file)
        if done * header.block_size < size:
            raise self._bad(f"{size} bytes, of which {done} blocks have a place", file)
        return ExtentsDevice(extents, size)

    def _add(self, extents: list[Extent], done: int, data: bytes, file: int) -> int:
        """The eight extents in `data`, up to the first that is empty; how many blocks there are with them."""
        header = self._header
        values = L.EXTENTS.unpack_from(data)
        for start, count in zip(values[::2], values[1::2], strict=True):
            if not count:
                break
            if start + count > header.blocks or (start + count) * header.block_size > header.device.size:
                raise self._bad(f"{count} blocks at {start}, outside the volume", file)
            size = header.block_size
            extents.append(Extent(done * size, count * size, header.device, start * size))
            done += count
        return done

    def _bad(self, message: str, file: int) -> InvalidFormat:
        return InvalidFormat(f"file {file}: {message}", structure=_STRUCTURE, offset=L.HEADER_OFFSET)


def _blocks_of(data: bytes) -> int:
    return sum(L.EXTENTS.unpack_from(data, L.EXTENTS_OFFSET)[1::2])
