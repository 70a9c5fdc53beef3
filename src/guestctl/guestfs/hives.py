"""``hivex_…``: a hive of the Windows registry. A node or value is known by the place of its cell in the file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestctl.detectors.registry import Hive, Key, Value

_BASE_BLOCK_BYTES = 4096  # before the first hive bin, from where cells are counted


class Hives(Handle):
    """One hive at a time is open. Its transaction logs, which hivex passes over, are replayed."""

    _hive: Hive | None = None
    _nodes: dict[int, Key]
    _parents: dict[int, int]
    _values: dict[int, Value]

    def _end_groups(self) -> None:
        super()._end_groups()
        self._hive = None

    @launched
    def hivex_open(
        self,
        filename: str,
        verbose: bool | None = None,
        debug: bool | None = None,
        write: bool | None = None,
        unsafe: bool | None = None,
    ) -> None:
        """Open the hive at a path; one that was open is closed. ``write`` is refused with ``NotImplementedError``."""
        from guestctl.detectors.registry import Hive

        if write:
            raise NotImplementedError("hivex_open: hives are only read")
        self._hive = Hive.open(self._tree, self._path(filename))
        self._nodes, self._parents, self._values = {}, {}, {}
        self._note(self._hive.root)

    @launched
    def hivex_close(self) -> None:
        """Close the hive."""
        self._opened()
        self._hive = None

    @launched
    def hivex_root(self) -> int:
        """The root node."""
        return self._opened().root.offset + _BASE_BLOCK_BYTES

    @launched
    def hivex_node_name(self, nodeh: int) -> str:
        """The name of a node."""
        return self._key(nodeh).name

    @launched
    def hivex_node_children(self, nodeh: int) -> list[dict[str, Any]]:
        """The nodes below a node, each as ``hivex_node_h``."""
        return [{"hivex_node_h": self._note(key, nodeh)} for key in self._key(nodeh).subkeys()]

    @launched
    def hivex_node_get_child(self, nodeh: int, name: str) -> int:
        """The node called `name` below a node; 0 where there is none."""
        found = self._key(nodeh).subkey(name)
        return self._note(found, nodeh) if found else 0

    @launched
    def hivex_node_parent(self, nodeh: int) -> int:
        """The node above a node that was reached from the root."""
        self._key(nodeh)
        if nodeh not in self._parents:
            raise GuestFSError("the root has no parent", errno.EINVAL)
        return self._parents[nodeh]

    @launched
    def hivex_node_values(self, nodeh: int) -> list[dict[str, Any]]:
        """The values of a node, each as ``hivex_value_h``."""
        return [{"hivex_value_h": self._note_value(value)} for value in self._key(nodeh).values()]

    @launched
    def hivex_node_get_value(self, nodeh: int, key: str) -> int:
        """The value called `key` of a node; 0 where there is none."""
        found = self._key(nodeh).value(key)
        return self._note_value(found) if found else 0

    @launched
    def hivex_value_key(self, valueh: int) -> str:
        """The name of a value; empty for the default value."""
        return self._value(valueh).name

    @launched
    def hivex_value_type(self, valueh: int) -> int:
        """The type of a value: REG_SZ is 1, and so on."""
        return self._value(valueh).type

    @launched
    def hivex_value_value(self, valueh: int) -> bytes:
        """The data of a value."""
        return self._value(valueh).data

    @launched
    def hivex_value_string(self, valueh: int) -> str:
        """The data of a value as UTF-16."""
        try:
            return self._value(valueh).data.decode("utf-16-le").partition("\0")[0]
        except UnicodeDecodeError as error:
            raise GuestFSError("the data are no UTF-16", errno.EILSEQ) from error

    hivex_value_utf8 = hivex_value_string

    def _opened(self) -> Hive:
        if self._hive is None:
            raise GuestFSError("you must call 'hivex-open' first to initialize the hivex handle", errno.EINVAL)
        return self._hive

    def _note(self, key: Key, parent: int | None = None) -> int:
        handle = key.offset + _BASE_BLOCK_BYTES
        self._nodes[handle] = key
        if parent is not None:
            self._parents[handle] = parent
        return handle

    def _note_value(self, value: Value) -> int:
        handle = value.offset + _BASE_BLOCK_BYTES
        self._values[handle] = value
        return handle

    def _key(self, nodeh: int) -> Key:
        self._opened()
        if nodeh not in self._nodes:
            raise GuestFSError(f"{nodeh:#x} is no node", errno.EINVAL)
        return self._nodes[nodeh]

    def _value(self, valueh: int) -> Value:
        self._opened()
        if valueh not in self._values:
            raise GuestFSError(f"{valueh:#x} is no value", errno.EINVAL)
        return self._values[valueh]
