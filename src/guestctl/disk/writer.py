"""``ImageWriter``: what a format's room does so that a new image can be filled.

A writer decides *where* bytes go and keeps the format's tables; the bytes themselves are moved by
its caller, who may copy them in the kernel or from several threads. Placing depends on nothing but
the calls that came before, so that repeating them finds the same places: an interrupted conversion
is resumed that way.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from guestctl.block.device import CHUNK_BYTES, Buffer, zeros
from guestctl.block.output import Output, OutputFile
from guestctl.core.errors import ConversionError
from guestctl.disk.formats import ROOMS

T = TypeVar("T")


class Placement(NamedTuple):
    """Where a range of the virtual disk goes. All values are in bytes."""

    start: int
    length: int
    file: OutputFile
    offset: int


class ImageWriter(ABC):
    """A new image of ``size`` bytes, in the files of an `Output`.

    The disk is handed over in ascending order, every range once and one call at a time, by `place`,
    `place_packed` or `zero`; then comes `finish`. What is never handed over reads as zeros, or as
    the backing file. Ranges begin at multiples of ``unit`` and end at one or at the end of the disk.
    """

    format: str  # as in the table of rooms
    size: int
    unit: int = 65536  # bytes, a power of two

    @abstractmethod
    def place(self, start: int, length: int) -> Iterable[Placement]:
        """Where the data of the range goes: placements in ascending order that cover it."""

    @property
    def packs(self) -> bool:
        """Whether units are to be handed over packed: `pack`, then `place_packed`."""
        return False

    def pack(self, start: int, data: Buffer) -> bytes | None:
        """One unit of data (the last may be short) as it is to be stored, all headers and padding with it.

        Called from several threads at once. None where packing gains nothing: `place` follows.
        """
        raise NotImplementedError

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        """Where consecutive packed units of these sizes go, in one piece: the file and the offset."""
        raise NotImplementedError

    def zero(self, start: int, length: int) -> None:  # noqa: B027 - for most formats nothing is zeros
        """Note that the range reads as zeros."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left of the metadata; the data is in its place by now."""


def write_zeros(file: OutputFile, offset: int, length: int) -> None:
    """Write zero bytes, which then have their place on the host."""
    for done in range(0, length, CHUNK_BYTES):
        file.write_at(offset + done, zeros(min(CHUNK_BYTES, length - done)))


class Options:
    """The format's options (``-o key=value``, with qemu-img's names); each is taken out once."""

    def __init__(self, format: str, values: Mapping[str, str] | None = None) -> None:
        self.format = format
        self._values = dict(values or {})

    def text(self, name: str) -> str | None:
        return self._values.pop(name, None)

    def choice(self, name: str, choices: Mapping[str, T], default: str) -> T:
        """What `choices` has for the value, which must be one of its keys."""
        value = self._values.pop(name, default)
        if value not in choices:
            raise ConversionError(f"{self.format}: {name}={value}: expected one of {', '.join(choices)}")
        return choices[value]

    def flag(self, name: str, default: bool = False) -> bool:
        on_off = {"on": True, "off": False, "yes": True, "no": False, "true": True, "false": False}
        return self.choice(name, on_off, "on" if default else "off")

    def size(self, name: str, default: int) -> int:
        """A number of bytes, as `parse_size` reads it."""
        value = self._values.pop(name, None)
        try:
            return default if value is None else parse_size(value)
        except ValueError as error:
            raise ConversionError(f"{self.format}: {name}: {error}") from None

    def done(self) -> None:
        """Raise `ConversionError` for an option that nobody took."""
        for name in self._values:
            raise ConversionError(f"{self.format} images have no option {name!r}")


def parse_size(text: str) -> int:
    """Bytes from a size as qemu-img takes it: ``65536``, ``64k``, ``1.5G``; raises ``ValueError``."""
    digits, suffix = text.strip(), "b"
    if digits[-1:].lower() in "bkmgtpe" and digits:
        digits, suffix = digits[:-1], digits[-1].lower()
    factor = 1 if suffix == "b" else 1024 ** ("kmgtpe".index(suffix) + 1)
    try:
        value = int(digits) * factor if digits.isascii() and digits.isdigit() else float(digits) * factor
    except ValueError:
        raise ValueError(f"invalid size {text!r}") from None
    if not 0 <= value < 1 << 63:
        raise ValueError(f"invalid size {text!r}")
    return int(value)


def create_writer(format: str, output: Output, size: int, options: Mapping[str, str] | None = None) -> ImageWriter:
    """The writer of a new image of `size` bytes in `format` (a `DiskFormat` value).

    Raises `ConversionError` for a format that cannot be written, an option it does not have and a
    size it cannot hold.
    """
    module = importlib.import_module(f"guestctl.disk.formats.{ROOMS[format]}") if format in ROOMS else None
    if module is None or not hasattr(module, "create_writer"):
        raise ConversionError(f"{format!r} is no format that guestctl writes")
    taken = Options(format, options)
    writer: ImageWriter = module.create_writer(output, size, taken)
    taken.done()
    return writer
