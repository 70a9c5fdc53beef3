"""``EncryptedDevice``: the plain text of sectors that another device holds."""

from __future__ import annotations

from guestctl.block import BlockDevice, CachedDevice
from guestctl.block.device import Buffer
from guestctl.disk.encryption.cipher import SPARE_BYTES, SectorCipher

# A sector costs what it costs, wherever it is read; metadata is read in blocks of some KiB, here and there.
_PAGE_BYTES = 4 << 10
_PAGES = 4096
_DIRECT_BYTES = 16 << 10  # from here on a read is not worth the cache
_UNIT_BYTES = 1 << 20


class EncryptedDevice(BlockDevice):
    """`size` bytes of `parent` from `start`, decrypted; its first sector has the number `first_sector`.

    `start` and `size` are whole sectors of the cipher.
    """

    def __init__(
        self, parent: BlockDevice, cipher: SectorCipher, *, start: int = 0, size: int, first_sector: int = 0
    ) -> None:
        self.size = size
        self.sector_size = max(parent.sector_size, cipher.sector_bytes)
        self._sectors = _Sectors(parent, cipher, start, size, first_sector)
        self._cached = CachedDevice(self._sectors, page_count=_PAGES, page_bytes=_PAGE_BYTES)

    def read(self, offset: int, length: int) -> Buffer:
        if length < _DIRECT_BYTES:
            return self._cached.read(offset, length)
        return self._sectors.read(offset, length)


class _Sectors(BlockDevice):
    """As `EncryptedDevice`, but whoever reads a byte twice has it decrypted twice."""

    def __init__(self, parent: BlockDevice, cipher: SectorCipher, start: int, size: int, first_sector: int) -> None:
        self.size = size
        self._parent = parent
        self._cipher = cipher
        self._start = start
        self._first_sector = first_sector

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        sector_bytes = self._cipher.sector_bytes
        first = offset - offset % sector_bytes
        end = offset + length + -(offset + length) % sector_bytes
        plain = memoryview(bytearray(end - first + SPARE_BYTES))
        for at in range(first, end, _UNIT_BYTES):
            data = self._parent.read(self._start + at, min(_UNIT_BYTES, end - at))
            target = plain[at - first : at - first + len(data) + SPARE_BYTES]
            self._cipher.decrypt_into(data, self._first_sector + at // sector_bytes, target)
        return plain[offset - first : offset - first + length].toreadonly()
