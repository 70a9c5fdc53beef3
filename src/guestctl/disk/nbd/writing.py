"""Commands that write, on the device that takes them, and the protocol's errors for what goes wrong."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from guestctl.block.device import CHUNK_BYTES, BlockDevice, WritableDevice, zeros
from guestctl.core.errors import GuestctlError
from guestctl.disk.nbd import layout

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A range that is past the end of the export: for these commands, space that is missing.
_NEEDS_SPACE = {layout.CMD_WRITE, layout.CMD_WRITE_ZEROES}


class RequestFailed(Exception):
    """A request that is answered with an error, ``number``."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def working() -> Iterator[None]:
    """What goes wrong fails this request alone."""
    try:
        yield
    except OSError as error:
        raise RequestFailed(layout.ENOSPC if error.errno in _FULL else layout.EIO, str(error)) from error
    except GuestctlError as error:
        raise RequestFailed(layout.EIO, str(error)) from error


def out_of_range(device: BlockDevice, command: int, offset: int, length: int) -> RequestFailed | None:
    """The error of a range that does not lie in the export."""
    if length and offset + length <= device.size:
        return None
    number = layout.ENOSPC if length and command in _NEEDS_SPACE else layout.EINVAL
    return RequestFailed(number, "the range does not lie in the export")


def write_zeroes(device: WritableDevice, flags: int, offset: int, length: int) -> None:
    """Zeros, as quickly as a discard unless they are to take space."""
    allocated = flags & layout.CMD_FLAG_NO_HOLE
    if flags & layout.CMD_FLAG_FAST_ZERO and (allocated or not device.zeroes_fast):
        raise RequestFailed(layout.ENOTSUP, "no faster than writing zeros")
    if not allocated:
        device.discard(offset, length)
        return
    for start in range(offset, offset + length, CHUNK_BYTES):
        device.write(start, zeros(min(CHUNK_BYTES, offset + length - start)))
