"""Security descriptors ([MS-DTYP] 2.4) as SDDL ([MS-DTYP] 2.5.1), and $Secure, which holds those of a volume.

Names of well-known accounts are not used: every SID is written in full, and every access mask as a number.
"""

from __future__ import annotations

from struct import Struct

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.index import Index
from guestctl.disk.filesystems.ntfs.mft import MasterFileTable

# Revision, control flags, offsets of owner, group, SACL and DACL.
_DESCRIPTOR = Struct("<BxH4I")
_ACL = Struct("<BxHH2x")
_ACE = Struct("<BBHI")
_OBJECT_FLAGS = Struct("<8xI")
# In $SDS before each descriptor, and in the index $SII: hash, security id, offset in $SDS, length with this.
_SDS_HEAD = Struct("<IIQI")
_SDS_HEAD_BYTES = 20

_DACL_PRESENT, _SACL_PRESENT = 0x0004, 0x0010
_DACL_FLAGS = ((0x1000, "P"), (0x0100, "AR"), (0x0400, "AI"))
_SACL_FLAGS = ((0x2000, "P"), (0x0200, "AR"), (0x0800, "AI"))
_ACE_TYPES = {0: "A", 1: "D", 2: "AU", 3: "AL", 5: "OA", 6: "OD", 7: "OU", 8: "OL", 0x11: "ML"}
_OBJECT_TYPES = (5, 6, 7, 8)
_ACE_FLAGS = ((0x01, "OI"), (0x02, "CI"), (0x04, "NP"), (0x08, "IO"), (0x10, "ID"), (0x40, "SA"), (0x80, "FA"))


def find_descriptor(mft: MasterFileTable, security_id: int) -> tuple[bytes, int]:
    """A descriptor of $Secure by its id, and where the device has it. Raises `InvalidFormat`."""

    def key(data: bytes, at: int, key_length: int) -> int:
        return int.from_bytes(data[at + L.INDEX_ENTRY_BYTES : at + L.INDEX_ENTRY_BYTES + 4], "little")

    stream = mft.locate(L.SECURE, L.DATA, "$SDS")
    if stream is None:
        raise mft.bad(L.SECURE, "has no $SDS")
    for data, at in Index(mft, L.SECURE, "$SII").search(security_id, key):
        offset, length, entry_length, _, _ = L.VIEW_ENTRY.unpack_from(data, at)
        if length < _SDS_HEAD_BYTES or offset + length > entry_length:
            raise mft.bad(L.SECURE, f"security id {security_id} has {length} bytes of data in $SII")
        _, _, place, size = _SDS_HEAD.unpack_from(data, at + offset)
        descriptors = mft.open(L.SECURE, stream)
        if not _SDS_HEAD_BYTES < size <= L.MAX_DESCRIPTOR_BYTES or place + size > descriptors.size:
            raise mft.bad(L.SECURE, f"security id {security_id} has {size} bytes at {place} of $SDS")
        found = bytes(descriptors.read(place, size))
        if _SDS_HEAD.unpack_from(found)[1] != security_id:
            raise mft.bad(L.SECURE, f"another descriptor than {security_id} at {place} of $SDS")
        run = next(iter(descriptors.runs(place, 1)))
        return found[_SDS_HEAD_BYTES:], run.source_offset + _SDS_HEAD_BYTES
    raise mft.bad(L.SECURE, f"has no security id {security_id}")


def to_sddl(data: bytes, offset: int) -> str:
    """A self-relative security descriptor that lies at `offset`, as text. Raises `InvalidFormat`."""
    if len(data) < _DESCRIPTOR.size:
        raise _bad(f"{len(data)} bytes", offset)
    revision, control, owner, group, sacl, dacl = _DESCRIPTOR.unpack_from(data)
    if revision != 1:
        raise _bad(f"revision {revision}", offset)
    parts = []
    if owner:
        parts.append("O:" + _sid(data, owner, offset))
    if group:
        parts.append("G:" + _sid(data, group, offset))
    if control & _DACL_PRESENT:
        parts.append("D:" + _flags(control, _DACL_FLAGS) + (_acl(data, dacl, offset) if dacl else "NO_ACCESS_CONTROL"))
    if control & _SACL_PRESENT and sacl:
        parts.append("S:" + _flags(control, _SACL_FLAGS) + _acl(data, sacl, offset))
    return "".join(parts)


def _sid(data: bytes, at: int, offset: int) -> str:
    end = at + 8 + 4 * data[at + 1] if at + 8 <= len(data) else len(data) + 1
    if end > len(data):
        raise _bad(f"a SID at {at} of {len(data)} bytes", offset + at)
    authority = int.from_bytes(data[at + 2 : at + 8], "big")
    text = str(authority) if authority < 1 << 32 else f"0x{authority:012X}"
    parts = [str(int.from_bytes(data[place : place + 4], "little")) for place in range(at + 8, end, 4)]
    return "-".join(["S", str(data[at]), text, *parts])


def _acl(data: bytes, at: int, offset: int) -> str:
    if at + _ACL.size > len(data):
        raise _bad(f"an ACL at {at} of {len(data)} bytes", offset)
    _, size, count = _ACL.unpack_from(data, at)
    end = at + size
    if end > len(data):
        raise _bad(f"an ACL of {size} bytes at {at} of {len(data)}", offset + at)
    at += _ACL.size
    entries = []
    for _ in range(count):
        length = _ACE.unpack_from(data, at)[2] if at + _ACE.size <= end else 0
        if length < _ACE.size + 8 or at + length > end:
            raise _bad(f"an ACE of {length} bytes at {at}", offset + at)
        entries.append(_ace(data[at : at + length], offset + at))
        at += length
    return "".join(entries)


def _ace(data: bytes, offset: int) -> str:
    kind, flags, _, mask = _ACE.unpack_from(data)
    at = _ACE.size
    guids = ["", ""]
    if kind in _OBJECT_TYPES:
        (present,) = _OBJECT_FLAGS.unpack_from(data)
        at += 4
        for index in range(2):
            if present >> index & 1:
                guids[index] = _guid(data[at : at + 16], offset + at)
                at += 16
    name = _ACE_TYPES.get(kind, f"0x{kind:02X}")
    return f"({name};{_flags(flags, _ACE_FLAGS)};0x{mask:x};{guids[0]};{guids[1]};{_sid(data, at, offset)})"


def _guid(data: bytes, offset: int) -> str:
    from uuid import UUID

    if len(data) < 16:
        raise _bad("a GUID is cut off", offset)
    return str(UUID(bytes_le=data))


def _flags(value: int, names: tuple[tuple[int, str], ...]) -> str:
    return "".join(name for bit, name in names if value & bit)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="security descriptor", offset=offset)
