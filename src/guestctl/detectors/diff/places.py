"""Where the bytes of two machines lie on the host: what lies in one place is the same without being read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable

from guestctl.block import BlockDevice, Run
from guestctl.disk.compare import common_runs
from guestctl.disk.reader import DiskReader
from guestctl.machine import Machine

# Up to here reading both sides costs less than looking where they lie.
_SMALL_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20


class Places:
    """The files and images that the disks of two machines have in common, such as a backing file.

    Bytes that an image computes, those of compressed clusters, are in one place where image and offset are one.
    """

    def __init__(self, left: Machine, right: Machine) -> None:
        found = (_sources(left), _sources(right))
        common = set(found[0].values()) & set(found[1].values())
        self._places = {source: place for one in found for source, place in one.items() if place in common}

    def same_content(self, left: BlockDevice, right: BlockDevice) -> bool:
        """Whether both hold the same bytes."""
        size = left.size
        if size != right.size:
            return False
        if size <= _SMALL_BYTES and not self._places:
            return left.read(0, size) == right.read(0, size)
        for in_left, in_right in common_runs(left, right, size):
            if in_left.source is None and in_right.source is None:
                continue
            if self._one_place(in_left, in_right):
                continue
            end = in_left.offset + in_left.length
            for start in range(in_left.offset, end, _CHUNK_BYTES):
                part = min(_CHUNK_BYTES, end - start)
                if left.read(start, part) != right.read(start, part):
                    return False
        return True

    def _one_place(self, left: Run, right: Run) -> bool:
        if left.source is None or right.source is None or left.source_offset != right.source_offset:
            return False
        place = self._places.get(left.source)
        return place is not None and place == self._places.get(right.source)


def _sources(machine: Machine) -> dict[BlockDevice, Hashable]:
    """What runs of a machine's disks end at -> which file of the host that is, and which image in it."""
    found: dict[BlockDevice, Hashable] = {}
    disks: Counter[tuple[int, int]] = Counter()
    for disk in machine.disks:
        for file in disk.reader.files:
            status = file.status()
            found[file] = (status.st_dev, status.st_ino)
        reader: DiskReader | None = disk.reader
        while reader is not None:
            try:
                status = os.stat(reader.path)
            except OSError:
                break
            key = (status.st_dev, status.st_ino)
            found[reader] = (*key, reader.format, disks[key] if reader is disk.reader else 0)
            disks[key] += reader is disk.reader  # an archive may hold several
            reader = reader.backing
    return found
