"""qcow2, the image format of qemu (``docs/interop/qcow2.txt``), versions 2 and 3.

======================================  ==================================================
clusters of 512 bytes to 2 MiB          read
zero clusters, plain and preallocated   read
extended L2 entries (subclusters)       read
compressed clusters, deflate and zstd   read
backing chains, qcow2 and raw           read; names over a network protocol refused
external data files, raw or not         read
internal snapshots                      read, each with its own disk size
refcounts of 1 to 64 bits               checked
dirty and corrupt bits                  read, with a warning
persistent bitmaps                      listed and checked, their bits not read
encryption (LUKS, legacy AES)           read, with a key
unknown incompatible features           refused by name
======================================  ==================================================

Written: versions 2 and 3, with all of these but snapshots, bitmaps and encryption; `in_place` writes into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guestctl.disk.formats.qcow2.header import read_header
from guestctl.disk.formats.qcow2.reader import Qcow2Reader
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.block.output import Output
    from guestctl.disk.writer import ImageWriter, Options


def open_reader(image: ImageFile) -> DiskReader:
    """The reader of a qcow2 image. For ``metadata_only``, neither backing file nor data file is opened."""
    reader = Qcow2Reader(image, *read_header(image.device))
    if not image.metadata_only:
        try:
            reader.open_files()
        except BaseException:
            reader.close()
            raise
    return reader


def create_writer(output: Output, size: int, options: Options) -> ImageWriter:
    from guestctl.disk.formats.qcow2.options import create

    return create(output, size, options)
