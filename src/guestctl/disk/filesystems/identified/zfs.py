"""Members of a ZFS pool ("ZFS On-Disk Specification", chapter 1): the list of names and values in the first label.

It is packed as XDR: big-endian, all in units of four bytes.
"""

from __future__ import annotations

from struct import Struct

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems.identified.fields import read_at, text

_LIST_OFFSET, _LIST_BYTES, _HEAD_BYTES = 0x4000, 112 << 10, 12
_UBERBLOCKS_OFFSET, _UBERBLOCKS_BYTES = 128 << 10, 128 << 10
_UBERBLOCK_MAGICS = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")
# Encoded and decoded size of a pair, length of its name; after the name: type and count of values.
_PAIR = Struct(">III")
_VALUE = Struct(">II")
_UINT64, _STRING = 8, 9


def identify(device: BlockDevice) -> Identity | None:
    uberblocks = read_at(device, _UBERBLOCKS_OFFSET, _UBERBLOCKS_BYTES)
    if not any(uberblocks[at : at + 8] in _UBERBLOCK_MAGICS for at in range(0, len(uberblocks), 1024)):
        return None
    values = _parse(read_at(device, _LIST_OFFSET, _LIST_BYTES))
    version, guid, name = values.get("version"), values.get("pool_guid"), values.get("name")
    return Identity(
        "zfs_member",
        version=None if version is None else str(int.from_bytes(version, "big")),
        label=text(name) if name else None,
        uuid=None if guid is None else str(int.from_bytes(guid, "big")),
    )


def _parse(data: bytes) -> dict[str, bytes]:
    """Numbers and strings of the outermost list; what is damaged ends it."""
    values = {}
    at = _HEAD_BYTES
    while at + _PAIR.size <= len(data):
        encoded, _, name_length = _PAIR.unpack_from(data, at)
        value_at = at + _PAIR.size + (name_length + 3 & ~3)
        end = at + encoded
        if not encoded or end > len(data) or value_at + _VALUE.size > end:
            break
        kind, count = _VALUE.unpack_from(data, value_at)
        value = data[value_at + _VALUE.size : end]
        name = data[at + _PAIR.size : at + _PAIR.size + name_length].decode("ascii", "replace")
        if kind == _UINT64 and count == 1:
            values[name] = value[:8]
        elif kind == _STRING and count == 1:
            values[name] = value[4 : 4 + int.from_bytes(value[:4], "big")]
        at = end
    return values
