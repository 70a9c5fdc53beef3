"""What is in the files of an initial ramfs image; its headers are read by `guestctl.detectors.linux.initramfs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.initramfs.compression import decoder
from guestctl.detectors.linux.initramfs.cpio import CpioEntry, is_cpio, read_entry
from guestctl.detectors.linux.initramfs.reader import ContentReader, DeviceReader, Reader

_MAX_ENTRIES = 200_000


class _Keeping:
    """A reader that keeps the data of the files that are wanted, while headers are read from it."""

    def __init__(self, source: Reader, wanted: Callable[[str], bool]) -> None:
        self._source = source
        self._wanted = wanted
        self._keeps = False
        self.data: list[bytes] = []

    @property
    def position(self) -> int:
        return self._source.position

    @position.setter
    def position(self, position: int) -> None:
        self._source.position = position

    def take(self, length: int, structure: str) -> bytes:
        found = self._source.take(length, structure)
        if structure == "cpio name":
            self.data = []
            self._keeps = self._wanted(file_name(found.rstrip(b"\0").decode("utf-8", "surrogateescape")))
        elif structure == "cpio data" and self._keeps:
            self.data.append(found)
        return found

    def skip(self, length: int, structure: str) -> None:
        if structure == "cpio data" and self._keeps:
            self.data.append(self._source.take(length, structure))
        else:
            self._source.skip(length, structure)

    def skip_zeros(self) -> bool:
        return self._source.skip_zeros()


def read_files(device: BlockDevice, wanted: Callable[[str], bool]) -> Iterator[tuple[CpioEntry, bytes]]:
    """Every entry with its data, which is empty for those whose names are not wanted."""
    source = DeviceReader(device)
    count = 0
    while source.skip_zeros():
        magic = source.peek(10)
        whole = is_cpio(magic)
        reader = _Keeping(source if whole else ContentReader(decoder(magic, source.position)(source)), wanted)
        while whole or reader.skip_zeros():
            entry = read_entry(reader)
            count += 1
            if count > _MAX_ENTRIES:
                raise InvalidFormat(f"more than {_MAX_ENTRIES} entries", structure="initramfs", offset=0)
            if entry is not None:
                yield entry, b"".join(reader.data)
            if whole:
                break
    if not count:
        raise InvalidFormat("no archive", structure="initramfs", offset=0)


def file_name(name: str) -> str:
    """A name in an archive without the ``./`` or ``/`` before it."""
    return name.removeprefix("./").lstrip("/")
