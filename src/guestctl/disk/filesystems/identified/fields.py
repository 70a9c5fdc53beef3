"""Labels, UUIDs and versions at fixed places."""

from __future__ import annotations

from uuid import UUID

from guestctl.block import BlockDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.filesystems import Probe


def read_at(device: BlockDevice, offset: int, length: int) -> bytes:
    """Up to `length` bytes; fewer where the device ends."""
    if not 0 <= offset < device.size:
        return b""
    return bytes(device.read(offset, min(length, device.size - offset)))


def text(data: bytes, encoding: str = "utf-8") -> str | None:
    """Up to the first zero, without blanks at the end; what is no text as ``os.fsdecode`` has it."""
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    return data.decode(encoding, errors).partition("\0")[0].rstrip() or None


def uuid(data: bytes) -> str | None:
    """None where it is cut off or zero."""
    return str(UUID(bytes=data)) if len(data) == 16 and any(data) else None


def read_fields(device: BlockDevice, magic_offset: int, probe: Probe) -> Identity:
    """The identity by `Probe.fields`."""
    fields = probe.fields
    assert fields is not None

    def value(place: tuple[int, int] | None) -> str | None:
        return text(read_at(device, magic_offset + place[0], place[1])) if place is not None else None

    if isinstance(fields.uuid, int):
        identifier = uuid(read_at(device, magic_offset + fields.uuid, 16))
    else:
        identifier = value(fields.uuid)
    version = fields.version if isinstance(fields.version, str) else value(fields.version)
    return Identity(probe.type, probe.usage, version, value(fields.label), identifier)
