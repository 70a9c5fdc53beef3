"""Keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.cells import Cells, bad

MAX_DEPTH = 512  # Windows allows 512 levels
_EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601


class Value(NamedTuple):
    """A value. ``data`` are its bytes as they are; the default value of a key has no name."""

    name: str
    type: int  # REG_SZ is 1, REG_DWORD 4 …
    data: bytes
    offset: int = 0  # of its cell, from the first hive bin on

    @property
    def text(self) -> str:
        """The data as UTF-16 up to its end or to a NUL; lone surrogates stay what they are."""
        return self.data[: len(self.data) & ~1].decode("utf-16-le", "surrogatepass").partition("\0")[0]

    @property
    def texts(self) -> list[str]:
        """The strings of a REG_MULTI_SZ."""
        whole = self.data[: len(self.data) & ~1].decode("utf-16-le", "surrogatepass")
        parts = whole.split("\0")
        return parts[: parts.index("")] if "" in parts else parts

    @property
    def number(self) -> int:
        """The data as an unsigned number, of eight bytes at most."""
        return int.from_bytes(self.data[:8], "big" if self.type == L.REG_DWORD_BIG_ENDIAN else "little")


class Key:
    """A key of a hive. Names are compared without regard to case, as Windows does."""

    def __init__(self, cells: Cells, offset: int, depth: int = 0) -> None:
        self._cells = cells
        self.offset = offset  # of its cell, from the first hive bin on
        self._depth = depth
        cell = cells.read(offset, L.KEY.size, "key node")
        (
            signature,
            self.flags,
            ticks,
            _parent,
            self._subkey_count,
            _volatile_count,
            self._subkeys,
            _volatile,
            self._value_count,
            self._values,
            _security,
            self.class_offset,
            name_bytes,
            self._class_bytes,
        ) = L.KEY.unpack_from(cell)
        if signature != L.KEY_MAGIC:
            raise bad(f"signature is {signature!r}", offset, "key node")
        name = cell[L.KEY.size : L.KEY.size + name_bytes]
        if len(name) != name_bytes:
            raise bad(f"a name of {name_bytes} bytes", offset, "key node")
        self.name = _decode(name, compressed=bool(self.flags & L.KEY_COMPRESSED_NAME))
        self.modified_ns = (ticks - _EPOCH_TICKS) * 100  # since 1970

    def __repr__(self) -> str:
        return f"<Key {self.name!r}>"

    @property
    def class_name(self) -> str | None:
        """What a key hides there: parts of the system key, in SYSTEM."""
        if self.class_offset == L.NONE or not self._class_bytes:
            return None
        cell = self._cells.read(self.class_offset, self._class_bytes, "class name")
        return _decode(cell[: self._class_bytes], compressed=False)

    def subkeys(self, *, errors: list[InvalidFormat] | None = None) -> Iterator[Key]:
        """The keys below, in their order. Damage raises, or is put into `errors` and passed over."""
        if not self._subkey_count or self._subkeys == L.NONE:
            return
        if self._depth >= MAX_DEPTH:
            raise bad(f"more than {MAX_DEPTH} keys one below the other", self.offset, "key node")
        offsets = self._cells.subkeys(self._subkeys)
        while True:
            try:
                offset = next(offsets, None)
                if offset is None:
                    return
                key = Key(self._cells, offset, self._depth + 1)
            except InvalidFormat as error:
                _note(error, errors)
                continue
            yield key

    def subkey(self, name: str) -> Key | None:
        """The key called `name` below this one."""
        wanted = upper(name)
        return next((key for key in self.subkeys() if upper(key.name) == wanted), None)

    def values(self, *, errors: list[InvalidFormat] | None = None) -> Iterator[Value]:
        """The values, in their order. Damage raises, or is put into `errors` and passed over."""
        if not self._value_count or self._values == L.NONE:
            return
        try:
            offsets = self._cells.offsets(self._values, self._value_count, "values list")
        except InvalidFormat as error:
            return _note(error, errors)
        left = self._cells.bins_bytes
        for offset in offsets:
            try:
                value = self._value(offset)
            except InvalidFormat as error:
                _note(error, errors)
                continue
            left -= len(value.data)
            if left < 0:
                return _note(bad("more data than the hive has room for", self.offset, "values list"), errors)
            yield value

    def value(self, name: str = "") -> Value | None:
        """The value called `name`; without one the default value."""
        wanted = upper(name)
        return next((value for value in self.values() if upper(value.name) == wanted), None)

    def _value(self, offset: int) -> Value:
        cell = self._cells.read(offset, L.VALUE.size, "key value")
        signature, name_bytes, size, data_offset, kind, flags = L.VALUE.unpack_from(cell)
        if signature != L.VALUE_MAGIC:
            raise bad(f"signature is {signature!r}", offset, "key value")
        name = cell[L.VALUE.size : L.VALUE.size + name_bytes]
        if len(name) != name_bytes:
            raise bad(f"a name of {name_bytes} bytes", offset, "key value")
        if size & L.RESIDENT:
            # A resident value has four bytes at most.
            data = data_offset.to_bytes(4, "little")[: size & ~L.RESIDENT]
        else:
            data = self._cells.data(data_offset, size) if size else b""
        return Value(_decode(name, compressed=bool(flags & L.VALUE_COMPRESSED_NAME)), kind, data, offset)


def upper(name: str) -> str:
    """In upper case as Windows has it: one UTF-16 code unit into one."""
    if name.isascii():
        return name.upper()
    return "".join(
        large if character < "\U00010000" and len(large := character.upper()) == 1 else character for character in name
    )


def _note(error: InvalidFormat, errors: list[InvalidFormat] | None) -> None:
    if errors is None:
        raise error
    errors.append(error)


def _decode(name: bytes, *, compressed: bool) -> str:
    if compressed:
        return name.decode("latin-1")
    return name[: len(name) & ~1].decode("utf-16-le", "surrogatepass")
