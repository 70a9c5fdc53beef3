"""Sectors encrypted by the cryptography library, one by one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from conformance import check_device
from guestctl.block import MemoryDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.encryption import CbcCipher, EncryptedDevice, SectorCipher, XtsCipher, block_cipher, sector_numbers

KEY = random.Random(1).randbytes(64)
PLAIN = random.Random(2).randbytes(300 * 4096)
FIRST = (1 << 40) + 5


def encrypted(sector_bytes: int, mode: Callable[[bytes], modes.XTS | modes.CBC], key: bytes) -> bytes:
    parts = []
    for number in range(len(PLAIN) // sector_bytes):
        vector = (FIRST + number).to_bytes(16, "little")
        encryptor = Cipher(algorithms.AES(key), mode(vector)).encryptor()
        parts.append(encryptor.update(PLAIN[number * sector_bytes : (number + 1) * sector_bytes]))
    return b"".join(parts)


@pytest.mark.parametrize("sector_bytes", [512, 1024, 4096])
@pytest.mark.parametrize("kind", ["xts-128", "xts-256", "xts without the library's", "cbc-128", "cbc-256"])
def test_device(sector_bytes: int, kind: str) -> None:
    key = KEY[: 16 if kind == "cbc-128" else 64 if kind == "xts-256" else 32]
    cipher: SectorCipher
    if kind.startswith("xts"):
        content = encrypted(sector_bytes, modes.XTS, key)
        cipher = XtsCipher("aes", key, sector_bytes, sector_numbers)
        if "without" in kind:
            cipher._native_key = None
    else:
        content = encrypted(sector_bytes, modes.CBC, key)
        cipher = CbcCipher(block_cipher("aes", key), sector_bytes, sector_numbers)
    parent = MemoryDevice(b"before" * 512 + content)
    device = EncryptedDevice(parent, cipher, start=3072, size=len(PLAIN), first_sector=FIRST)
    check_device(device, PLAIN, rounds=30)


def test_sector_numbers() -> None:
    for first, count, step in ((0, 1, 1), (7, 5, 1), ((1 << 62) - 1, 3, 8), ((1 << 50), 200, 512)):
        numbers = [(first + index * step).to_bytes(16, "little") for index in range(count)]
        assert sector_numbers(first, count, step) == b"".join(numbers)


def test_refused() -> None:
    for name, size in (("serpent", 32), ("twofish", 16), ("aes", 20), ("sm4", 32), ("camellia", 8)):
        with pytest.raises(UnsupportedFeature, match=name):
            block_cipher(name, bytes(size))
