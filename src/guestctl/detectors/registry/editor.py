"""``HiveEditor``: keys and values of a hive, set, added and deleted in memory.

As Windows does it: lists of subkeys are sorted by their names in upper case; new ones are hash leaves (``lh``, from
version 1.5 on), fast leaves (``lf``) or index leaves (``li``), below an index root (``ri``) where there are many; data
of more than 16,344 bytes are big data from version 1.4 on. A new key shares its parent's security descriptor.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from struct import Struct, pack, unpack, unpack_from
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.cells import bad
from guestctl.detectors.registry.hive import Hive
from guestctl.detectors.registry.key import MAX_DEPTH, Key, Value, upper
from guestctl.detectors.registry.log import BaseBlock, checksum, parse_base_block
from guestctl.detectors.registry.reg_file import Change
from guestctl.detectors.registry.storage import MAX_HIVE_BYTES, Storage

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
_VALUE_DATA = 4  # of a key value: length of its data, their place, type
_SECURITY_HEAD = Struct("<2sHIIII")  # signature, reserved, flink, blink, reference count, bytes of the descriptor
_SECURITY_MAGIC = b"sk"
_UINT32 = Struct("<I")


class _Listed(NamedTuple):
    """The subkeys or the values of a key, by the offsets of their cells and by their names in upper case."""

    names: dict[int, str]
    offsets: dict[str, int]


class HiveEditor:
    """A hive that is changed in memory; `to_bytes` gives its new file.

    What was in the transaction logs of `hive` is in it, and the file that is written has numbers past theirs, so that
    they are not replayed again. Raises `InvalidFormat` where a structure that is needed is damaged, after which this
    editor is of no more use; ``FileNotFoundError`` where what is to be changed or deleted is not there.
    """

    def __init__(self, hive: Hive) -> None:
        self._base: BaseBlock = hive.base
        size = min(hive.device.size, L.BASE_BLOCK_BYTES + self._base.bins_bytes)
        raw = bytes(hive.device.read(0, size)) if size <= MAX_HIVE_BYTES else b""
        if parse_base_block(raw) is None:
            raise InvalidFormat("no hive", structure="base block", offset=0)
        self._cells = Storage(raw, self._base.bins_bytes, self._base.minor)
        self._subkeys: dict[int, _Listed] = {}  # of keys by the offsets of their cells
        self._values: dict[int, _Listed] = {}
        self._changed: set[int] = set()  # keys whose lists are still to be written

    @property
    def root(self) -> Key:
        """The root key, as it is now."""
        self._write_lists()
        return Key(self._cells, self._base.root)

    def key(self, path: str) -> Key | None:
        """The key at `path`, names separated by backslashes; None where there is none."""
        self._write_lists()
        return self._find(path)

    def _find(self, path: str) -> Key | None:
        """As `key`, but what the lists of subkeys say may be out of date."""
        key = Key(self._cells, self._base.root)
        for name in filter(None, path.split("\\")):
            offset = self._below(key).offsets.get(upper(name))
            if offset is None:
                return None
            key = Key(self._cells, offset)
        return key

    def _below(self, key: Key) -> _Listed:
        if key.offset not in self._subkeys:
            self._subkeys[key.offset] = _listed(key.subkeys())
        return self._subkeys[key.offset]

    def _values_of(self, key: Key) -> _Listed:
        if key.offset not in self._values:
            self._values[key.offset] = _listed(key.values())
        return self._values[key.offset]

    def _existing(self, path: str) -> Key:
        key = self._find(path)
        if key is None:
            raise FileNotFoundError(2, "No such key", path)
        return key

    # Keys

    def create_key(self, path: str) -> Key:
        """The key at `path`, which is added, with those above it, where there is none."""
        if self._find(path) is not None:  # there may be new ones below it
            self._write_lists()
        return self._create(path)

    def _create(self, path: str) -> Key:
        names = list(filter(None, path.split("\\")))
        if len(names) > MAX_DEPTH:
            raise UnsupportedFeature(f"{len(names)} keys one below the other", feature="depth of keys")
        key = Key(self._cells, self._base.root)
        for name in names:
            offset = self._below(key).offsets.get(upper(name))
            key = Key(self._cells, self._add_key(key, name) if offset is None else offset)
        return key

    def _add_key(self, parent: Key, name: str) -> int:
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
        below = self._below(parent)
        below.names[offset] = name
        below.offsets[upper(name)] = offset
        self._subkeys[offset] = _Listed({}, {})
        self._changed.add(parent.offset)
        self._raise_field(parent, _LARGEST_SUBKEY_NAME, "<H", len(_utf16(name)))
        return offset

    def delete_key(self, path: str) -> None:
        """Delete the key at `path` and all below it; the root cannot be deleted."""
        key = self._existing(path)
        if key.offset == self._base.root:
            raise UnsupportedFeature("the root key cannot be deleted", feature="root key")
        parent = self._existing(path.rstrip("\\").rpartition("\\")[0])
        doomed = self._tree(key)
        if parent.offset in doomed:
            raise bad("a key below itself", key.offset, "key node")
        _unlist(self._below(parent), key.offset)
        self._changed.add(parent.offset)
        for offset, one in doomed.items():
            self._free_key(one)
            del self._subkeys[offset]
            self._values.pop(offset, None)
            self._changed.discard(offset)

    def _tree(self, key: Key) -> dict[int, Key]:
        """`key` and all keys below it, by the offsets of their cells."""
        found = {key.offset: key}
        pending = [key]
        while pending:
            for child in self._below(pending.pop()).names:
                if child in found or len(found) >= _MAX_KEYS:
                    raise bad("a key in two places", child, "key node")
                found[child] = Key(self._cells, child)
                pending.append(found[child])
        return found

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

    def _write_lists(self) -> None:
        """Give the keys that were changed new lists of subkeys, in the place of those that they have."""
        for parent in self._changed:
            self._write_subkeys(Key(self._cells, parent), self._subkeys[parent].names)
        self._changed.clear()

    def _write_subkeys(self, parent: Key, names: dict[int, str]) -> None:
        old = self._field(parent, _SUBKEYS_LIST) if self._field(parent, _SUBKEYS) else L.NONE
        keys = sorted((_utf16(upper(name), "be"), offset) for offset, name in names.items())
        leaves = [
            self._cells.allocate(
                self._leaf([(offset, names[offset]) for _, offset in keys[start : start + _LEAF_ELEMENTS]])
            )
            for start in range(0, len(keys), _LEAF_ELEMENTS)
        ]
        new = leaves[0] if leaves else L.NONE
        if len(leaves) > 1:
            root = L.LIST.pack(L.ROOT_LIST, len(leaves)) + pack(f"<{len(leaves)}I", *leaves)
            new = self._cells.allocate(root)
        self._set(parent, _SUBKEYS, len(keys))
        self._set(parent, _SUBKEYS_LIST, new)
        self._touch(parent)
        if old != L.NONE:
            self._free_list(old)

    def _leaf(self, keys: list[tuple[int, str]]) -> bytes:
        if self._cells.minor >= _HASH_LEAF_MINOR:
            return L.LIST.pack(b"lh", len(keys)) + b"".join(pack("<II", offset, _hash(name)) for offset, name in keys)
        if self._cells.minor >= _FAST_LEAF_MINOR:
            return L.LIST.pack(b"lf", len(keys)) + b"".join(pack("<I4s", offset, _hint(name)) for offset, name in keys)
        return L.LIST.pack(b"li", len(keys)) + b"".join(pack("<I", offset) for offset, _ in keys)

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
        values = self._values_of(key)
        old = values.offsets.get(upper(name))
        size, place = self._store(data)
        if old is not None:
            self._free_data_of(old)
            self._cells.write(old, _VALUE_DATA, pack("<III", size, place, kind))
            self._touch(key)
        else:
            flags = L.VALUE_COMPRESSED_NAME if compressed else 0
            new = self._cells.allocate(L.VALUE.pack(L.VALUE_MAGIC, len(raw), size, place, kind, flags) + raw)
            values.names[new] = name
            values.offsets[upper(name)] = new
            self._write_values(key, list(values.names))
        self._raise_field(key, _LARGEST_VALUE_NAME, "<I", len(_utf16(name)))
        self._raise_field(key, _LARGEST_DATA, "<I", len(data))

    def delete_value(self, path: str, name: str) -> None:
        """Delete a value of the key at `path`."""
        key = self._existing(path)
        values = self._values_of(key)
        old = values.offsets.get(upper(name))
        if old is None:
            raise FileNotFoundError(2, "No such value", name)
        _unlist(values, old)
        self._write_values(key, list(values.names))
        self._free_value(old)

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
        self._free_data_of(offset)
        self._cells.free(offset)

    def _free_data_of(self, value: int) -> None:
        _, _, size, place, _, _ = L.VALUE.unpack_from(self._cells.read(value, L.VALUE.size, "key value"))
        if size and not size & L.RESIDENT:
            self._free_data(place, size)

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
            if change.delete and self._find(path) is None:
                continue
            if change.name is None and not change.delete:
                self._create(path)
            elif change.name is None:
                self.delete_key(path)
            elif not change.delete:
                self.set_value(path, change.name, change.type, change.data)
            elif upper(change.name) in self._values_of(self._existing(path)).offsets:
                self.delete_value(path, change.name)

    # Fields of key nodes

    def _field(self, key: Key, at: int) -> int:
        return int(_UINT32.unpack_from(self._cells.read(key.offset, L.KEY.size, "key node"), at)[0])

    def _pair(self, key: Key, at: int) -> tuple[int, int]:
        return self._field(key, at), self._field(key, at + 4)

    def _set(self, key: Key, at: int, value: int) -> None:
        self._cells.write(key.offset, at, _UINT32.pack(value))

    def _raise_field(self, key: Key, at: int, form: str, value: int) -> None:
        if value > unpack_from(form, self._cells.read(key.offset, L.KEY.size, "key node"), at)[0]:
            self._cells.write(key.offset, at, pack(form, value))

    def _touch(self, key: Key) -> None:
        self._cells.write(key.offset, _WRITTEN, pack("<Q", _now()))

    # The file

    def to_bytes(self) -> bytes:
        """The hive's file: clean, so that it needs no log."""
        self._write_lists()
        block = bytearray(self._cells.buffer[: L.BASE_BLOCK_BYTES])
        sequence = (max(self._base.primary, self._base.secondary) + 1) & 0xFFFFFFFF
        block[4:20] = pack("<IIQ", sequence, sequence, _now())
        block[36:44] = pack("<II", self._base.root, self._cells.bins_bytes)
        block[L.BASE_CHECKSUM_OFFSET : L.BASE_CHECKSUM_OFFSET + 4] = _UINT32.pack(checksum(bytes(block)))
        return bytes(block) + bytes(self._cells.buffer[L.BASE_BLOCK_BYTES :])


def _listed(found: Iterable[Key | Value]) -> _Listed:
    listed = _Listed({}, {})
    for one in found:
        listed.names[one.offset] = one.name
        listed.offsets.setdefault(upper(one.name), one.offset)
    return listed


def _unlist(listed: _Listed, offset: int) -> None:
    name = upper(listed.names.pop(offset, ""))
    if listed.offsets.get(name) == offset:
        del listed.offsets[name]


def _below(path: str, prefix: str) -> str:
    path, prefix = path.strip("\\"), prefix.strip("\\")
    rest = path[len(prefix) :]
    if path[: len(prefix)].casefold() != prefix.casefold() or (prefix and rest[:1] not in ("", "\\")):
        raise UnsupportedFeature(f"the key {path} is not below {prefix}", feature="key prefix")
    return rest


def _encode(name: str, most: int) -> tuple[bytes, bool]:
    """A name as it is stored, and whether that is Latin-1."""
    if not 0 < len(_utf16(name)) // 2 <= most or "\0" in name:
        raise UnsupportedFeature(f"a name of {len(name)} characters", feature="name")
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return _utf16(name), False


def _utf16(name: str, order: str = "le") -> bytes:
    return name.encode(f"utf-16-{order}", "surrogatepass")


def _hash(name: str) -> int:
    value = 0
    for unit in unpack(f"<{len(_utf16(name)) // 2}H", _utf16(upper(name))):
        value = (value * 37 + unit) & 0xFFFFFFFF
    return value


def _hint(name: str) -> bytes:
    """The first four characters, where they are of one byte each."""
    return name[:4].encode("latin-1") if all(ord(character) < 256 for character in name[:4]) else b"\0\0\0\0"


def _now() -> int:
    return _EPOCH_TICKS + time.time_ns() // 100
