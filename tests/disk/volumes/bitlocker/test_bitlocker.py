"""Volumes that Windows encrypted, from cryptsetup's tests: the hash of the whole decrypted volume, by every key."""

from __future__ import annotations

import configparser
import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from conftest import Run
from guestctl.block import BlockDevice, FileDevice, MemoryDevice, Overlay, SliceDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, KeyRequired, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.bitlocker import assemble, identify
from guestctl.disk.volumes.keys import Key, Keys

Unpack = Callable[[str], Path]
KEY_FILE = "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK"
GUID_OFFSET = 160
NORMAL = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")


@pytest.fixture
def unpack(run: Run, shared: Path, tmp_path: Path) -> Unpack:
    def _unpack(name: str) -> Path:
        image = tmp_path / name
        run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", shared / "bitlocker" / f"{name}.img.xz", image)
        return image

    return _unpack


@pytest.fixture(scope="session")
def facts(shared: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(shared / "bitlocker" / "images.conf")
    return parser


def unlock(device: BlockDevice, *secrets: bytes) -> Assembly:
    return assemble([Member("/dev/sda1", device)], Keys([Key("all", secret) for secret in secrets]))


def sha256(device: BlockDevice) -> str:
    digest = hashlib.sha256()
    for buffer in device.buffers(0, device.size):
        digest.update(buffer)
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bitlk-aes-xts-128", ("PW", "RP")),
        ("bitlk-aes-cbc-elephant-128", ("PW", "RP")),
        ("bitlk-togo-aes-xts-128", ("PW", "RP")),
        ("bitlk-aes-xts-128-startup-key", ("BEK", "RP")),
        ("bitlk-aes-xts-128-clearkey-only", ("",)),
    ],
)
def test_whole_volume(
    unpack: Unpack, facts: configparser.ConfigParser, shared: Path, name: str, kinds: tuple[str, ...]
) -> None:
    known = facts[name]
    with FileDevice.open(unpack(name)) as device:
        start = None
        for kind in kinds:
            secret = (shared / "bitlocker" / KEY_FILE).read_bytes() if kind == "BEK" else known.get(kind, "").encode()
            found = unlock(device, *([secret] if secret else []))
            assert not found.warnings
            (volume,) = found.volumes
            assert (volume.name, volume.parents) == (f"/dev/mapper/bitlk-{known['GUID']}", ("/dev/sda1",))
            if start is None:
                assert sha256(volume.device) == known["SHA256SUM"]
                start = volume.device.read(0, 16384)
            assert volume.device.read(0, 16384) == start
        identity = FileSystem.identify(volume.device)
        assert identity is not None
        assert identity.uuid == known["UUID"]
        assert identify(device) == FileSystem.identify(device)
        assert getattr(identify(device), "uuid", None) == known["GUID"]


def test_random_reads(unpack: Unpack) -> None:
    """Around the first block of metadata and the volume header."""
    with FileDevice.open(unpack("bitlk-aes-xts-128-clearkey-only")) as device:
        (volume,) = unlock(device).volumes
        part = SliceDevice(volume.device, 35_000_000, 1 << 20)
        check_device(part, bytes(volume.device.read(35_000_000, 1 << 20)), rounds=60)


def test_cbc_without_diffuser(unpack: Unpack, facts: configparser.ConfigParser) -> None:
    """Of a volume that Windows encrypts as it is written nothing says how far that went; its first sectors are."""
    name = "bitlk-partially-encrypted-aes-cbc-128"
    with FileDevice.open(unpack(name)) as device:
        (failure, *_) = unlock(device, b"anaconda").failures.values()
        assert isinstance(failure, UnsupportedFeature)
        assert failure.feature == "BitLocker encryption on write"
        changed = Overlay(device)
        changed.write(GUID_OFFSET, NORMAL)
        (volume,) = unlock(changed, b"anaconda").volumes
        identity = FileSystem.identify(volume.device)
    assert identity is not None
    assert (identity.type, identity.uuid) == ("ntfs", facts[name]["UUID"])


def blocks_of(device: BlockDevice) -> tuple[int, ...]:
    return struct.unpack("<3Q", device.read(GUID_OFFSET + 16, 24))


def sealed(block: bytearray) -> bytearray:
    """A block of metadata with its checksum."""
    size = struct.unpack_from("<H", block, 8)[0] * 16
    if size + 8 <= len(block):
        struct.pack_into("<I", block, size + 4, zlib.crc32(block[:size]))
    return block


def change(device: Overlay, field: int, value: bytes) -> None:
    """Change a field of all blocks of metadata."""
    for offset in blocks_of(device):
        block = bytearray(device.read(offset, 4096))
        block[field : field + len(value)] = value
        device.write(offset, bytes(sealed(block)))


def test_encryption_under_way(unpack: Unpack) -> None:
    """The header says how far the volume is encrypted; the rest of it is as it was."""
    done = 80 << 20
    with FileDevice.open(unpack("bitlk-aes-xts-128-clearkey-only")) as device:
        (whole,) = unlock(device).volumes
        changed = Overlay(device)
        changed.write(done, bytes(range(256)) * 1024)
        change(changed, 12, struct.pack("<HHQ", 2, 4, done))
        (partly,) = unlock(changed).volumes
        for start, length in ((0, 65536), (done - 65536, 65536), (36 << 20, 1 << 20)):
            assert partly.device.read(start, length) == whole.device.read(start, length)
        assert partly.device.read(done - 4, 4 + 65536)[4:] == changed.read(done, 65536)
        for field, value in ((24, 4096), (12, 1)):  # a piece is being converted; decrypted
            change(changed, field, struct.pack("<H", value))
            (failure, *_) = unlock(changed).failures.values()
            assert isinstance(failure, UnsupportedFeature)
            assert "state" in failure.feature


def test_keys(unpack: Unpack) -> None:
    with FileDevice.open(unpack("bitlk-aes-xts-128")) as device:
        for secrets in ((b"Anaconda",), (b"\xff\xfe", b"235818-357951-253979-013365-241120-245575-342914-591911"), ()):
            found = unlock(device, *secrets)
            assert not found.volumes
            error = found.failures["/dev/sda1"]
            assert isinstance(error, KeyRequired)
            assert error.device == "/dev/sda1"
            assert str(error).startswith("/dev/sda1: encrypted (BitLocker 8f595209-f5b9-49a0-85d4-cb8f80258c27)")
            assert ("no key was given" in str(error)) == (not secrets)
            assert not any(repr(secret) in repr(found) for secret in secrets)
        assert unlock(device, b"anaconda\n").volumes


def test_damaged_copies(unpack: Unpack) -> None:
    with FileDevice.open(unpack("bitlk-aes-xts-128-clearkey-only")) as device:
        start = unlock(device).volumes[0].device.read(0, 4096)
        changed = Overlay(device)
        first, second, third = blocks_of(device)
        changed.write(first + 200, b"X")
        changed.write(second, b"X")
        found = unlock(changed)
        assert [text[:45] for text in found.warnings] == ["/dev/sda1: a copy of the metadata is damaged:"]
        assert found.volumes[0].device.read(0, 4096) == start
        changed.write(third + 100, b"X")
        with pytest.raises(ChecksumMismatch):
            raise unlock(changed).failures["/dev/sda1"]


def test_identity(run: Run, shared: Path, tmp_path: Path, unpack: Unpack) -> None:
    folder = shared / "blkid" / "images-fs"
    image = tmp_path / "image"
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", folder / "bitlocker-win7.img.xz", image)
    told = dict(line.split("=", 1) for line in (folder / "bitlocker-win7.expected").read_text().splitlines())
    with FileDevice.open(image) as device:
        label = told["ID_FS_LABEL_ENC"].replace("\\x20", " ").replace("\\x2f", "/")
        assert FileSystem.identify(device) == Identity("BitLocker", "crypto", "2", label, told["ID_FS_UUID"])
    vista = bytearray(512)
    vista[:11] = b"\xeb\x52\x90-FVE-FS-"
    assert FileSystem.identify(MemoryDevice(vista)) == Identity("BitLocker", "crypto", "1")
    (failure,) = unlock(MemoryDevice(vista)).failures.values()
    assert isinstance(failure, UnsupportedFeature)
    assert failure.feature == "BitLocker version 1"
    assert identify(MemoryDevice(vista[:511])) is None


@pytest.mark.parametrize("name", ["bitlk-aes-xts-128-clearkey-only", "bitlk-aes-xts-128-startup-key"])
def test_damage(
    unpack: Unpack, shared: Path, fuzz: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of the metadata with right checksums; keys are stretched a thousand times less."""
    monkeypatch.setattr("guestctl.disk.volumes.bitlocker.protectors._STRETCHES", 1 << 10)
    monkeypatch.setenv("GUESTCTL_FUZZ_SECONDS", os.environ.get("GUESTCTL_FUZZ_SECONDS", "2"))
    secret = (shared / "bitlocker" / KEY_FILE).read_bytes()
    with FileDevice.open(unpack(name)) as device:
        first, *others = blocks_of(device)
        changed = Overlay(device)
        for offset in others:
            changed.write(offset, b"X")

        def look(mutant: bytearray) -> None:
            changed.write(0, bytes(mutant[:512]))
            changed.write(first, bytes(mutant[512:]))
            try:
                identify(changed)
            except GuestctlError as error:
                assert str(error)
            for volume in unlock(changed, secret, b"password").volumes:
                volume.device.read(0, min(volume.device.size, 4096))

        def seal(mutant: bytearray) -> None:
            mutant[512:] = sealed(mutant[512:])

        image = bytes(device.read(0, 512)) + bytes(device.read(first, 4096))
        fuzz(image, look, places=(range(512), range(512, 624), range(576, 1612)), seal=seal)
