"""The engine against the bytes of its source: windows, zeros, packing, backing files, digests."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from guestctl.block import BlockDevice, Extent, FileDevice, MappedDevice, MemoryDevice, Output, OutputFile
from guestctl.block.device import Buffer
from guestctl.converters import engine
from guestctl.converters.engine import Prepared, Transfer
from guestctl.core.errors import ConversionError
from guestctl.disk.writer import ImageWriter, Placement

UNIT = 4096
WINDOW = 1 << 20


class Flat(ImageWriter):
    """Everything at its own place, and what was handed over."""

    format = "flat"
    unit = UNIT

    def __init__(self, output: Output, size: int) -> None:
        self.file = output.main
        self.size = size
        self.calls: list[tuple[str, int, int]] = []

    def place(self, start: int, length: int) -> Iterable[Placement]:
        self.calls.append(("data", start, length))
        half = length // 2 // UNIT * UNIT
        if half:
            yield Placement(start, half, self.file, start)
        yield Placement(start + half, length - half, self.file, start + half)

    def zero(self, start: int, length: int) -> None:
        self.calls.append(("zero", start, length))

    def finish(self) -> None:
        self.file.truncate(self.size)


class Reversed(Flat):
    """Packs units that begin with an even byte, by turning them around."""

    packs = True

    def pack(self, start: int, data: Buffer) -> bytes | None:
        return bytes(data)[::-1] if data[0] % 2 == 0 else None

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        self.calls.append(("packed", start, sum(sizes)))
        return self.file, start


class Patchwork(MappedDevice):
    """Data, holes and computed bytes in turns, of odd lengths."""

    def __init__(self, content: bytes, seed: int) -> None:
        self.size = len(content)
        self._content = content
        self._file = MemoryDevice(content)
        source = random.Random(seed)
        self._bounds = [0, *sorted(source.sample(range(1, self.size), min(40, self.size - 1))), self.size]

    def extent(self, offset: int) -> Extent:
        index = max(i for i, bound in enumerate(self._bounds) if bound <= offset)
        start, end = self._bounds[index], self._bounds[index + 1]
        if not any(self._content[start:end]):
            return Extent(start, end - start, None)
        return Extent(start, end - start, self._file if index % 2 else self, start)

    def compute(self, offset: int, length: int) -> Buffer:
        return self._content[offset : offset + length]


def patchwork(size: int, seed: int) -> tuple[Patchwork, bytes]:
    source = random.Random(seed)
    content = bytearray(size)
    for _ in range(30):
        start = source.randrange(size)
        length = min(size - start, source.choice((1, UNIT, 70_000, 300_000)))
        content[start : start + length] = source.randbytes(1) * length
    return Patchwork(bytes(content), seed), bytes(content)


@pytest.fixture(params=[1, 5], autouse=True)
def thread_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    count: int = request.param
    monkeypatch.setattr(engine, "thread_count", lambda: count)
    return count


def transfer(source: BlockDevice, path: Path, kind: type[Flat] = Flat, **how: object) -> tuple[Flat, bytes]:
    output = Output(path, sync=False)
    writer = kind(output, int(str(how.pop("size", source.size))))
    Transfer(source, writer, **how).run()  # type: ignore[arg-type]
    writer.finish()
    output.publish()
    return writer, path.read_bytes()


@pytest.mark.parametrize("size", [1, 511, UNIT, UNIT + 1, WINDOW, WINDOW + 1, 5 * WINDOW - 512, 9 * WINDOW])
@pytest.mark.parametrize("seed", range(3))
def test_content(tmp_path: Path, size: int, seed: int) -> None:
    source, content = patchwork(max(size, 2), seed)
    writer, made = transfer(source, tmp_path / "out")
    assert made == content
    covered = sorted((start, length) for _, start, length in writer.calls)
    assert sum(length for _, length in covered) == len(content)
    for kind, start, length in writer.calls:
        assert start % UNIT == 0
        if kind == "zero":
            assert not any(content[start : start + length])
        else:
            for unit in range(start, start + length, UNIT):
                assert any(content[unit : unit + UNIT])


@pytest.mark.parametrize("kind", [Flat, Reversed])
def test_files_are_read_like_computed_content(tmp_path: Path, kind: type[Flat]) -> None:
    _, content = patchwork(7 * WINDOW + 123, 5)
    (tmp_path / "in").write_bytes(content)
    with FileDevice.open(tmp_path / "in") as source:
        of_file = transfer(source, tmp_path / "file", kind)
    of_memory = transfer(MemoryDevice(content), tmp_path / "memory", kind)
    assert of_file[0].calls == of_memory[0].calls
    assert of_file[1] == of_memory[1]


def test_packed_units(tmp_path: Path) -> None:
    source, content = patchwork(5 * WINDOW + 700, 7)
    writer, made = transfer(source, tmp_path / "out", Reversed)
    kinds = {kind for kind, _, _ in writer.calls}
    assert kinds == {"data", "packed", "zero"}
    for kind, start, length in writer.calls:
        for unit in range(start, start + length, UNIT):
            expected = content[unit : min(unit + UNIT, start + length)]
            assert made[unit : unit + len(expected)] == (expected[::-1] if kind == "packed" else expected)


def test_holes_are_not_read(tmp_path: Path) -> None:
    class Hole(MappedDevice):
        size = 3 << 40

        def extent(self, offset: int) -> Extent:
            return Extent(0, self.size, None)

        def read(self, offset: int, length: int) -> Buffer:
            raise AssertionError("a hole was read")

    output = Output(tmp_path / "out", sync=False)
    writer = Flat(output, Hole.size)
    Transfer(Hole(), writer).run()
    assert writer.calls == [("zero", 0, Hole.size)]
    output.discard()


@pytest.mark.parametrize("size", [WINDOW // 2, 3 * WINDOW + 512, 20 * WINDOW])
def test_other_size(tmp_path: Path, size: int) -> None:
    source, content = patchwork(5 * WINDOW, 1)
    _, made = transfer(source, tmp_path / "out", size=size)
    assert made == content[:size].ljust(size, b"\0")


@pytest.mark.parametrize("below_size", [WINDOW + 512, 6 * WINDOW])
def test_only_what_differs_from_the_backing_file(tmp_path: Path, below_size: int) -> None:
    source, content = patchwork(4 * WINDOW, 2)
    below = bytearray(content.ljust(below_size, b"\7")[:below_size])
    below[UNIT : 3 * UNIT] = bytes(range(256)) * 32
    backing = Patchwork(bytes(below), 3)
    writer, made = transfer(source, tmp_path / "out", backing=backing)
    merged = bytearray(below.ljust(len(content), b"\0")[: len(content)])
    for kind, start, length in writer.calls:
        for unit in range(start, start + length, UNIT):
            assert merged[unit : unit + UNIT] != content[unit : unit + UNIT]
        merged[start : start + length] = made[start : start + length] if kind == "data" else bytes(length)
    assert merged == content


@pytest.mark.parametrize("kind", [Flat, Reversed])
def test_digest(tmp_path: Path, kind: type[Flat]) -> None:
    source, content = patchwork(6 * WINDOW + 1, 4)
    digest = hashlib.sha256()
    transfer(source, tmp_path / "out", kind, digest=digest, size=len(content) + 10 * WINDOW)
    assert digest.digest() == hashlib.sha256(content + bytes(10 * WINDOW)).digest()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    class Log(list[tuple[int, int | None]]):
        def update(self, done: int, total: int | None) -> None:
            self.append((done, total))

    log = Log()
    source, content = patchwork(3 * WINDOW, 4)
    transfer(source, tmp_path / "out", progress=log)
    assert log[-1] == (len(content), len(content))
    assert log == sorted(log)


@pytest.mark.parametrize("kind", [Flat, Reversed])
def test_cancelled(tmp_path: Path, kind: type[Flat]) -> None:
    source, _ = patchwork(8 * WINDOW, 4)
    output = Output(tmp_path / "out", sync=False)
    asked_by = []

    def cancelled() -> bool:
        asked_by.append(threading.current_thread())
        return True

    with pytest.raises(ConversionError, match="cancelled"):
        Transfer(source, kind(output, source.size), digest=hashlib.sha256(), cancelled=cancelled).run()
    assert asked_by == [threading.current_thread()]
    assert threading.active_count() == 1
    output.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Flat, Reversed])
def test_read_error_reaches_the_caller(tmp_path: Path, kind: type[Flat]) -> None:
    class Damaged(MemoryDevice):
        def read(self, offset: int, length: int) -> Buffer:
            if offset + length > 3 * WINDOW:
                raise OSError(5, "Input/output error")
            return super().read(offset, length)

    output = Output(tmp_path / "out", sync=False)
    with pytest.raises(OSError, match="Input/output error"):
        Transfer(Damaged(b"\1" * (8 * WINDOW)), kind(output, 8 * WINDOW)).run()
    output.discard()


def test_written_windows_are_reported_in_order(tmp_path: Path) -> None:
    source, _ = patchwork(9 * WINDOW, 6)
    ends: list[int] = []

    def written(prepared: Prepared) -> None:
        start, length, _ = prepared.window
        assert start == (ends[-1] if ends else 0)
        ends.append(start + length)

    transfer(source, tmp_path / "out", on_written=written)
    assert ends[-1] == source.size


def test_threads_work_side_by_side(tmp_path: Path, thread_count: int) -> None:
    meeting = threading.Barrier(thread_count)

    class Meeting(MemoryDevice):
        """The first window of each thread is read when all have one."""

        def read(self, offset: int, length: int) -> Buffer:
            if offset < thread_count * WINDOW and offset % WINDOW == 0:
                meeting.wait(timeout=60)
            return super().read(offset, length)

    content = bytes(range(1, 101)) * (WINDOW // 10)
    _, made = transfer(Meeting(content), tmp_path / "out")
    assert made == content
