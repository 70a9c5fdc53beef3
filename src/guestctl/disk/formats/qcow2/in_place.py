"""``Qcow2Overlay``: a qcow2 image that is written in place, on a backing file that is not.

Written: versions 2 and 3 with clusters of any size and refcounts of any width; clusters that snapshots
share and compressed ones are replaced by new, normal ones. Refused by name: extended L2 entries,
external data files, encryption, images that are marked dirty or corrupt. Autoclear bits (consistent
bitmaps) are cleared, as the specification asks of a program that does not keep them up.

Data goes to the file at once, changed tables stay in memory until `flush` (or until they are many).
Then refcounts go before the L2 tables that need them, those before the L1 table, and clusters are
freed last, with a barrier between: whenever the process or the machine stops, ``qemu-img check`` finds
leaks at most. What was written since the last flush may then be lost, as from any disk's cache.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress, count, repeat
from operator import and_, eq

from guestctl.block.device import CHUNK_BYTES, Buffer, Extent, WritableDevice, zeros
from guestctl.block.file import FileDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.allocation import Allocation, Clusters, GrowingFile
from guestctl.disk.formats.qcow2.changes import ChangingClusters
from guestctl.disk.formats.qcow2.clusters import count_equal, parse_compressed
from guestctl.disk.formats.qcow2.header import Extensions, Header, read_header
from guestctl.disk.formats.qcow2.layout import Incompatible
from guestctl.disk.formats.qcow2.reader import Qcow2Reader
from guestctl.disk.reader import ImageFile
from guestctl.disk.volumes.keys import Keys

_KIND_MASK = layout.OFLAG_COPIED | layout.OFLAG_COMPRESSED | layout.OFLAG_ZERO
_AUTOCLEAR = struct.Struct(">Q")
_AUTOCLEAR_OFFSET = 88
# qemu's lock bytes for writing and resizing, in use (from 100) and not shared (from 200), in its
# block/file-posix.c: <https://www.qemu.org/docs/master/system/images.html#disk-image-file-locking>.
_LOCKS = ((101, 3), (201, 3))
_FLOCK = struct.Struct("@hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid

StrPath = str | os.PathLike[str]


class Qcow2Overlay(Qcow2Reader, WritableDevice):
    """A qcow2 image that may be written, by any thread.

    Its runs are those of now: once they are discarded, what they lead to may hold what is written elsewhere.
    """

    def __init__(self, image: ImageFile, header: Header, extensions: Extensions, file: GrowingFile) -> None:
        super().__init__(image, header, extensions)
        self._growing = file
        self._allocation = Allocation(file, header)
        self.clusters: ChangingClusters = ChangingClusters(file, header, self._allocation)
        self._changing = threading.RLock()
        self._begun = False
        self.zeroes_fast = header.version > 2

    @classmethod
    def open_writable(
        cls,
        path: StrPath,
        *,
        allow_dirs: Sequence[StrPath] = (),
        beside: Sequence[str] = (),
        keys: Keys | None = None,
    ) -> Qcow2Overlay:
        """Open the image at `path` and its backing chain; arguments are those of `DiskReader.open`.

        Files directly in the directories `beside`, which are real paths, may be opened too. Raises
        ``BlockingIOError`` where another process, qemu or guestctl, has it open.
        """
        path = os.fspath(path)
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            _lock(fd, path)
            image = ImageFile.open(path, allow_dirs=allow_dirs, mapped=False, keys=keys)
        except BaseException:
            os.close(fd)
            raise
        assert isinstance(image.device, FileDevice)
        file = GrowingFile(fd, path, image.device)
        try:
            image = replace(image, mapped=True, beside=(*image.beside, *beside))
            overlay = cls(image, *_writable_header(image), file)
        except BaseException:
            os.close(fd)
            image.close()
            raise
        overlay.files = image.opened
        try:
            overlay.open_files()
        except BaseException:
            overlay.close()
            raise
        return overlay

    # Reading

    def _extent(self, offset: int, length: int | None) -> Extent:
        with self._changing:
            return super()._extent(offset, length)

    def compute(self, offset: int, length: int) -> Buffer:
        with self._changing:
            _, available, source, _ = super()._extent(offset, length)
            if source is self and available >= length:
                return super().compute(offset, length)
        return self._read_extents(offset, length)  # it was overwritten in the meantime

    # Writing

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        self.check_range(offset, len(view))
        with self._changing:
            self._begin()
            while view:
                done = self._write_some(offset, view)
                offset += done
                view = view[done:]
                self._write_tables_if_many()

    def discard(self, offset: int, length: int) -> None:
        self.check_range(offset, length)
        bits, end = self._cluster_bits, offset + length
        first = -(-offset >> bits)
        last = -(-end >> bits) if end == self.size else end >> bits
        if first >= last or self.header.version < 3:
            self._zero(offset, length)
            return
        self._zero(offset, (first << bits) - offset)
        cluster = first
        while cluster < last:
            stop = min(last, (cluster >> self._slice_bits) + 1 << self._slice_bits)
            with self._changing:
                self._discard_clusters(cluster, stop)
                self._write_tables_if_many()
            cluster = stop
        if last << bits < end:
            self._zero(last << bits, end - (last << bits))

    def flush(self) -> None:
        with self._changing:
            self._write_tables()
            self._growing.sync()

    def close(self) -> None:
        with self._changing:
            if self._growing.fd < 0:
                return
            try:
                self._write_tables()
            finally:
                os.close(self._growing.fd)
                self._growing.fd = -1
                super().close()

    def _write_some(self, offset: int, view: memoryview) -> int:
        """Write the first bytes, whose clusters can be treated alike; returns how many."""
        bits = self._cluster_bits
        cluster = offset >> bits
        start = cluster << bits
        number, index = cluster >> self._slice_bits, cluster & self._slice_mask
        stop = min(index + (offset - start + len(view) - 1 >> bits) + 1, 1 << self._slice_bits)
        in_place = self._in_place(self.clusters.entries(number), index, stop)
        if in_place is not None:
            host, count = in_place
            data = view[: start + (count << bits) - offset]
            self._growing.write(host + offset - start, data)
            return len(data)
        entries = self.clusters.change(number)
        found = self._allocation.allocate(_replaced(entries, index, stop))
        data = view[: start + (found.number << bits) - offset]
        try:
            self._fill(found, start, offset, data)
            self._allocation.release(self._host_clusters(entries[index : index + found.number]))
        except BaseException:
            self._allocation.give_back(found)
            raise
        place = found.first << bits | layout.OFLAG_COPIED
        entries[index : index + found.number] = array(
            "Q", range(place, place + (found.number << bits), self._cluster_size)
        )
        self._forget_decompressed(cluster, found.number)
        return len(data)

    def _in_place(self, entries: array[int], index: int, stop: int) -> tuple[int, int] | None:
        """Where the first clusters, and how many of them, lie one after the other and are this image's alone."""
        entry = entries[index]
        if entry & _KIND_MASK != layout.OFLAG_COPIED:
            return None
        host = entry & layout.L2_OFFSET_MASK
        number = count_equal(entries, index, stop, count(entry, self._cluster_size))
        if not host or host & self._cluster_size - 1 or host + (number - 1 << self._cluster_bits) >= self.file.size:
            raise InvalidFormat("not aligned to a cluster, or outside the file", structure="data cluster", offset=host)
        return host, number

    def _fill(self, found: Clusters, start: int, offset: int, data: memoryview) -> None:
        """Write `data` to new clusters, and around it what the guest's from `start` on held."""
        host = found.first << self._cluster_bits
        place, end = host + offset - start, offset + len(data)
        fresh = host >= self.file.size  # there is nothing but zeros
        buffers: list[bytes | memoryview] = [data]
        if offset > start and not (fresh and self._is_zero(start, offset - start)):
            place = host
            buffers.insert(0, self._read_extents(start, offset - start))
        rest = min(start + (found.number << self._cluster_bits), self.size) - end
        if rest and not (fresh and self._is_zero(end, rest)):
            buffers.append(self._read_extents(end, rest))
        self._growing.write(place, *buffers)

    def _discard_clusters(self, first: int, stop: int) -> None:
        """Make clusters of one slice read as zeros."""
        bits = self._cluster_bits
        number, index = first >> self._slice_bits, first & self._slice_mask
        length = min(stop << bits, self.size) - (first << bits)
        if not self.clusters.has_table(number) and self._is_zero(first << bits, length):
            return
        old = self.clusters.entries(number)[index : index + stop - first]
        zero = array("Q", (layout.OFLAG_ZERO,)) * len(old)
        if old == zero:
            return
        self._begin()
        entries = self.clusters.change(number)
        self._allocation.release(self._host_clusters(old))
        entries[index : index + len(old)] = zero
        self._forget_decompressed(first, len(old))

    def _zero(self, offset: int, length: int) -> None:
        """Write zeros where there are none."""
        for start in range(offset, offset + length, CHUNK_BYTES):
            part = min(CHUNK_BYTES, offset + length - start)
            with self._changing:
                if not self._is_zero(start, part):
                    self.write(start, zeros(part))

    def _is_zero(self, offset: int, length: int) -> bool:
        """Whether the range is known to read as zeros."""
        run = next(self.runs(offset, length))
        return run.source is None and run.length == length

    def _host_clusters(self, entries: array[int]) -> list[Clusters]:
        """The clusters of the file that `entries` refer to."""
        found = []
        index, bits = 0, self._cluster_bits
        while index < len(entries):
            entry = entries[index]
            host = entry & layout.L2_OFFSET_MASK
            number = 1
            if entry & layout.OFLAG_COMPRESSED:
                offset, length = parse_compressed(entry, bits)
                found.append(Clusters(offset >> bits, (offset + length - 1 >> bits) - (offset >> bits) + 1))
            elif host & self._cluster_size - 1:
                raise InvalidFormat("not aligned to a cluster", structure="data cluster", offset=host)
            elif host:
                number = count_equal(entries, index, len(entries), count(entry, self._cluster_size))
                found.append(Clusters(host >> bits, number))
            else:
                number = count_equal(entries, index, len(entries), repeat(entry))
            index += number
        return found

    def _forget_decompressed(self, first: int, number: int) -> None:
        if self._decompressed:
            with self._lock:
                for cluster in range(first, first + number):
                    self._decompressed.pop(cluster, None)

    def _begin(self) -> None:
        """Before the first change: clear the bits that vouch for what is not kept up."""
        if not self._begun and self.header.version > 2 and self.header.autoclear_features:
            self._growing.write(_AUTOCLEAR_OFFSET, _AUTOCLEAR.pack(0))
            self._growing.sync()
        self._begun = True

    def _write_tables_if_many(self) -> None:
        if self.clusters.full or self._allocation.full:
            self._write_tables()

    def _write_tables(self) -> None:
        """Write what was changed, in the order in which one part needs the other."""
        self._allocation.write()
        if self.clusters.changed:
            self._growing.sync()
            self.clusters.write()
            self._growing.sync()
        self._allocation.apply_released()


def _replaced(entries: array[int], index: int, stop: int) -> int:
    """How many entries from `index` on, before `stop`, are not this image's own data."""
    ahead = entries[index:stop]
    own = map(eq, map(and_, ahead, repeat(_KIND_MASK)), repeat(layout.OFLAG_COPIED))
    return next(compress(count(), own), len(ahead))


def _writable_header(image: ImageFile) -> tuple[Header, Extensions]:
    header, extensions = read_header(image.device)
    marked = Incompatible(header.incompatible_features & (Incompatible.DIRTY | Incompatible.CORRUPT))
    refused = {
        "extended L2 entries": header.extended_l2,
        "an external data file": header.has_data_file,
        "encryption": header.crypt_method,
        "its own mark that it is damaged or was not closed (qemu-img check -r all repairs it)": marked,
    }
    for feature, present in refused.items():
        if present:
            raise UnsupportedFeature(f"{image.path}: cannot be written: it has {feature}", feature=feature)
    return header, extensions


def _lock(fd: int, path: str) -> None:
    """Keep other writers away, those of qemu on Linux too, until the file is closed."""
    if os.name != "posix":
        return
    import fcntl

    try:
        if sys.platform == "linux":
            for start, length in _LOCKS:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(errno.EAGAIN, "Another process is using it", path) from None
        raise
