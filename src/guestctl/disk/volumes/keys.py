"""The keys of encrypted devices: who has which, in the syntax of libguestfs's ``--key``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, KeyRequired
from guestctl.disk.volumes import Assembly, Member, Volume

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

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
        # Deriving a key takes seconds by design: what was unlocked stays so. The warnings are those of its header.
        self.opened: dict[BlockDevice, tuple[Volume, list[str]]] = {}

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


class Locked(Protocol[T_co]):
    """What a key opens."""

    kind: str  # LUKS, BitLocker
    uuid: str

    def unlock(self, secret: bytes | None) -> T_co | None:
        """The content, if `secret` opens it; None stands for no secret at all."""


class Container(Locked[BlockDevice], Protocol):
    """What a room makes of an encrypted device."""

    volume_name: str
    parents: tuple[str, ...]
    warnings: Sequence[str]


def unlock_each(members: Sequence[Member], keys: Keys, read: Callable[[Member], Container]) -> Assembly:
    """The content of each member that one of `keys` opens; for the others, why not."""
    volumes: list[Volume] = []
    warnings: list[str] = []
    failures: dict[str, GuestctlError] = {}
    owners: dict[str, str] = {}
    for member in members:
        names = [member.name]
        try:
            if member.device not in keys.opened:
                container = read(member)
                if container.volume_name in owners:
                    warnings.append(f"{member.name}: the same UUID as {owners[container.volume_name]}, and not opened")
                    continue
                owners[container.volume_name] = member.name
                names.append(container.volume_name)
                device = unlock(container, member.name, keys)
                volume = Volume(container.volume_name, device, container.parents)
                keys.opened[member.device] = volume, [f"{member.name}: {text}" for text in container.warnings]
            volume, texts = keys.opened[member.device]
            owners[volume.name] = member.name
            volumes.append(volume)
            warnings += texts
        except GuestctlError as error:
            failures |= dict.fromkeys(names, error)
            warnings.append(str(error) if isinstance(error, KeyRequired) else f"{member.name}: {error}")
    return Assembly(volumes, warnings, failures)


def unlock(locked: Locked[T], name: str, keys: Keys) -> T:
    """The content of `locked`, which is called `name`, by the first key that opens it. Raises `KeyRequired`."""
    content = locked.unlock(None)
    if content is not None:
        return content
    tried = False
    for secret in keys.for_device(name, locked.uuid):
        tried = True
        content = locked.unlock(secret)
        if content is None and secret.endswith(b"\n"):  # a passphrase as an editor writes it to a file
            content = locked.unlock(secret.rstrip(b"\r\n"))
        if content is not None:
            return content
    problem = "no key that was given opens it" if tried else "no key was given"
    kind = f"{locked.kind} {locked.uuid}".rstrip()
    raise KeyRequired(f"{name}: encrypted ({kind}), and {problem}", device=name)
