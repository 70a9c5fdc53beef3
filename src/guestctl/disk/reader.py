"""``DiskReader``: any disk image at any location as a `BlockDevice`.

The formats are rooms in ``disk/formats``; each derives its reader from `DiskReader` and stands as
one line in that folder's table of probes. `ImageFile` is what a room gets: the bytes of the file,
and the only way to open the other files it names.
"""

from __future__ import annotations

import importlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NamedTuple, Self

from guestctl.block import BlockDevice, FileDevice
from guestctl.core.errors import InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.core.progress import NoProgress, Progress
from guestctl.core.types import DiskFormat
from guestctl.disk.formats import PROBES, ROOMS
from guestctl.disk.volumes.keys import Keys

# qemu has no limit; a chain this long is a loop through links or an attack on memory.
_MAX_CHAIN = 200
_MAX_WRAPPINGS = 3


class MapEntry(NamedTuple):
    """A range of the virtual disk as ``qemu-img map`` describes it, in bytes."""

    start: int
    length: int
    depth: int  # 0: this image, 1: its backing file, ...
    present: bool  # some image of the chain allocates it
    zero: bool  # reads as zeros
    data: bool  # its bytes are stored somewhere
    compressed: bool
    offset: int | None = None  # in ``filename``, where the bytes lie there as they are
    filename: str | None = None


class DiskReader(BlockDevice):
    """The virtual disk of an image. `open` finds the format; a format's room makes the instance."""

    format: DiskFormat
    path: str
    backing: DiskReader | None = None
    warnings: Sequence[str] = ()
    files: Sequence[FileDevice] = ()  # of the host, that were opened for it

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        snapshot: str | None = None,
        mapped: bool = True,
        metadata_only: bool = False,
        progress: Progress = NoProgress(),
        keys: Keys | None = None,
    ) -> DiskReader:
        """Open the image at `path`.

        `format` (a `DiskFormat` value) skips probing. `allow_dirs` are directories, besides the
        image's own, in which files that the image names may be opened. `snapshot` is the name or
        id of an internal snapshot to read instead of the current state. Without `mapped` no file is
        mapped into memory: one that is truncated while it is read is then an error, not a signal.
        With `metadata_only` the backing file and other files of data stay closed: they may be
        missing or refused, and only `info` and `check` are sure to work. `progress` hears of a
        compressed file, in compressed bytes, while all of it has to be read before it can be opened.
        `keys` are asked, by the name of the file, for that of an encrypted image when its content is
        first read.

        Raises ``OSError`` for the file itself, `InvalidFormat`, `UnsupportedFeature` and
        `LocationRefused`.
        """
        image = ImageFile.open(path, allow_dirs=allow_dirs, mapped=mapped, keys=keys)
        image = replace(image, snapshot=snapshot, metadata_only=metadata_only, progress=progress)
        return image.reader(format)

    @staticmethod
    def open_all(
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        keys: Keys | None = None,
    ) -> list[DiskReader]:
        """Open the image at `path`, or all disks of the machine that it holds (OVA, OVF). As `open`."""
        return ImageFile.open(path, allow_dirs=allow_dirs, keys=keys).readers(format)

    def read_exact_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; `EndOfDevice` past the end."""
        return bytes(self.read(offset, length))

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What ``qemu-img info --output=json`` says, with its keys."""

    @abstractmethod
    def map(self) -> Iterator[MapEntry]:
        """The whole disk in ascending order without gaps; neighbours that are alike are joined."""

    def check(self) -> dict[str, Any]:
        """What ``qemu-img check --output=json`` says, with its keys."""
        raise UnsupportedFeature(f"{self.path}: {self.format} images have nothing to check", feature="check")

    def measure_file(self) -> int:
        """Bytes that the image file occupies on the host, as ``actual-size`` of ``qemu-img info``."""
        status = os.stat(self.path)
        return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file on the host, as a format's room sees it. `path` is as the user or the image wrote it."""

    path: str
    device: BlockDevice
    opened: list[FileDevice]  # by the whole chain
    beside: tuple[str, ...]
    allow_dirs: tuple[str, ...]
    chain: tuple[str, ...]
    snapshot: str | None = None
    mapped: bool = True
    metadata_only: bool = False  # the reader need not open files that hold nothing but data
    wrappings: int = 0  # compressions and archives around what `device` gives
    progress: Progress = field(default_factory=NoProgress)
    keys: Keys = field(default_factory=Keys)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        mapped: bool = True,
        keys: Keys | None = None,
    ) -> Self:
        """The file that the user named."""
        path = os.fspath(path)
        device = FileDevice.open(path, mapped=mapped)
        return cls(
            path=path,
            device=device,
            opened=[device],
            beside=(os.path.realpath(os.path.dirname(path) or "."), os.path.dirname(os.path.realpath(path))),
            allow_dirs=tuple(os.path.realpath(os.fspath(directory)) for directory in allow_dirs),
            chain=(os.path.realpath(path),),
            mapped=mapped,
            keys=keys or Keys(),
        )

    def reader(self, format: str | None) -> DiskReader:
        """The reader for this file, which owns `device` from here on."""
        try:
            reader: DiskReader = self._room(format).open_reader(self)
        except BaseException:
            self.close()
            raise
        reader.files = self.opened
        return reader

    def readers(self, format: str | None) -> list[DiskReader]:
        """The reader for this file, or those of the several disks in it."""
        try:
            room = self._room(format)
            if not hasattr(room, "open_disks"):
                return [self.reader(format)]
            disks: list[DiskReader] = room.open_disks(self)
        except BaseException:
            self.close()
            raise
        return disks

    def _room(self, format: str | None) -> ModuleType:
        room = _room_of(format or probe(self.device))
        return importlib.import_module(f"guestctl.disk.formats.{room}")

    def inside(self, device: BlockDevice) -> ImageFile:
        """What a compression or an archive holds; `device`, which owns this file's, gives its bytes."""
        if self.wrappings >= _MAX_WRAPPINGS:
            message = f"{self.path}: more than {_MAX_WRAPPINGS} compressions or archives around each other"
            raise UnsupportedFeature(message, feature="nested compression")
        return replace(self, device=device, wrappings=self.wrappings + 1)

    def close(self) -> None:
        """Close a file that is not wanted after all."""
        self.device.close()
        self.opened[:] = [device for device in self.opened if device is not self.device]

    def open_image(self, name: str, format: str | None, *, role: str) -> DiskReader:
        """Open another image that this one names in its `role` (such as ``backing file``)."""
        return self.open_neighbour(name, role=role).reader(format)

    def open_file(self, name: str, *, role: str) -> BlockDevice:
        """Open a file of plain bytes that this image names in its `role` (such as ``data file``)."""
        return self.open_neighbour(name, role=role).device

    def resolve(self, name: str) -> str:
        """The host path that `name` means in this image."""
        return os.path.join(os.path.dirname(self.path), name)

    def open_neighbour(self, name: str, *, role: str) -> ImageFile:
        """Open a file that this image names in its `role`, to look at it before it is read as an image."""
        path = self.resolve(name)
        real = os.path.realpath(path)
        directory = os.path.dirname(real)
        if directory not in self.beside and not any(_is_below(real, top) for top in self.allow_dirs):
            raise LocationRefused(
                f"{self.path}: its {role} {path!r} is not beside the image; allow it with --allow-dir {directory}",
                location=path,
            )
        if real in self.chain:
            raise InvalidFormat(f"{self.path}: its {role} {path!r} leads back to itself", structure=role, offset=0)
        if len(self.chain) >= _MAX_CHAIN:
            raise InvalidFormat(f"a chain of more than {_MAX_CHAIN} images", structure=role, offset=0)
        device = FileDevice.open(path, mapped=self.mapped)
        self.opened.append(device)
        return ImageFile(
            path=path,
            device=device,
            opened=self.opened,
            mapped=self.mapped,
            beside=self.beside,
            allow_dirs=self.allow_dirs,
            chain=(*self.chain, real),
            progress=self.progress,
            keys=self.keys,
        )


def probe(device: BlockDevice) -> str:
    """The format whose magic `device` carries; ``raw`` where none does."""
    for candidate in PROBES:
        offset, length = candidate.offset, len(candidate.magic)
        start = offset if offset >= 0 else device.size + offset
        if start >= 0 and start + length <= device.size and device.read(start, length) == candidate.magic:
            return candidate.format
    return DiskFormat.RAW


def _room_of(format: str) -> str:
    if format in ROOMS:
        return ROOMS[format]
    raise UnsupportedFeature(f"unknown image format {format!r} (known: {', '.join(ROOMS)})", feature=format)


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath((path, directory)) == directory
