"""What a mount of any kind answers: open files and open directories, damage as EIO."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import count, islice
from typing import Any, NamedTuple, TypeVar

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError

F = TypeVar("F", bound=Callable[..., Any])

# name, attributes of which the kernel takes st_mode and st_ino, place of the next one
Entry = tuple[str, dict[str, int], int]


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def damage_is_eio(operation: F) -> F:
    @wraps(operation)
    def answer(*args: Any) -> Any:
        try:
            return operation(*args)
        except GuestctlError as error:
            raise OSError(errno.EIO, str(error)) from error

    return answer  # type: ignore[return-value]


class Listing(NamedTuple):
    """The names of a directory, ``.`` and ``..`` among them; ``damaged`` where there are more."""

    entries: list[Entry]
    damaged: bool = False


class Operations(ABC):
    """What mfusepy's ``FUSE`` calls, always from one thread; names of methods and arguments are its own."""

    use_ns = True  # times are whole nanoseconds

    def __init__(self) -> None:
        self._numbers = count(1)
        self._listings: dict[int, Listing] = {}
        self._files: dict[int, BlockDevice] = {}

    on_start: Callable[[], None]  # called when the mount is there

    def init(self, path: str) -> None:
        self.on_start()

    @abstractmethod
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """The attributes of what is at `path`, as ``os.lstat`` calls them; times without ``_ns``."""

    @abstractmethod
    def listing(self, path: str) -> Listing:
        """The directory at `path`."""

    @abstractmethod
    def device(self, path: str, flags: int) -> BlockDevice:
        """The bytes of the file at `path`; a writable one where `flags` ask for that."""

    # Directories

    @damage_is_eio
    def opendir(self, path: str) -> int:
        return self._keep(self._listings, self.listing(path))

    def readdir_with_offset(self, path: str, offset: int, fh: int) -> Iterator[Entry]:
        entries, damaged = self._listings[fh]
        if damaged and offset == len(entries):
            raise failure(errno.EIO)
        return islice(entries, offset, None)

    def releasedir(self, path: str, fh: int) -> int:
        del self._listings[fh]
        return 0

    # Files

    @damage_is_eio
    def open(self, path: str, flags: int) -> int:
        return self._keep(self._files, self.device(path, flags))

    @damage_is_eio
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        device = self._files[fh]
        length = min(size, device.size - offset)
        return bytes(device.read(offset, length)) if length > 0 else b""

    @damage_is_eio
    def lseek(self, path: str, offset: int, whence: int, fh: int) -> int:
        """The next data (SEEK_DATA) or hole (SEEK_HOLE) from `offset`; there is a hole at the end."""
        device = self._files[fh]
        if offset >= device.size:
            raise failure(errno.ENXIO)
        for run in device.runs(offset, device.size - offset):
            if (run.source is None) == (whence == os.SEEK_HOLE):
                return run.offset
        if whence == os.SEEK_DATA:
            raise failure(errno.ENXIO)
        return device.size

    def release(self, path: str, fh: int) -> int:
        del self._files[fh]
        return 0

    def _keep(self, place: dict[int, Any], value: Any) -> int:
        number = next(self._numbers)
        place[number] = value
        return number
