"""Reading LUKS2 volumes, beside what ``openssl speed`` says of the same cipher on one thread. No root.

usage: bench_luks.py
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from common import ROUNDS

from guestctl.block import BlockDevice, FileDevice
from guestctl.disk.volumes import Member
from guestctl.disk.volumes.keys import Key, Keys
from guestctl.disk.volumes.luks import assemble

_BYTES = 256 << 20
_CASES = (
    ("aes-xts-plain64", 512, 512),
    ("aes-xts-plain64", 512, 4096),
    ("aes-cbc-essiv:sha256", 256, 512),
    ("aes-cbc-plain64", 256, 4096),
)


def openssl(cipher: str) -> float:
    """Bytes a second, in the largest of its blocks."""
    words = ("openssl", "speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-decrypt", "-evp", cipher)
    table = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return float(re.findall(r"([\d.]+)k", table)[-1]) * 1000


def reading(device: BlockDevice) -> float:
    """Bytes a second, by the time of the processor."""
    start = time.process_time()
    for _ in device.buffers(0, device.size):
        pass
    return device.size / (time.process_time() - start)


with tempfile.TemporaryDirectory() as directory:
    key, image = Path(directory, "key"), Path(directory, "image")
    key.write_text("key")
    for cipher, bits, sector in _CASES:
        with image.open("wb") as file:
            for _ in range(_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        cheap = ("-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key)
        shape = ("--cipher", cipher, "--key-size", str(bits), "--sector-size", str(sector))
        subprocess.run(["cryptsetup", "luksFormat", "--type", "luks2", *cheap, *shape, image], check=True)
        name = "-".join(("aes-256", cipher.split("-")[1]))
        with FileDevice.open(image) as parent:
            (volume,) = assemble([Member("image", parent)], Keys([Key("all", b"key")])).volumes
            rates = [(reading(volume.device), openssl(name)) for _ in range(ROUNDS)]
        ours, theirs = (max(rate) for rate in zip(*rates, strict=True))
        print(
            f"{cipher:<22} sectors of {sector:>4}: guestctl {ours / 1e6:6.0f} MB/s, "
            f"openssl speed {theirs / 1e6:6.0f} MB/s, {ours / theirs:4.0%}"
        )
