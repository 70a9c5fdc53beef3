"""$LogFile, as far as to tell whether it holds changes that the volume lacks ("NTFS Documentation", $LogFile).

Two restart pages, of which the newer counts, name the clients whose log is open; NTFS is the only one.
"""

from __future__ import annotations

from struct import Struct

from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.fixups import mend
from guestctl.disk.filesystems.ntfs.mft import MasterFileTable

_MAGIC = b"RSTR"
_PAGE_BYTES = 4096
# Offset of the restart area; in that: last LSN, first client in use, flags.
_AREA_OFFSET = Struct("<24xH")
_AREA = Struct("<Q4xHH")
_NO_CLIENT, _IS_CLEAN = 0xFFFF, 0x2


def is_clean(mft: MasterFileTable) -> bool:
    """Whether the volume needs no replay.

    A log without restart pages, as mkntfs leaves it, is empty. Raises `InvalidFormat`."""
    located = mft.locate(L.LOG_FILE, L.DATA)
    if located is None or located.attribute.size < 2 * _PAGE_BYTES:
        return True
    data = mft.open(L.LOG_FILE, located).read(0, 2 * _PAGE_BYTES)
    newest, clean = -1, True
    for start in (0, _PAGE_BYTES):
        page, damaged = mend(data[start : start + _PAGE_BYTES], _PAGE_BYTES, _MAGIC)
        area = _AREA_OFFSET.unpack_from(page)[0]
        if damaged or area + _AREA.size > _PAGE_BYTES:
            continue
        lsn, client, flags = _AREA.unpack_from(page, area)
        if lsn > newest:
            newest, clean = lsn, client == _NO_CLIENT or bool(flags & _IS_CLEAN)
    return clean
