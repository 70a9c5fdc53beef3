"""Transaction logs: what was to be written to a hive when its machine stopped.

The new format has entries with a sequence number and two hashes each; those that follow on the hive's
own number are replayed, as far as they are sound and without a gap. The old format has one bitmap of
dirty sectors, and those sectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestctl.block import BlockDevice, Overlay
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.marvin import marvin32

_MAX_LOG_BYTES = 256 << 20


class BaseBlock(NamedTuple):
    """The first block of a hive, and of its logs. ``sound`` tells whether its checksum is right."""

    primary: int
    secondary: int
    minor: int
    type: int
    root: int
    bins_bytes: int
    sound: bool


class _Entry(NamedTuple):
    sequence: int
    bins_bytes: int
    pages: Sequence[tuple[int, bytes]]  # offset in the hive's file, content


def parse_base_block(block: bytes) -> BaseBlock | None:
    """None where the signature is not there, or the version is none of ours."""
    if len(block) < L.BASE_CHECKSUM_OFFSET + 4:
        return None
    signature, primary, secondary, _, major, minor, kind, _, root, size, _ = L.BASE_BLOCK.unpack_from(block)
    if signature != L.BASE_MAGIC or major != 1:
        return None
    stored = int.from_bytes(block[L.BASE_CHECKSUM_OFFSET : L.BASE_CHECKSUM_OFFSET + 4], "little")
    return BaseBlock(primary, secondary, minor, kind, root, size, stored == checksum(block))


def checksum(block: bytes) -> int:
    """The checksum that a base block has to have."""
    words = memoryview(block[: L.BASE_CHECKED_BYTES]).cast("I")
    result = 0
    for word in words:
        result ^= word
    # Neither 0 nor all ones are stored.
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(result, result)


def replay(hive: BlockDevice, base: BaseBlock, logs: Sequence[BlockDevice]) -> tuple[BlockDevice, BaseBlock, int]:
    """The hive with its logs replayed, its base block then, and how many writes were replayed."""
    found = [(block, log) for log in logs if (block := parse_base_block(bytes(log.read(0, min(512, log.size)))))]
    new = [entries for block, log in found if block.type == L.LOG_TYPE_NEW and (entries := list(_entries(log)))]
    if new:
        return _replay_new(hive, base, new)
    for block, log in found:
        # The old log belongs to the hive whose number it has.
        if block.type != L.LOG_TYPE_NEW and block.sound and (not base.sound or block.primary == base.primary):
            pages = _old_pages(log, block)
            if pages:
                size = block.bins_bytes
                return _patched(hive, size, pages), base._replace(root=block.root, bins_bytes=size), len(pages)
    return hive, base, 0


def _replay_new(hive: BlockDevice, base: BaseBlock, logs: list[list[_Entry]]) -> tuple[BlockDevice, BaseBlock, int]:
    """Of two logs the one that begins earlier comes first. Entries before the hive's number are in it already."""
    logs.sort(key=lambda entries: entries[0].sequence)
    pages: list[tuple[int, bytes]] = []
    size, count = base.bins_bytes, 0
    expected: int | None = None
    for entry in (entry for entries in logs for entry in entries):
        if expected is None and base.sound and entry.sequence < base.secondary:
            continue
        if expected is not None and entry.sequence != expected:
            if entry.sequence < expected:
                continue
            break
        expected = entry.sequence + 1
        size = entry.bins_bytes
        pages += entry.pages
        count += 1
    if not count:
        return hive, base, 0
    past = max(entry.sequence for entries in logs for entry in entries) + 1
    done = base._replace(bins_bytes=size, primary=past, secondary=past)
    return _patched(hive, size, pages), done, count


def _patched(hive: BlockDevice, bins_bytes: int, pages: Sequence[tuple[int, bytes]]) -> BlockDevice:
    overlay = Overlay(_Longer(hive, L.BASE_BLOCK_BYTES + bins_bytes))
    for offset, content in pages:
        overlay.write(offset, content[: max(0, overlay.size - offset)])
    return overlay


class _Longer(BlockDevice):
    """A device, and zeros behind it."""

    def __init__(self, device: BlockDevice, size: int) -> None:
        self._device = device
        self.size = max(size, device.size)

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length)
        inside = max(0, min(length, self._device.size - offset))
        return (bytes(self._device.read(offset, inside)) if inside else b"") + bytes(length - inside)


def _entries(log: BlockDevice) -> Iterator[_Entry]:
    data = bytes(log.read(0, min(log.size, _MAX_LOG_BYTES)))
    at = L.LOG_SECTOR_BYTES
    while at + L.LOG_ENTRY.size <= len(data):
        magic, size, _, sequence, bins_bytes, count, rest_hash, head_hash = L.LOG_ENTRY.unpack_from(data, at)
        if magic != L.LOG_ENTRY_MAGIC or size % L.LOG_SECTOR_BYTES or not 0 < size <= len(data) - at:
            return
        start = L.LOG_ENTRY.size + count * L.DIRTY_PAGE.size
        if start > size or bins_bytes > _MAX_LOG_BYTES * 16:
            return
        entry = data[at : at + size]
        # The second hash covers the first.
        if marvin32(entry[: L.LOG_ENTRY.size - 8]) != head_hash or marvin32(entry[L.LOG_ENTRY.size :]) != rest_hash:
            return
        pages = []
        for offset, length in L.DIRTY_PAGE.iter_unpack(entry[L.LOG_ENTRY.size : start]):
            if start + length > size or offset + length > bins_bytes:
                return
            pages.append((L.BASE_BLOCK_BYTES + offset, entry[start : start + length]))
            start += length
        yield _Entry(sequence, bins_bytes, pages)
        at += size


def _old_pages(log: BlockDevice, block: BaseBlock) -> list[tuple[int, bytes]]:
    """The dirty sectors: a bit for each sector of the hive bins, and the sectors from the next whole sector on."""
    count = block.bins_bytes // L.LOG_SECTOR_BYTES
    vector_bytes = -(-count // 8)
    start = -(-(L.LOG_SECTOR_BYTES + 4 + vector_bytes) // L.LOG_SECTOR_BYTES) * L.LOG_SECTOR_BYTES
    if start > min(log.size, _MAX_LOG_BYTES):
        return []
    head = bytes(log.read(L.LOG_SECTOR_BYTES, start - L.LOG_SECTOR_BYTES))
    if head[:4] != L.DIRTY_VECTOR_MAGIC:
        return []
    bits = int.from_bytes(head[4 : 4 + vector_bytes], "little")
    dirty = [number for number, bit in enumerate(f"{bits:b}"[::-1]) if bit == "1" and number < count]
    if start + len(dirty) * L.LOG_SECTOR_BYTES > log.size:
        return []
    return [
        (
            L.BASE_BLOCK_BYTES + number * L.LOG_SECTOR_BYTES,
            bytes(log.read(start + index * L.LOG_SECTOR_BYTES, L.LOG_SECTOR_BYTES)),
        )
        for index, number in enumerate(dirty)
    ]
