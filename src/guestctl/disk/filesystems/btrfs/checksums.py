"""The checksums of metadata and data, and the hash by which names are found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from guestctl.disk.filesystems.btrfs import layout as L

Checksum = Callable[[bytes], bytes]


def checksum_of(csum_type: int) -> Checksum | None:
    """The function for a ``csum_type``; None where it is not known."""
    if csum_type == L.CSUM_CRC32C:
        from google_crc32c import value

        return lambda data: value(data).to_bytes(4, "little")
    if csum_type == L.CSUM_XXHASH64:
        from xxhash import xxh64_intdigest

        return lambda data: xxh64_intdigest(data).to_bytes(8, "little")
    if csum_type == L.CSUM_SHA256:
        return lambda data: hashlib.sha256(data).digest()
    if csum_type == L.CSUM_BLAKE2B:
        return lambda data: hashlib.blake2b(data, digest_size=32).digest()
    return None


def name_hash(name: bytes, seed: int = 0xFFFFFFFE) -> int:
    """CRC-32C that begins with `seed` and is not inverted at the end; for directories and attributes the seed is ~1."""
    from google_crc32c import extend

    inverted: int = extend(seed ^ 0xFFFFFFFF, name)
    return inverted ^ 0xFFFFFFFF
