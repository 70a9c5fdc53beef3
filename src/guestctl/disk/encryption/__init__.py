"""Sectors that are encrypted one by one: what LUKS, BitLocker and encrypted qcow2 images have in common.

`EncryptedDevice` is the transforming layer; a `SectorCipher` decrypts a range of whole sectors.
"""

from __future__ import annotations

from guestctl.disk.encryption.cipher import (
    SPARE_BYTES,
    CbcCipher,
    Initialization,
    SectorCipher,
    block_cipher,
    encrypt_blocks,
    sector_numbers,
)
from guestctl.disk.encryption.device import EncryptedDevice
from guestctl.disk.encryption.xts import XtsCipher

__all__ = [
    "SPARE_BYTES",
    "CbcCipher",
    "EncryptedDevice",
    "Initialization",
    "SectorCipher",
    "XtsCipher",
    "block_cipher",
    "encrypt_blocks",
    "sector_numbers",
]
