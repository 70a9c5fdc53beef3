"""``GuestTree``: a tree of files that owns the machine it is on."""

from __future__ import annotations

import io
import weakref
from functools import cached_property
from typing import Any, Self

from guestctl.block import BlockDevice, DeviceStream
from guestctl.disk.filesystem import FileSystem
from guestctl.machine.choice import choose_tree
from guestctl.machine.machine import Machine

_MAX_ACCOUNTS_BYTES = 16 << 20


class GuestTree:
    """A tree of files, and the machine that is closed with it: by `close`, or when nothing refers to it."""

    def __init__(self, filesystem: FileSystem[Any], machine: Machine | None = None) -> None:
        self.filesystem = filesystem
        self._finalizer = weakref.finalize(self, machine.close) if machine is not None else None

    @classmethod
    def open(cls, machine: Machine, device: str | None) -> Self:
        """That of `choose_tree`; the machine is closed where there is none."""
        try:
            return cls(choose_tree(machine, device), machine)
        except BaseException:
            machine.close()
            raise

    def open_file(self, path: str) -> io.BufferedReader:
        """A seekable binary file, which keeps the machine open."""
        return _GuestFile(self, self.filesystem.device(path))

    def close(self) -> None:
        if self._finalizer is not None:
            self._finalizer()

    @cached_property
    def users(self) -> dict[int, str]:
        return self._names("/etc/passwd")

    @cached_property
    def groups(self) -> dict[int, str]:
        return self._names("/etc/group")

    def _names(self, path: str) -> dict[int, str]:
        """The names in a file of accounts, by their numbers; of several the first counts."""
        try:
            text = self.filesystem.read_text(path, limit=_MAX_ACCOUNTS_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        fields = [line.split(":") for line in text.splitlines()]
        return {int(one[2]): one[0] for one in reversed(fields) if len(one) > 2 and one[2].isdecimal()}


class _GuestFile(io.BufferedReader):
    def __init__(self, tree: GuestTree, device: BlockDevice) -> None:
        super().__init__(DeviceStream(device), 1 << 16)
        self.size = device.size  # fsspec asks for it
        self._tree = tree
