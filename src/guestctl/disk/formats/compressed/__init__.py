"""Compressed files around an image of any format.

==========================  ==========================================================================
xz (format 1.2.1)           read at random by the index: many blocks, many streams; written as one
                            stream of many blocks
zstd (RFC 8878)             read at random by the frames, or by the seek table of the "Zstandard
                            Seekable Format" 0.1.0; written with one; frames that need a dictionary or
                            a window of more than 128 MiB are refused by name
gzip (RFC 1952), bzip2      read from the beginning on, many members too; gzip is written as many members
==========================  ==========================================================================

What is too large to be decompressed in memory, and what can only be read from its beginning, goes
into a temporary file, as far as it is asked for. The size of the content must be known, so that gzip,
bzip2 and zstd without sizes are decompressed to their ends when they are opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ConversionError, InvalidFormat
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.block.output import Output
    from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    """The reader of what is inside."""
    start = bytes(image.device.read(0, min(image.device.size, 10)))
    for matches, opener in _OPENERS:
        if matches(start):
            return image.inside(opener(image)).reader(None)
    raise InvalidFormat("not compressed in a way that guestctl knows", structure="compressed file", offset=0)


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.compressed.writer import create

    if options.format == "bz2":
        raise ConversionError("bzip2 is read, not written: it is slow and has no index")
    return create(output, size, options)


def _open_xz(image: ImageFile) -> BlockDevice:
    from guestctl.disk.formats.compressed.units import open_units
    from guestctl.disk.formats.compressed.xz import XzFile

    file = XzFile(image.device)
    return open_units(image.device, file.units, file.content)


def _open_zstd(image: ImageFile) -> BlockDevice:
    from guestctl.disk.formats.compressed.spool import SpoolDevice
    from guestctl.disk.formats.compressed.units import open_units
    from guestctl.disk.formats.compressed.zstd import ZstdFile

    file = ZstdFile(image.device)
    if file.units is None:
        return SpoolDevice.of_unknown_size(image.device, lambda: file.whole(image.progress))
    return open_units(image.device, file.units, file.content)


def _open_gzip(image: ImageFile) -> BlockDevice:
    from guestctl.disk.formats.compressed.members import gzip_content
    from guestctl.disk.formats.compressed.spool import SpoolDevice

    return SpoolDevice.of_unknown_size(image.device, lambda: gzip_content(image.device, image.progress))


def _open_bzip2(image: ImageFile) -> BlockDevice:
    from guestctl.disk.formats.compressed.members import bzip2_content
    from guestctl.disk.formats.compressed.spool import SpoolDevice

    return SpoolDevice.of_unknown_size(image.device, lambda: bzip2_content(image.device, image.progress))


def _is_zstd(start: bytes) -> bool:
    # pzstd begins with a skippable frame.
    return start[:4] == b"\x28\xb5\x2f\xfd" or (start[1:4] == b"\x2a\x4d\x18" and start[:1] in _SKIPPABLE)


_SKIPPABLE = [bytes((number,)) for number in range(0x50, 0x60)]
_OPENERS: tuple[tuple[Callable[[bytes], bool], Callable[[ImageFile], BlockDevice]], ...] = (
    (lambda start: start[:6] == b"\xfd7zXZ\0", _open_xz),
    (_is_zstd, _open_zstd),
    (lambda start: start[:2] == b"\x1f\x8b", _open_gzip),
    (lambda start: start[:3] == b"BZh", _open_bzip2),
)
