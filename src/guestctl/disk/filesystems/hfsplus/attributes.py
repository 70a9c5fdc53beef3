"""Extended attributes: Finder's information in the catalog, and the attributes B-tree."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystems.hfsplus import layout as L
from guestctl.disk.filesystems.hfsplus.btree import BTree
from guestctl.disk.filesystems.hfsplus.forks import Forks

_FINDER_INFO = "com.apple.FinderInfo"
# What has one of these before it Linux wrote, and shows as it is; before others it puts ``osx.``.
_LINUX_PREFIXES = ("osx.", "user.", "system.", "trusted.", "security.")
_MAX_VALUE_BYTES = 64 << 20  # of a file all together
_STRUCTURE = "attribute record"


def attribute_order(key: bytes) -> tuple[int, ...]:
    return (L.ATTRIBUTE_KEY.unpack_from(key)[0],)


class Attributes:
    """The attributes of a volume; `tree` is None where it has no file for them."""

    def __init__(self, tree: BTree | None, forks: Forks) -> None:
        self._tree = tree
        self._forks = forks

    def all(self, file: int, finder: bytes) -> dict[str, bytes]:
        """By the names that Linux gives them."""
        found = {f"osx.{_FINDER_INFO}": finder} if any(finder) else {}
        left = _MAX_VALUE_BYTES
        for name, data in self._records(file):
            value = self._value(file, data)
            left -= len(value)
            if left < 0:
                raise self._bad(f"values of more than {_MAX_VALUE_BYTES} bytes", file)
            found[name if name.startswith(_LINUX_PREFIXES) else f"osx.{name}"] = value
        return found

    def get(self, file: int, name: str) -> bytes | None:
        """One attribute by the name that macOS gave it."""
        data = next((data for found, data in self._records(file) if found == name), None)
        return None if data is None else self._value(file, data)

    def _records(self, file: int) -> Iterator[tuple[str, bytes]]:
        """The records in which values begin, with their names."""
        for key, data in self._tree.scan((file,)) if self._tree is not None else ():
            owner, start, length = L.ATTRIBUTE_KEY.unpack_from(key)
            if owner != file:
                return
            if start:  # further extents of a fork
                continue
            name = key[L.ATTRIBUTE_KEY.size : L.ATTRIBUTE_KEY.size + 2 * length]
            if len(name) != 2 * length or len(data) < L.INLINE_DATA_OFFSET:
                raise self._bad(f"a key of {len(key)} bytes", file)
            yield name.decode("utf-16-be", "replace"), data

    def _value(self, file: int, data: bytes) -> bytes:
        (kind,) = L.ATTRIBUTE_TYPE.unpack_from(data)
        if kind == L.ATTRIBUTE_INLINE:
            (size,) = L.INLINE_SIZE.unpack_from(data)
            if L.INLINE_DATA_OFFSET + size > len(data):
                raise self._bad(f"{size} bytes in a record of {len(data)}", file)
            return data[L.INLINE_DATA_OFFSET : L.INLINE_DATA_OFFSET + size]
        fork = data[L.ATTRIBUTE_FORK_OFFSET : L.ATTRIBUTE_FORK_OFFSET + L.FORK_BYTES]
        if kind != L.ATTRIBUTE_FORK or len(fork) < L.FORK_BYTES:
            raise self._bad(f"type {kind:#x} of {len(data)} bytes", file)
        device = self._forks.open(fork, file, L.ATTRIBUTE_FORK)
        if device.size > _MAX_VALUE_BYTES:
            raise self._bad(f"{device.size} bytes", file)
        return bytes(device.read(0, device.size))

    def _bad(self, message: str, file: int) -> InvalidFormat:
        return InvalidFormat(f"file {file}: {message}", structure=_STRUCTURE, offset=0)
