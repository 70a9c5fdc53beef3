"""What both versions of the header say, in the words of LUKS2: key slots, digests and segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat

PRIMARY_MAGIC = b"LUKS\xba\xbe"
SECONDARY_MAGIC = b"SKUL\xba\xbe"
SECTOR_BYTES = 512  # of key material, and the unit of initialization vectors


class Kdf(NamedTuple):
    """How a key is derived from a passphrase; ``memory`` is in KiB."""

    type: str
    salt: bytes
    hash: str = ""
    iterations: int = 0
    memory: int = 0
    cpus: int = 0


class KeySlot(NamedTuple):
    """The volume key, split and encrypted; offset in bytes from the start of the header's device."""

    id: str
    kdf: Kdf
    area_offset: int
    area_encryption: str
    area_key_bytes: int
    key_bytes: int
    stripes: int
    stripe_hash: str


class Digest(NamedTuple):
    """By which a volume key is told to be right."""

    hash: str
    salt: bytes
    iterations: int
    digest: bytes


class Segment(NamedTuple):
    """A part of the volume; ``size`` is None up to the end of the device, ``encryption`` None where it is plain."""

    offset: int
    size: int | None
    encryption: str | None
    sector_bytes: int = SECTOR_BYTES
    iv_tweak: int = 0


class Header(NamedTuple):
    """The header; ``slots`` are those of ``digest``, in the order in which they are to be tried."""

    uuid: str
    slots: Sequence[KeySlot]
    digest: Digest
    segments: Sequence[Segment]
    warnings: Sequence[str] = ()


def text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def invalid(message: str, offset: int, structure: str = "LUKS header") -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset)
