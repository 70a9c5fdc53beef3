"""``disk_…``: disk images on the host, which need not be added."""

from __future__ import annotations

import errno
import os

from guestctl.disk.reader import DiskReader
from guestctl.guestfs.calls import GuestFSError, call
from guestctl.guestfs.handle import Handle

_SPARSE = (None, "off", "sparse")


class DiskImages(Handle):
    """Calls with the name of a host file."""

    @call
    def disk_format(self, filename: str) -> str:
        """The format of an image, as it is found out: ``qcow2``, ``raw`` and so on."""
        with DiskReader.open(filename, metadata_only=True) as reader:
            return reader.format.value

    @call
    def disk_virtual_size(self, filename: str) -> int:
        """The size of the disk in an image, in bytes."""
        with DiskReader.open(filename, metadata_only=True) as reader:
            return reader.size

    @call
    def disk_has_backing_file(self, filename: str) -> bool:
        """Whether an image is an overlay."""
        with DiskReader.open(filename, metadata_only=True) as reader:
            return "backing-filename" in reader.info()

    @call
    def disk_create(
        self,
        filename: str,
        format: str,
        size: int,
        backingfile: str | None = None,
        backingformat: str | None = None,
        preallocation: str | None = None,
        compat: str | None = None,
        clustersize: int | None = None,
    ) -> None:
        """Create an empty image of `size` bytes; with a `backingfile`, whose size it has, `size` must be -1."""
        from guestctl.block.output import Output
        from guestctl.disk.writer import create_writer

        if (size == -1) != (backingfile is not None):
            message = "backingfile parameter was used, but size is not -1" if backingfile else "invalid size"
            raise GuestFSError(message, errno.EINVAL)
        if backingfile is not None:
            size, backingformat = _backing(filename, backingfile, backingformat)
        words = {
            "backing_file": backingfile,
            "backing_fmt": backingformat,
            "preallocation": None if preallocation in _SPARSE else preallocation,
            "compat": compat,
            "cluster_size": None if clustersize is None else str(clustersize),
        }
        output = Output(filename, overwrite=True)
        try:
            create_writer(format, output, size, {key: value for key, value in words.items() if value}).finish()
            output.publish()
        except BaseException:
            output.discard()
            raise


def _backing(filename: str, backingfile: str, backingformat: str | None) -> tuple[int, str]:
    """The size and the format of a backing file, whose name is relative to the new image."""
    path = os.path.join(os.path.dirname(filename), backingfile)
    with DiskReader.open(path, format=backingformat, metadata_only=True) as reader:
        return reader.size, reader.format.value
