"""Descriptor tags (3/7.2, 4/7.2), with which every descriptor begins."""

from __future__ import annotations

from binascii import crc_hqx

from guestctl.core.errors import ChecksumMismatch, InvalidFormat
from guestctl.disk.filesystems.udf import layout as L


def check_tag(data: bytes, offset: int, location: int | None, *, verify: bool = True) -> int:
    """The identifier of the descriptor that begins `data`, which lies at `offset` on the device.

    Raises `InvalidFormat` where its checksums are wrong, or it belongs to another `location`. A CRC of more
    than there is does not count, as Linux has it.
    """
    identifier, _, checksum, _, crc, crc_length, found = L.TAG.unpack_from(data)
    if not verify:
        return int(identifier)
    actual = (sum(data[: L.TAG_BYTES]) - data[4]) & 0xFF
    if checksum != actual:
        raise ChecksumMismatch(structure="descriptor tag", offset=offset, expected=checksum, actual=actual)
    if location is not None and location != found:
        raise InvalidFormat(
            f"it is that of block {found}", structure="descriptor tag", offset=offset, expected=location, actual=found
        )
    if L.TAG_BYTES + crc_length <= len(data):
        actual = crc_hqx(data[L.TAG_BYTES : L.TAG_BYTES + crc_length], 0)
        if crc != actual:
            raise ChecksumMismatch(structure="descriptor", offset=offset, expected=crc, actual=actual)
    return int(identifier)
