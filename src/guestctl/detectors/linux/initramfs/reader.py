"""What archives are read from, front to back: a file, or what a decoder makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat

_CHUNK_BYTES = 256 << 10
# It becomes a filesystem in memory; live systems with a whole root in it stay below.
_MAX_CONTENT_BYTES = 2 << 30


class Reader(Protocol):
    """Bytes in order; ``position`` is that of the next one."""

    position: int

    def take(self, length: int, structure: str) -> bytes:
        """The next `length` bytes; `InvalidFormat` of `structure` where there are fewer."""

    def skip(self, length: int, structure: str) -> None:
        """Pass by `length` bytes, as `take`."""

    def skip_zeros(self) -> bool:
        """Pass by zeros, and tell whether anything comes after them."""


class DeviceReader:
    """The bytes of a file."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self.position = 0

    def take(self, length: int, structure: str) -> bytes:
        start = self.position
        self.skip(length, structure)
        return bytes(self._device.read(start, length))

    def skip(self, length: int, structure: str) -> None:
        if self.position + length > self._device.size:
            raise ends_within(structure, self.position)
        self.position += length

    def peek(self, length: int) -> bytes:
        """Up to `length` of the next bytes."""
        return bytes(self._device.read(self.position, min(length, self._device.size - self.position)))

    def chunk(self) -> bytes:
        """The next bytes, as many as suit; none at the end. A decoder moves ``position`` back for what it left."""
        data = self.peek(_CHUNK_BYTES)
        self.position += len(data)
        return data

    def skip_zeros(self) -> bool:
        if self.peek(1) > b"\0":
            return True
        while data := self.chunk():
            if rest := data.lstrip(b"\0"):
                self.position -= len(rest)
                return True
        return False


class ContentReader:
    """What a decoder yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._used = 0  # of the piece
        self.position = 0

    def _next(self) -> bool:
        """Whether there is a byte in the piece, or in one that comes."""
        while self._used == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._used = piece, 0
            if self.position + len(piece) > _MAX_CONTENT_BYTES:
                raise InvalidFormat(f"more than {_MAX_CONTENT_BYTES} bytes", structure="initramfs", offset=0)
        return True

    def take(self, length: int, structure: str) -> bytes:
        end = self._used + length
        if end <= len(self._piece):
            data = self._piece[self._used : end]
            self._used = end
            self.position += length
            return data
        parts = []
        while length:
            if not self._next():
                raise ends_within(structure, self.position)
            part = self._piece[self._used : self._used + length]
            self._used += len(part)
            self.position += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, length: int, structure: str) -> None:
        while length:
            if not self._next():
                raise ends_within(structure, self.position)
            part = min(length, len(self._piece) - self._used)
            self._used += part
            self.position += part
            length -= part

    def skip_zeros(self) -> bool:
        while self._next():
            if self._piece[self._used]:
                return True
            rest = len(self._piece[self._used :].lstrip(b"\0"))
            self.position += len(self._piece) - self._used - rest
            self._used = len(self._piece) - rest
            if rest:
                return True
        return False


def ends_within(structure: str, position: int) -> InvalidFormat:
    return InvalidFormat("it ends too early", structure=structure, offset=position)
