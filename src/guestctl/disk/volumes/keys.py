"""The keys of encrypted devices: who has which, in the syntax of libguestfs's ``--key``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_MAX_KEY_FILE_BYTES = 8 << 20  # cryptsetup's limit


class Key(NamedTuple):
    """A passphrase, or the content of a key file, for a device: its name, its UUID, or ``all``."""

    device: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(device={self.device!r}, secret=...)"


class Keys:
    """Keys that were given, and a way to ask for others; it is asked once for each device."""

    def __init__(self, keys: Iterable[Key] = (), *, ask: Callable[[str], bytes | None] | None = None) -> None:
        self._keys = list(keys)
        self._ask = ask
        self._answers: dict[str, bytes | None] = {}

    def for_device(self, name: str, uuid: str | None = None) -> Iterator[bytes]:
        """The secrets to try on the device called `name`: its own, those for all, then what the user answers."""
        names = {name, uuid.lower() if uuid else name}
        for key in self._keys:
            if key.device in names or key.device.lower() in names:
                yield key.secret
        for key in self._keys:
            if key.device == "all":
                yield key.secret
        if self._ask is not None:
            if name not in self._answers:
                self._answers[name] = self._ask(name)
            answer = self._answers[name]
            if answer is not None:
                yield answer


def parse_key(text: str) -> Key:
    """A key from ``ID:key:TEXT`` or ``ID:file:PATH``; raises ``ValueError``, and ``OSError`` for the file."""
    for kind in (":key:", ":file:"):
        device, separator, value = text.partition(kind)
        if separator and device:
            if kind == ":key:":
                return Key(device, value.encode("utf-8", "surrogateescape"))
            with open(value, "rb") as file:
                return Key(device, file.read(_MAX_KEY_FILE_BYTES))
    raise ValueError("expected ID:key:TEXT or ID:file:PATH")
