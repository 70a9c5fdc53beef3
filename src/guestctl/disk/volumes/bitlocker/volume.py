"""The decrypted volume: which cipher, and what lies where."""

from __future__ import annotations

from bisect import bisect_right

from guestctl.block import BlockDevice, Extent, MappedDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.encryption import (
    CbcCipher,
    EncryptedDevice,
    SectorCipher,
    XtsCipher,
    block_cipher,
    encrypt_blocks,
    sector_numbers,
)
from guestctl.disk.volumes.bitlocker.elephant import ElephantCipher
from guestctl.disk.volumes.bitlocker.metadata import BLOCK_BYTES, Metadata

# encryption method -> bytes of the key, mode
_METHODS = {
    0x8000: (16, "elephant"),
    0x8001: (32, "elephant"),
    0x8002: (16, "cbc"),
    0x8003: (32, "cbc"),
    0x8004: (32, "xts"),
    0x8005: (64, "xts"),
}
_TWEAK_KEY_OFFSET = 32


def open_volume(device: BlockDevice, metadata: Metadata, key: bytes) -> BlockDevice:
    """The content of the volume on `device`. Raises `InvalidFormat` and `UnsupportedFeature`."""
    cipher = _cipher(metadata, key)
    size = device.size - device.size % cipher.sector_bytes
    return _Volume(device, EncryptedDevice(device, cipher, size=size), metadata)


def _cipher(metadata: Metadata, key: bytes) -> SectorCipher:
    size = metadata.sector_bytes
    if metadata.method not in _METHODS:
        name = f"encryption method {metadata.method:#x}"
        raise UnsupportedFeature(f"BitLocker {name}", feature=name)
    key_bytes, mode = _METHODS[metadata.method]
    if len(key) < (_TWEAK_KEY_OFFSET + key_bytes if mode == "elephant" else key_bytes):
        raise InvalidFormat(f"a key of {len(key)} bytes", structure="FVEK", offset=0)
    if mode == "xts":
        return XtsCipher("aes", key[:key_bytes], size, sector_numbers)
    algorithm = block_cipher("aes", key[:key_bytes])

    def encrypted_offsets(sector: int, count: int) -> bytes:
        return encrypt_blocks(algorithm, sector_numbers(sector * size, count, size))

    if mode == "cbc":
        return CbcCipher(algorithm, size, encrypted_offsets)
    tweak = block_cipher("aes", key[_TWEAK_KEY_OFFSET : _TWEAK_KEY_OFFSET + key_bytes])
    return ElephantCipher(algorithm, tweak, size, encrypted_offsets)


class _Volume(MappedDevice):
    """`decrypted`, but for its first sectors, what BitLocker keeps for itself, and what is not encrypted yet."""

    def __init__(self, device: BlockDevice, decrypted: BlockDevice, metadata: Metadata) -> None:
        self.size = decrypted.size
        self.sector_size = decrypted.sector_size
        header = metadata.header_bytes
        if not 0 < header <= self.size or metadata.header_offset + header > self.size:
            message = f"{header} bytes at {metadata.header_offset:#x}"
            raise InvalidFormat(message, structure="volume header", offset=0)
        # (start, end, source, its offset); the first that covers an offset counts.
        pieces: list[tuple[int, int, BlockDevice | None, int]] = [(0, header, decrypted, metadata.header_offset)]
        pieces += [(start, start + BLOCK_BYTES, None, 0) for start in metadata.blocks]
        pieces.append((metadata.header_offset, metadata.header_offset + header, None, 0))
        pieces.append((0, metadata.encrypted_bytes, decrypted, 0))
        pieces.append((0, self.size, device, 0))
        edges = sorted({edge for start, end, _, _ in pieces for edge in (start, end) if edge < self.size} | {0})
        self._starts = edges
        self._extents = []
        for start, end in zip(edges, [*edges[1:], self.size], strict=True):
            first, _, source, offset = next(piece for piece in pieces if piece[0] <= start < piece[1])
            self._extents.append(Extent(start, end - start, source, 0 if source is None else offset + start - first))

    def extent(self, offset: int) -> Extent:
        return self._extents[bisect_right(self._starts, offset) - 1]
