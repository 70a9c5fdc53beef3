"""Swap space of Linux, and the images of a suspended system in it.

The magic ends the first page, whose size it so tells; version 1 has a header at 1024, of the machine's byte order.
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text, uuid

_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
_MAGIC_BYTES = 10
_HEADER_OFFSET, _UUID, _LABEL, _LABEL_BYTES = 1024, 12, 28, 16
_VERSION_1 = (b"\1\0\0\0", b"\0\0\0\1")
_OLD_MAGIC = b"SWAP-SPACE"
_VERSIONS = {
    b"S1SUSPEND": "s1suspend",
    b"S2SUSPEND": "s2suspend",
    b"ULSUSPEND": "ulsuspend",
    b"LINHIB0001": "linhib0001",
}
_TUXONICE = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"


def _magics(device: BlockDevice) -> list[bytes]:
    return [read_at(device, page - _MAGIC_BYTES, _MAGIC_BYTES) for page in _PAGE_SIZES]


def _names(device: BlockDevice) -> tuple[str | None, str | None]:
    """Label and UUID."""
    header = read_at(device, _HEADER_OFFSET, _LABEL + _LABEL_BYTES)
    return text(header[_LABEL:]), uuid(header[_UUID:_LABEL])


def identify_swap(device: BlockDevice) -> Identity | None:
    magics = _magics(device)
    if _OLD_MAGIC in magics:
        return Identity("swap", "other", "0")
    if read_at(device, _HEADER_OFFSET, 4) not in _VERSION_1:
        return None
    return Identity("swap", "other", "1", *_names(device))


def identify_suspended(device: BlockDevice) -> Identity | None:
    if read_at(device, 0, len(_TUXONICE)) == _TUXONICE:
        return Identity("swsuspend", "other", "tuxonice", *_names(device))
    for magic in _magics(device):
        for start, version in _VERSIONS.items():
            if magic.startswith(start):
                return Identity("swsuspend", "other", version, *_names(device))
    return None
