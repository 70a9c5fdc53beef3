"""Volume descriptors: where the trees of directories begin, what the volume is called, how it boots."""

from __future__ import annotations

from typing import NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.iso9660 import layout as L

_EPOCH_DIGITS = 16


class Descriptor(NamedTuple):
    """A primary or supplementary volume descriptor."""

    offset: int
    block_size: int
    block_count: int
    label: bytes
    set_size: int
    root_record: int  # offset in bytes
    created: bytes
    modified: bytes


class Volume(NamedTuple):
    """The volume descriptors of a device that are of use."""

    primary: Descriptor
    joliet: Descriptor | None
    catalog_block: int | None  # of El Torito

    @property
    def label(self) -> str | None:
        """The volume identifier, as blkid puts it together.

        Joliet's has 16 characters of Unicode, the primary one 32 of ASCII, with ``_`` for others.
        Where one is the beginning of the other, both give what they have.
        """
        text = self.primary.label.decode("utf-8", "surrogateescape")
        if self.joliet is not None:
            unicode = self.joliet.label.decode("utf-16-be", "replace")
            pairs = list(zip(unicode, text, strict=False))
            if all(b in (a, "_") for a, b in pairs):
                text = "".join(a if b == "_" else b for a, b in pairs) + text[len(pairs) :]
            else:
                text = unicode
        return text.partition("\0")[0].rstrip() or None

    @property
    def uuid(self) -> str | None:
        """The date of modification, or of creation, in blkid's form."""
        for date in (self.primary.modified, self.primary.created):
            digits = date[:_EPOCH_DIGITS]
            if digits == b"0" * _EPOCH_DIGITS and date[_EPOCH_DIGITS:] == b"\0":
                continue
            if not any(digits):
                break
            text = digits.decode("latin-1")
            return "-".join((text[:4], *(text[at : at + 2] for at in range(4, _EPOCH_DIGITS, 2))))
        return None


def read_volume(device: BlockDevice) -> Volume:
    """Raises `InvalidFormat`, and `UnsupportedFeature` for High Sierra, which came before ISO 9660."""
    primary = joliet = catalog = None
    for offset in range(
        L.DESCRIPTORS_OFFSET, L.DESCRIPTORS_OFFSET + L.MAX_DESCRIPTORS * L.SECTOR_BYTES, L.SECTOR_BYTES
    ):
        if offset + L.SECTOR_BYTES > device.size:
            break
        data = bytes(device.read(offset, L.SECTOR_BYTES))
        if data[9:14] == L.HIGH_SIERRA_IDENTIFIER:
            raise UnsupportedFeature("High Sierra is not read", feature="High Sierra")
        kind, identifier, label, block_count, escapes, set_size, block_size = L.DESCRIPTOR.unpack_from(data)
        if identifier != L.STANDARD_IDENTIFIER or kind == L.TERMINATOR:
            break
        if kind == L.BOOT_RECORD and catalog is None and data[7 : 7 + len(L.BOOT_SYSTEM)] == L.BOOT_SYSTEM:
            (catalog,) = L.CATALOG_POINTER.unpack_from(data)
        elif kind in (L.PRIMARY, L.SUPPLEMENTARY):
            found = Descriptor(
                offset, block_size, block_count, label, set_size, offset + L.ROOT_RECORD.start,
                data[L.CREATION_DATE], data[L.MODIFICATION_DATE],
            )  # fmt: skip
            if kind == L.PRIMARY:
                primary = primary or found
            elif joliet is None and escapes.startswith(L.JOLIET_ESCAPES):
                joliet = found
    if primary is None:
        raise InvalidFormat("no primary one", structure="volume descriptor", offset=L.DESCRIPTORS_OFFSET)
    return Volume(primary, joliet, catalog)


def check_descriptor(descriptor: Descriptor) -> None:
    """Whether its numbers make sense."""
    if descriptor.block_size not in (512, 1024, 2048):
        raise _bad(f"logical blocks of {descriptor.block_size} bytes", descriptor.offset)
    if not descriptor.block_count:
        raise _bad("a volume of no blocks", descriptor.offset)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="volume descriptor", offset=offset)
