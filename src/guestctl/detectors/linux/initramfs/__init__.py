"""Initial ramfs images, as the kernel's "initramfs buffer format" document and cpio(5) describe them.

A file is a series of segments with zeros between them: cpio archives as they are (early microcode), and
compressed ones, each with archives and zeros in it.

- Read: cpio "newc" and "crc", with and without a trailer; gzip, xz, lzma, bzip2, lz4 in the legacy format, lzop, zstd.
- Refused, as by the kernel: the older cpio formats, the lz4 frame format.

Only headers are kept; what files hold is passed by as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.initramfs.compression import decoder
from guestctl.detectors.linux.initramfs.cpio import CpioEntry, is_cpio, read_entry
from guestctl.detectors.linux.initramfs.reader import ContentReader, DeviceReader

# Large ones have some ten thousand; a whole system in memory has more.
_MAX_ENTRIES = 200_000


def read_initramfs(device: BlockDevice) -> Iterator[CpioEntry]:
    """Every file of every segment in order."""
    count = 0
    for entry in _entries(DeviceReader(device)):
        count += 1
        if count > _MAX_ENTRIES:
            raise InvalidFormat(f"more than {_MAX_ENTRIES} entries", structure="initramfs", offset=0)
        if entry is not None:
            yield entry
    if not count:
        raise InvalidFormat("no archive", structure="initramfs", offset=0)


def _entries(source: DeviceReader) -> Iterator[CpioEntry | None]:
    while source.skip_zeros():
        magic = source.peek(10)
        if is_cpio(magic):
            yield read_entry(source)
        else:
            content = ContentReader(decoder(magic, source.position)(source))
            while content.skip_zeros():
                yield read_entry(content)
