"""``HiveEditor``: keys and values of a hive, set, added and deleted in memory.

As Windows does it: lists of subkeys are sorted by their names in upper case; new ones are hash leaves (``lh``, from
version 1.5 on), fast leaves (``lf``) or index leaves (``li``), below an index root (``ri``) where there are many; data
of more than 16,344 bytes are big data from version 1.4 on. A new key shares its parent's security descriptor.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from struct import Struct, pack

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.cells import bad
from guestctl.detectors.registry.hive import Hive
from guestctl.detectors.registry.key import Key
from guestctl.detectors.registry.log import BaseBlock, checksum, parse_base_block
from guestctl.detectors.registry.reg_file import Change
from guestctl.detectors.registry.storage import Storage

_MAX_KEY_NAME, _MAX_VALUE_NAME = 255, 16383  # UTF-16 code units
_MAX_DATA_BYTES = 64 << 20
_MAX_KEYS = 1 << 22  # deleted at once
_LEAF_ELEMENTS = 500
_HASH_LEAF_MINOR, _FAST_LEAF_MINOR = 5, 3
_RESIDENT_BYTES = 4
_EPOCH_TICKS = 116_444_736_000_000_000

# Fields of a key node that change, by their offsets in its cell.
_WRITTEN, _SUBKEYS, _SUBKEYS_LIST, _VALUES, _SECURITY = 4, 20, 28, 36, 44
_LARGEST_SUBKEY_NAME, _LARGEST_VALUE_NAME, _LARGEST_DATA = 52, 60, 64
_SECURITY_HEAD = Struct("<2sHIIII")  # signature, reserved, flink, blink, reference count, bytes of the descriptor
_SECURITY_MAGIC = b"sk"
_UINT32 = Struct("<I")


class HiveEditor:
    """A hive that is changed in memory; `to_bytes` gives its new file.

    What was in the transaction logs of `hive` is in it, and the file that is written has numbers past theirs, so that
    they are not replayed again. Raises `InvalidFormat` where a structure that is needed is damaged, after which this
    editor is of no more use; ``FileNotFoundError`` where what is to be changed or deleted is not there.
    """

    def __init__(self, hive: Hive) -> None:
        raw = bytes(hive.device.read(0, hive.device.size))
        self._base: BaseBlock = hive.base
        if parse_base_block(raw) is None:
            raise InvalidFormat("no hive", structure="base block", offset=0)
        self._cells = Storage(raw, self._base.bins_bytes, self._base.minor)

    @property
    def root(self) -> Key:
        """The root key, as it is now."""
        return Key(self._cells, self._base.root)

    def key(self, path: str) -> Key | None:
        """The key at `path`, names separated by backslashes; None where there is none."""
        key: Key | None = self.root
        for name in filter(None, path.split("\\")):
            key = key.subkey(name) if key is not None else None
        return key

    def _existing(self, path: str) -> Key:
        key = self.key(path)
        if key is None:
            raise FileNotFoundError(2, "No such key", path)
        return key

    # Keys

    def create_key(self, path: str) -> Key:
        """The key at `path`, which is added, with those above it, where there is none."""
        key = self.root
        for name in filter(None, path.split("\\")):
            key = key.subkey(name) or self._add_key(key, name)
        return key

    def _add_key(self, parent: Key, name: str) -> Key:
        raw, compressed = _encode(name, _MAX_KEY_NAME)
        security = self._field(parent, _SECURITY)
        offset = self._cells.allocate(
            L.KEY.pack(
                L.KEY_MAGIC,
                L.KEY_COMPRESSED_NAME if compressed else 0,
                _now(),
                parent.offset,
                *(0, 0, L.NONE, L.NONE, 0, L.NONE, security, L.NONE),
                len(raw),
                0,
            )
            + raw
        )
        self._count_security(security, 1)
        key = Key(self._cells, offset)
        self._write_subkeys(parent, [*parent.subkeys(), key])
        self._raise_field(parent, _LARGEST_SUBKEY_NAME, len(name.encode("utf-16-le", "surrogatepass")))
        return key

    def delete_key(self, path: str) -> None:
        """Delete the key at `path` and all below it; the root cannot be deleted."""
        key = self._existing(path)
        if key.offset == self._base.root:
            raise UnsupportedFeature("the root key cannot be deleted", feature="root key")
        parent = self._existing(path.rstrip("\\").rpartition("\\")[0])
        doomed = self._below(key)
        self._write_subkeys(parent, [one for one in parent.subkeys() if one.offset != key.offset])
        for one in doomed:
            self._free_key(one)

    def _below(self, key: Key) -> list[Key]:
        """`key` and all keys below it."""
        found = {key.offset: key}
        pending = [key]
        while pending:
            for child in pending.pop().subkeys():
                if child.offset in found or len(found) >= _MAX_KEYS:
                    raise bad("a key in two places", child.offset, "key node")
                found[child.offset] = child
                pending.append(child)
        return list(found.values())

    def _free_key(self, key: Key) -> None:
        for value in list(key.values()):
            self._free_value(value.offset)
        count, values = self._pair(key, _VALUES)
        if count and values != L.NONE:
            self._cells.free(values)
        count, subkeys = self._field(key, _SUBKEYS), self._field(key, _SUBKEYS_LIST)
        if count and subkeys != L.NONE:
            self._free_list(subkeys)
        self._count_security(self._field(key, _SECURITY), -1)
        class_name = key.class_offset
        if class_name != L.NONE:
            self._cells.free(class_name)
        self._cells.free(key.offset)

    def _write_subkeys(self, parent: Key, children: list[Key]) -> None:
        """Give `parent` a new list of subkeys, in the place of the one that it has."""
        old = self._field(parent, _SUBKEYS_LIST) if self._field(parent, _SUBKEYS) else L.NONE
        children.sort(key=lambda key: key.name.upper().encode("utf-16-be", "surrogatepass"))
        leaves = [
            self._cells.allocate(self._leaf(children[start : start + _LEAF_ELEMENTS]))
            for start in range(0, len(children), _LEAF_ELEMENTS)
        ]
        new = leaves[0] if leaves else L.NONE
        if len(leaves) > 1:
            root = L.LIST.pack(L.ROOT_LIST, len(leaves)) + pack(f"<{len(leaves)}I", *leaves)
            new = self._cells.allocate(root)
        self._set(parent, _SUBKEYS, len(children))
        self._set(parent, _SUBKEYS_LIST, new)
        self._touch(parent)
        if old != L.NONE:
            self._free_list(old)

    def _leaf(self, keys: list[Key]) -> bytes:
        if self._cells.minor >= _HASH_LEAF_MINOR:
            return L.LIST.pack(b"lh", len(keys)) + b"".join(pack("<II", key.offset, _hash(key.name)) for key in keys)
        if self._cells.minor >= _FAST_LEAF_MINOR:
            return L.LIST.pack(b"lf", len(keys)) + b"".join(pack("<I4s", key.offset, _hint(key.name)) for key in keys)
        return L.LIST.pack(b"li", len(keys)) + b"".join(pack("<I", key.offset) for key in keys)

    def _free_list(self, offset: int) -> None:
        signature, count = L.LIST.unpack_from(self._cells.read(offset, L.LIST.size, "subkeys list"))
        if signature == L.ROOT_LIST:
            cell = self._cells.read(offset, L.LIST.size + 4 * count, "subkeys list")
            for (leaf,) in _UINT32.iter_unpack(cell[L.LIST.size : L.LIST.size + 4 * count]):
                self._cells.free(leaf)
        self._cells.free(offset)

    def _count_security(self, offset: int, change: int) -> None:
        """Count the keys that refer to a security descriptor; one that none refers to is taken out of their ring."""
        if offset == L.NONE:
            return
        head = _SECURITY_HEAD.unpack_from(self._cells.read(offset, _SECURITY_HEAD.size, "key security"))
        signature, _, forward, backward, count, _ = head
        if signature != _SECURITY_MAGIC:
            raise bad(f"signature is {signature!r}", offset, "key security")
        if count + change > 0 or forward == offset:
            self._cells.write(offset, 12, _UINT32.pack(max(0, count + change)))
            return
        self._cells.write(forward, 8, _UINT32.pack(backward))
        self._cells.write(backward, 4, _UINT32.pack(forward))
        self._cells.free(offset)

    # Values

    def set_value(self, path: str, name: str, kind: int, data: bytes) -> None:
        """Set a value of the key at `path`, which has to be there; without a `name` the default value."""
        if len(data) > _MAX_DATA_BYTES:
            raise UnsupportedFeature(f"a value of {len(data)} bytes", feature="value size")
        key = self._existing(path)
        raw, compressed = _encode(name, _MAX_VALUE_NAME) if name else (b"", False)
        old = key.value(name)
        size, place = self._store(data)
        flags = L.VALUE_COMPRESSED_NAME if compressed else 0
        value = self._cells.allocate(L.VALUE.pack(L.VALUE_MAGIC, len(raw), size, place, kind, flags) + raw)
        offsets = [one.offset for one in key.values()]
        if old is None:
            offsets.append(value)
        else:
            offsets[offsets.index(old.offset)] = value
        self._write_values(key, offsets)
        if old is not None:
            self._free_value(old.offset)
        self._raise_field(key, _LARGEST_VALUE_NAME, len(name.encode("utf-16-le", "surrogatepass")))
        self._raise_field(key, _LARGEST_DATA, len(data))

    def delete_value(self, path: str, name: str) -> None:
        """Delete a value of the key at `path`."""
        key = self._existing(path)
        old = key.value(name)
        if old is None:
            raise FileNotFoundError(2, "No such value", name)
        self._write_values(key, [one.offset for one in key.values() if one.offset != old.offset])
        self._free_value(old.offset)

    def _write_values(self, key: Key, offsets: list[int]) -> None:
        count, old = self._pair(key, _VALUES)
        new = self._cells.allocate(pack(f"<{len(offsets)}I", *offsets)) if offsets else L.NONE
        self._cells.write(key.offset, _VALUES, pack("<II", len(offsets), new))
        self._touch(key)
        if count and old != L.NONE:
            self._cells.free(old)

    def _store(self, data: bytes) -> tuple[int, int]:
        """The length and the place of a value's data, as its key value has them."""
        if len(data) <= _RESIDENT_BYTES:
            return len(data) | L.RESIDENT, int.from_bytes(data, "little")
        if len(data) <= L.SEGMENT_BYTES or self._cells.minor < L.BIG_DATA_MINOR:
            return len(data), self._cells.allocate(data)
        starts = range(0, len(data), L.SEGMENT_BYTES)
        segments = [self._cells.allocate(data[start : start + L.SEGMENT_BYTES]) for start in starts]
        listed = self._cells.allocate(pack(f"<{len(segments)}I", *segments))
        return len(data), self._cells.allocate(L.BIG_DATA.pack(L.BIG_DATA_MAGIC, len(segments), listed))

    def _free_value(self, offset: int) -> None:
        _, _, size, place, _, _ = L.VALUE.unpack_from(self._cells.read(offset, L.VALUE.size, "key value"))
        if size and not size & L.RESIDENT:
            self._free_data(place, size)
        self._cells.free(offset)

    def _free_data(self, offset: int, size: int) -> None:
        if size > L.SEGMENT_BYTES and self._cells.minor >= L.BIG_DATA_MINOR:
            signature, count, listed = L.BIG_DATA.unpack_from(self._cells.read(offset, L.BIG_DATA.size, "big data"))
            if signature == L.BIG_DATA_MAGIC:
                for segment in self._cells.offsets(listed, count, "big data"):
                    self._cells.free(segment)
                self._cells.free(listed)
        self._cells.free(offset)

    # Files of regedit

    def apply(self, changes: Iterable[Change], prefix: str = "") -> None:
        """Make the changes of a .reg file, whose keys are all below `prefix`. What is to be deleted may be missing."""
        for change in changes:
            path = _below(change.key, prefix)
            if change.delete and self.key(path) is None:
                continue
            if change.name is None and not change.delete:
                self.create_key(path)
            elif change.name is None:
                self.delete_key(path)
            elif not change.delete:
                self.set_value(path, change.name, change.type, change.data)
            elif self._existing(path).value(change.name) is not None:
                self.delete_value(path, change.name)

    # Fields of key nodes

    def _field(self, key: Key, at: int) -> int:
        return int(_UINT32.unpack_from(self._cells.read(key.offset, L.KEY.size, "key node"), at)[0])

    def _pair(self, key: Key, at: int) -> tuple[int, int]:
        return self._field(key, at), self._field(key, at + 4)

    def _set(self, key: Key, at: int, value: int) -> None:
        self._cells.write(key.offset, at, _UINT32.pack(value))

    def _raise_field(self, key: Key, at: int, value: int) -> None:
        if value > self._field(key, at) & 0xFFFF:
            self._set(key, at, value)

    def _touch(self, key: Key) -> None:
        self._cells.write(key.offset, _WRITTEN, pack("<Q", _now()))

    # The file

    def to_bytes(self) -> bytes:
        """The hive's file: clean, so that it needs no log."""
        block = bytearray(self._cells.buffer[: L.BASE_BLOCK_BYTES])
        sequence = (max(self._base.primary, self._base.secondary) + 1) & 0xFFFFFFFF
        block[4:20] = pack("<IIQ", sequence, sequence, _now())
        block[36:44] = pack("<II", self._base.root, self._cells.bins_bytes)
        block[L.BASE_CHECKSUM_OFFSET : L.BASE_CHECKSUM_OFFSET + 4] = _UINT32.pack(checksum(bytes(block)))
        return bytes(block) + bytes(self._cells.buffer[L.BASE_BLOCK_BYTES :])


def _below(path: str, prefix: str) -> str:
    path, prefix = path.strip("\\"), prefix.strip("\\")
    rest = path[len(prefix) :]
    if path[: len(prefix)].casefold() != prefix.casefold() or rest[:1] not in ("", "\\"):
        raise UnsupportedFeature(f"the key {path} is not below {prefix}", feature="key prefix")
    return rest


def _encode(name: str, most: int) -> tuple[bytes, bool]:
    """A name as it is stored, and whether that is Latin-1."""
    if not 0 < len(name) <= most or "\0" in name:
        raise UnsupportedFeature(f"a name of {len(name)} characters", feature="name")
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return name.encode("utf-16-le", "surrogatepass"), False


def _hash(name: str) -> int:
    value = 0
    for character in name.upper():
        value = (value * 37 + ord(character)) & 0xFFFFFFFF
    return value


def _hint(name: str) -> bytes:
    """The first four characters, where they are of one byte each."""
    return name[:4].encode("latin-1") if all(ord(character) < 256 for character in name[:4]) else b"\0\0\0\0"


def _now() -> int:
    return _EPOCH_TICKS + time.time_ns() // 100
