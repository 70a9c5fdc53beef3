"""The runs of what lies in stripes on several legs."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.block import BlockDevice, MappedDevice, Run


class StripedDevice(MappedDevice):
    """Asks each leg once for its runs, and not once for every stripe."""

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        cursors: dict[BlockDevice, tuple[Iterator[Run], Run]] = {}
        end = offset + length
        while offset < end:
            start, extent_length, source, at = self.extent(offset)
            at += offset - start
            part = min(end - offset, extent_length - (offset - start))
            if source is None or source is self:
                yield Run(offset, part, source, offset if source is self else 0)
                offset += part
                continue
            cursor = cursors.get(source)
            if cursor is None or not cursor[1].offset <= at < cursor[1].offset + cursor[1].length:
                cursor = cursors[source] = _advanced(source, at, cursor)
            run_start, run_length, bottom, bottom_offset = cursor[1]
            part = min(part, run_start + run_length - at)
            yield Run(offset, part, bottom, bottom_offset + at - run_start if bottom is not None else 0)
            offset += part


def _advanced(leg: BlockDevice, at: int, cursor: tuple[Iterator[Run], Run] | None) -> tuple[Iterator[Run], Run]:
    """The run around `at`, by going on from where a cursor is, or from a new one."""
    if cursor is not None and at >= cursor[1].offset:
        for run in cursor[0]:
            if at < run.offset + run.length:
                return cursor[0], run
    runs = leg.runs(at, leg.size - at)
    return runs, next(runs)
