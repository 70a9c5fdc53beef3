"""LUKS devices: of qemu-img (version 1), and of cryptsetup, which encrypts a file in place without a device mapper."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Run

SECRET = "correct horse"
REDUCED_BYTES = 2 << 20  # what the header takes away from the end of the data
CHEAP = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")

Encrypt = Callable[..., Path]


@pytest.fixture
def data() -> bytes:
    return random.Random(4).randbytes(4 << 20)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET)
    return path


@pytest.fixture
def encrypt(run: Run, tmp_path: Path, key_file: Path, data: bytes) -> Encrypt:
    """Make a LUKS2 device of `data`, the last `REDUCED_BYTES` of which are lost, with options of cryptsetup."""

    def _encrypt(*options: str, cheap: bool = True, content: bytes = data) -> Path:
        path = tmp_path / "luks2"
        path.write_bytes(content)
        sizes = ("--reduce-device-size", "2M", "--luks2-metadata-size", "16k", "--luks2-keyslots-size", "512k")
        arguments = (*sizes, *(CHEAP if cheap else ()), *options, "--key-file", key_file, path)
        run("cryptsetup", "reencrypt", "--encrypt", "--type", "luks2", "-q", *arguments)
        return path

    return _encrypt
