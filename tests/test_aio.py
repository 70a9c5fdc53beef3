"""guestctl.aio on asyncio: the same results as without it, and cancellation that cleans up."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import anyio
import pytest

from guestctl import aio
from guestctl.core.errors import ConversionError

DEMO = Path(__file__).parent / "data" / "debian-12.qcow2"


def test_open_and_read() -> None:
    async def main() -> tuple[int, bytes]:
        async with await aio.open(DEMO) as disk:
            return disk.size, await disk.read(510, 2)

    size, signature = anyio.run(main)
    assert size > 1 << 20
    assert signature == b"\x55\xaa"


def test_inspect() -> None:
    report = anyio.run(aio.inspect, DEMO)
    assert [guest.distro for guest in report.guests] == ["debian"]


def test_convert(tmp_path: Path) -> None:
    result = anyio.run(aio.convert, DEMO, tmp_path / "out.raw", "raw")
    assert result["success"]
    assert os.listdir(tmp_path) == ["out.raw"]


def test_an_error_comes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no format"):
        anyio.run(partial(aio.convert, DEMO, tmp_path / "out", "floppy", engine="native"))


def test_cancelled_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    source.write_bytes(os.urandom(1 << 20) * 64)

    async def main() -> bool:
        with anyio.move_on_after(0.15) as scope:
            await aio.convert(source, tmp_path / "out.qcow2", "qcow2", compress=True, options={"cluster_size": "4k"})
        return scope.cancelled_caught

    assert anyio.run(main)
    assert os.listdir(tmp_path) == ["source.raw"]
