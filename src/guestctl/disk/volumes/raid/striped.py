"""The runs of what lies in stripes on several legs."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.block import BlockDevice, MappedDevice, Run


class StripedDevice(MappedDevice):
    """Asks each leg once for its runs, and not once for every stripe."""

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        # Of each leg its runs from some place on, and the one that was used last.
        cursors: dict[BlockDevice, tuple[Iterator[Run], Run]] = {}
        nowhere = (iter(()), Run(0, 0, None, 0))
        get, find_extent = cursors.get, self.extent
        end = offset + length
        while offset < end:
            start, extent_length, source, at = find_extent(offset)
            part = extent_length - (offset - start)
            if part > end - offset:
                part = end - offset
            if source is None or source is self:
                yield Run(offset, part, source, offset if source is self else 0)
                offset += part
                continue
            at += offset - start
            cursor = get(source, nowhere)
            run_start, run_length, bottom, bottom_offset = cursor[1]
            skip = at - run_start
            if not 0 <= skip < run_length:
                cursor = cursors[source] = _advanced(source, at, cursor)
                run_start, run_length, bottom, bottom_offset = cursor[1]
                skip = at - run_start
            if part > run_length - skip:
                part = run_length - skip
            yield Run(offset, part, bottom, bottom_offset + skip if bottom is not None else 0)
            offset += part


def _advanced(leg: BlockDevice, at: int, cursor: tuple[Iterator[Run], Run]) -> tuple[Iterator[Run], Run]:
    """The run around `at`, by going on from where a cursor is, or from a new one."""
    if at >= cursor[1].offset:
        for run in cursor[0]:
            if at < run.offset + run.length:
                return cursor[0], run
    runs = leg.runs(at, leg.size - at)
    return runs, next(runs)
