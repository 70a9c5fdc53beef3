"""A `BlockDevice` as a seekable binary file."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from guestctl.block.device import CHUNK_BYTES, BlockDevice

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class DeviceStream(io.RawIOBase):
    """Read-only and seekable; wrap it in ``io.BufferedReader`` for small reads."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._device.size - self._position, CHUNK_BYTES))
        if length:
            view[:length] = self._device.read(self._position, length)
            self._position += length
        return length

    def readall(self) -> bytes:
        start = min(self._position, self._device.size)
        data = b"".join(buffer for _, buffer in self._device.chunks(start, self._device.size - start))
        self._position = start + len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._device.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position
