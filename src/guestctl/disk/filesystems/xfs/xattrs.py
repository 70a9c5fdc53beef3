"""Extended attributes (chapter "Extended Attributes").

Read: short form, leaf, node and B+tree attributes; values beside their names and in blocks of their
own, which have headers in version 5. Names get the prefix of their namespace; the ACLs, which are
stored as ``trusted.SGI_ACL_FILE`` and ``trusted.SGI_ACL_DEFAULT``, are given as the kernel's
``system.posix_acl_access`` and ``system.posix_acl_default`` only. Left out, as by the kernel:
parent pointers, and attributes that were not written to their end.
"""

from __future__ import annotations

import struct

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.xfs import layout as L
from guestctl.disk.filesystems.xfs.directory import read_piece
from guestctl.disk.filesystems.xfs.extents import ForkData, open_attributes
from guestctl.disk.filesystems.xfs.inode import InodeStat
from guestctl.disk.filesystems.xfs.superblock import Volume

_PREFIXES = {0: "user.", L.ATTR_FLAG_ROOT: "trusted.", L.ATTR_FLAG_SECURE: "security."}
_NAMESPACES = L.ATTR_FLAG_ROOT | L.ATTR_FLAG_SECURE
_HIDDEN = L.ATTR_FLAG_PARENT | L.ATTR_FLAG_INCOMPLETE
_ACLS = {
    "trusted.SGI_ACL_FILE": "system.posix_acl_access",
    "trusted.SGI_ACL_DEFAULT": "system.posix_acl_default",
}
# ``xfs_acl`` (section "Access Control Lists"): acl_cnt, and entries of ae_tag ae_id ae_perm.
_ACL_COUNT = struct.Struct(">I")
_ACL_ENTRY = struct.Struct(">IIH2x")
# The form of acl(5) in an attribute: version, and entries of e_tag e_perm e_id.
_KERNEL_ACL = struct.Struct("<I")
_KERNEL_ACL_ENTRY = struct.Struct("<HHI")
_KERNEL_ACL_VERSION = 2
_NAMED_TAGS = (0x02, 0x08)  # ACL_USER ACL_GROUP
_UNDEFINED_ID = 0xFFFFFFFF

# An attribute fork has 32-bit block numbers; what a file has of attributes is far less.
_FORK_BLOCKS = 1 << 32
_MAX_TOTAL_BYTES = 64 << 20
_MAX_LEAVES = 1 << 16
_SHORT = "short form attributes"
_LEAF = "attribute leaf block"
_REMOTE = "attribute value block"


def read_attributes(volume: Volume, inode: InodeStat) -> dict[str, bytes]:
    """All attributes of `inode`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    if not inode.forkoff:
        return {}
    if inode.literal + inode.forkoff * 8 >= volume.inode_size:
        raise _bad(f"di_forkoff is {inode.forkoff}", inode.offset, structure="inode", actual=inode.forkoff)
    attributes: dict[str, bytes] = {}
    if inode.attribute_format == L.FMT_LOCAL:
        _short(inode.attribute_fork, attributes, inode.offset + inode.literal + inode.forkoff * 8)
    elif inode.attribute_format != L.FMT_EXTENTS or inode.extent_counts[1]:
        _Leaves(volume, inode).read(attributes)
    for stored, shown in _ACLS.items():
        if stored in attributes:
            attributes[shown] = _acl(attributes.pop(stored), inode.offset)
    return attributes


def _short(fork: bytes, attributes: dict[str, bytes], offset: int) -> None:
    """Section "Shortform Attributes"."""
    if len(fork) < L.ATTR_SF_HEADER.size:
        raise _bad(f"cut off after {len(fork)} bytes", offset, structure=_SHORT)
    total, count = L.ATTR_SF_HEADER.unpack_from(fork)
    if total > len(fork):
        raise _bad(f"totsize is {total}", offset, structure=_SHORT, actual=total)
    position = L.ATTR_SF_HEADER.size
    for _ in range(count):
        if position + L.ATTR_SF_ENTRY.size > total:
            raise _bad(f"{count} entries do not fit", offset + position, structure=_SHORT, actual=count)
        name_bytes, value_bytes, flags = L.ATTR_SF_ENTRY.unpack_from(fork, position)
        start = position + L.ATTR_SF_ENTRY.size
        following = start + name_bytes + value_bytes
        if following > total or not name_bytes:
            raise _bad(f"namelen is {name_bytes}, valuelen {value_bytes}", offset + position, structure=_SHORT)
        name = _full_name(fork[start : start + name_bytes], flags)
        if name is not None:
            attributes[name] = fork[start + name_bytes : following]
        position = following


def _full_name(name: bytes, flags: int) -> str | None:
    prefix = _PREFIXES.get(flags & _NAMESPACES)
    if flags & _HIDDEN or prefix is None:
        return None
    return prefix + name.decode("utf-8", "surrogateescape")


class _Leaves:
    """Attributes in blocks of the attribute fork."""

    def __init__(self, volume: Volume, inode: InodeStat) -> None:
        self._volume = volume
        self._inode = inode
        self._data: ForkData = open_attributes(volume, inode, _FORK_BLOCKS << volume.block_log)
        self._v5 = volume.superblock.v5
        self._header = L.ATTR_LEAF_HEADER_V5 if self._v5 else L.ATTR_LEAF_HEADER_V4
        self._count_at = L.DA_HEADER_V5 if self._v5 else L.DA_HEADER_V4
        self._total = 0

    def read(self, attributes: dict[str, bytes]) -> None:
        """All leaves, from the first one on."""
        number = self._first_leaf()
        seen: set[int] = set()
        while True:
            if number in seen or len(seen) >= _MAX_LEAVES:
                raise _bad("the leaves go round in circles", self._inode.offset)
            seen.add(number)
            block, offset, following, magic = self._read(number)
            if magic not in L.ATTR_LEAF_MAGICS:
                raise _bad(f"magic is {magic:#x}", offset, actual=magic)
            self._leaf(block, offset, attributes)
            if not following:
                return
            number = following

    def _first_leaf(self) -> int:
        number = 0
        for _ in range(L.MAX_DA_LEVELS + 1):
            block, offset, _following, magic = self._read(number)
            if magic not in L.DA_NODE_MAGICS:
                return number
            (count, _level) = L.DA_COUNT.unpack_from(block, self._count_at)
            if not count:
                raise _bad("a node without entries", offset)
            start = L.LEAF_HEADER_V5 if self._v5 else L.LEAF_HEADER_V4
            _hash, number = L.HASH_ENTRY.unpack_from(block, start)
        raise _bad(f"more than {L.MAX_DA_LEVELS} levels", self._inode.offset)

    def _read(self, number: int) -> tuple[bytes, int, int, int]:
        block, offset = read_piece(self._data, number << self._volume.block_log, self._volume.block_size, _LEAF)
        following, _back, magic = L.DA_INFO.unpack_from(block)
        if self._v5:
            self._volume.check_self(block, L.DA_SELF, self._inode.st_ino, _LEAF, offset)
        return block, offset, following, magic

    def _leaf(self, block: bytes, offset: int, attributes: dict[str, bytes]) -> None:
        (count, _) = L.DA_COUNT.unpack_from(block, self._count_at)
        end = self._header + count * L.ATTR_ENTRY.size
        if end > len(block):
            raise _bad(f"count is {count}", offset, actual=count)
        for _hash, start, flags in L.ATTR_ENTRY.iter_unpack(block[self._header : end]):
            layout = L.ATTR_LOCAL if flags & L.ATTR_FLAG_LOCAL else L.ATTR_REMOTE
            if start < end or start + layout.size > len(block):
                raise _bad(f"nameidx is {start}", offset, actual=start)
            *value, name_bytes = layout.unpack_from(block, start)
            at = start + layout.size
            name = _full_name(block[at : at + name_bytes], flags)
            value_bytes = value[-1]
            if at + name_bytes + (value_bytes if flags & L.ATTR_FLAG_LOCAL else 0) > len(block) or not name_bytes:
                raise _bad(f"namelen is {name_bytes}, valuelen {value_bytes}", offset + start)
            if name is None:
                continue
            self._total += value_bytes
            if value_bytes > L.MAX_VALUE_BYTES:
                raise _bad(f"valuelen is {value_bytes}", offset + start, actual=value_bytes)
            if self._total > _MAX_TOTAL_BYTES:
                message = f"more than {_MAX_TOTAL_BYTES} bytes of extended attributes"
                raise UnsupportedFeature(message, feature="large extended attributes")
            if flags & L.ATTR_FLAG_LOCAL:
                attributes[name] = block[at + name_bytes : at + name_bytes + value_bytes]
            else:
                attributes[name] = self._remote(value[0], value_bytes)

    def _remote(self, number: int, length: int) -> bytes:
        """Section "Remote Attribute Values": the value in the blocks from `number` on."""
        position = number << self._volume.block_log
        if not self._v5:
            block, _offset = read_piece(self._data, position, length, _REMOTE) if length else (b"", 0)
            return block
        parts = []
        done = 0
        size = self._volume.block_size
        while done < length:
            block, offset = read_piece(self._data, position, size, _REMOTE)
            part = min(length - done, size - L.REMOTE_HEADER_BYTES)
            magic, start, count = L.REMOTE_HEADER.unpack_from(block)
            if magic != L.REMOTE_VALUE_MAGIC or start != done or count != part:
                message = f"magic is {magic!r}, offset {start}, bytes {count}"
                raise _bad(message, offset, structure=_REMOTE, expected=(done, part), actual=(start, count))
            self._volume.check_self(block, L.REMOTE_SELF, self._inode.st_ino, _REMOTE, offset)
            parts.append(block[L.REMOTE_HEADER_BYTES : L.REMOTE_HEADER_BYTES + part])
            done += part
            position += size
        return b"".join(parts)


def _acl(value: bytes, offset: int) -> bytes:
    """The kernel's form of an ACL as it is on the disk."""
    count = _ACL_COUNT.unpack_from(value)[0] if len(value) >= _ACL_COUNT.size else -1
    start = _ACL_COUNT.size
    end = start + count * _ACL_ENTRY.size
    if count < 0 or end > len(value):
        raise _bad(f"{len(value)} bytes with acl_cnt {count}", offset, structure="xfs_acl", actual=count)
    entries = [
        _KERNEL_ACL_ENTRY.pack(tag & 0xFFFF, permissions, identity if tag in _NAMED_TAGS else _UNDEFINED_ID)
        for tag, identity, permissions in _ACL_ENTRY.iter_unpack(value[start:end])
    ]
    return _KERNEL_ACL.pack(_KERNEL_ACL_VERSION) + b"".join(entries)


def _bad(
    message: str, offset: int, *, structure: str = _LEAF, expected: object = None, actual: object = None
) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset, expected=expected, actual=actual)
