"""guestctl for asyncio and trio, on anyio (``pip install guestctl[async]``).

The work is done in threads. A conversion that is cancelled ends, and cleans up, before the
cancellation goes on.
"""

from __future__ import annotations

import os
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread
import anyio.to_thread

if TYPE_CHECKING:
    from guestctl.converters import ConversionResult
    from guestctl.detectors.report import Report
    from guestctl.disk.reader import DiskReader

__all__ = ["AsyncDisk", "convert", "inspect", "open"]


class AsyncDisk:
    """The virtual disk of an image: a `DiskReader`, ``reader``, read without blocking the event loop."""

    def __init__(self, reader: DiskReader) -> None:
        self.reader = reader
        self.size = reader.size
        self.format = reader.format

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises as `DiskReader.read`."""
        return await anyio.to_thread.run_sync(self.reader.read_exact_at, offset, length)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self.reader.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()


async def open(path: str | os.PathLike[str], **how: Any) -> AsyncDisk:
    """Open a disk image; `how` is as for `DiskReader.open`."""
    from guestctl.disk.reader import DiskReader

    return AsyncDisk(await anyio.to_thread.run_sync(partial(DiskReader.open, path, **how)))


async def inspect(*images: str | os.PathLike[str], **how: Any) -> Report:
    """Every guest on the disks of a machine; `how` is as for `guestctl.detectors.inspect`."""
    from guestctl.detectors import inspect
    from guestctl.machine import Machine

    def work() -> Report:
        with Machine.open(*images, **how) as machine:
            return inspect(machine)

    return await anyio.to_thread.run_sync(work)


async def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: str,
    *,
    engine: str = "auto",
    **how: Any,
) -> ConversionResult:
    """Convert a disk image; `how` is as for `DiskConverter.convert`. Cancelled, it leaves no output."""
    from guestctl.converters import DiskConverter

    def check() -> bool:
        anyio.from_thread.check_cancelled()
        return False

    return await anyio.to_thread.run_sync(
        partial(DiskConverter(engine).convert, source, output, format, cancelled=check, **how)
    )
