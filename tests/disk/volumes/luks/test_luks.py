"""Volumes that cryptsetup and qemu-img encrypted, compared with what they encrypted."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance import check_device
from conftest import Run
from guestctl.block import BlockDevice, FileDevice, MemoryDevice, SliceDevice
from guestctl.core.errors import GuestctlError, InvalidFormat, KeyRequired, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Identity
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.keys import Key, Keys
from guestctl.disk.volumes.luks import assemble, identify

SECRET = "correct horse"
REDUCED_BYTES = 2 << 20
Encrypt = Callable[..., Path]


def unlock(device: BlockDevice, secret: bytes = SECRET.encode()) -> Assembly:
    return assemble([Member("/dev/sda2", device)], Keys([Key("all", secret)]))


@contextmanager
def unlocked(path: Path, secret: bytes = SECRET.encode()) -> Iterator[BlockDevice]:
    """The one volume on the device `path`."""
    with FileDevice.open(path) as device:
        found = unlock(device, secret)
        assert not found.warnings
        assert not found.failures
        (volume,) = found.volumes
        identity = identify(device)
        assert identity is not None
        assert volume.name == f"/dev/mapper/luks-{identity.uuid}"
        assert volume.parents == ("/dev/sda2",)
        yield volume.device


def blkid(run: Run, path: Path) -> Identity:
    told = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "export", path).splitlines())
    return Identity(told["TYPE"], told["USAGE"], told["VERSION"], told.get("LABEL"), told["UUID"])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--sector-size", "1024"),
        ("--sector-size", "2048", "--key-size", "256"),
        ("--sector-size", "4096"),
        ("--cipher", "aes-xts-essiv:sha256"),
        ("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"),
        ("--cipher", "aes-cbc-essiv:sha256", "--key-size", "128", "--sector-size", "4096"),
        ("--cipher", "aes-cbc-plain64", "--key-size", "128"),
        ("--cipher", "aes-cbc-plain64be", "--key-size", "192"),
        ("--cipher", "aes-cbc-plain", "--key-size", "256", "--sector-size", "2048"),
        ("--cipher", "camellia-cbc-plain64", "--key-size", "256"),
        ("--hash", "sha512"),
        ("--hash", "blake2b-512"),
        ("--hash", "blake2s-256"),
        ("--hash", "sha3-256"),
    ],
    ids=" ".join,
)
def test_luks2(run: Run, encrypt: Encrypt, data: bytes, options: tuple[str, ...]) -> None:
    path = encrypt(*options)
    with unlocked(path) as volume:
        check_device(SliceDevice(volume, 0, len(data) - REDUCED_BYTES), data[:-REDUCED_BYTES], rounds=60)


@pytest.mark.parametrize("kdf", [("argon2id", "4"), ("argon2i", "1")])
def test_argon2(encrypt: Encrypt, data: bytes, kdf: tuple[str, str]) -> None:
    cost = ("--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", kdf[1])
    with unlocked(encrypt("--pbkdf", kdf[0], *cost, cheap=False)) as volume:
        assert volume.read(4096, 65536) == data[4096 : 4096 + 65536]


@pytest.mark.parametrize(
    "options",
    [
        "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=xts,ivgen-alg=plain,hash-alg=sha1",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
    ],
)
def test_luks1(run: Run, tmp_path: Path, data: bytes, options: str) -> None:
    raw, path = tmp_path / "raw", tmp_path / "luks1"
    raw.write_bytes(data)
    secret = ("--object", f"secret,id=s0,data={SECRET}")
    luks_image(run, *secret, "-o", f"key-secret=s0,iter-time=10,{options}", raw, path)
    with unlocked(path) as volume:
        check_device(volume, data, rounds=60)
    with FileDevice.open(path) as device:
        assert FileSystem.identify(device) == blkid(run, path)


def luks_image(run: Run, *arguments: str | Path) -> None:
    """qemu-img, which measures how fast the machine is and gives up where its clock of CPU time is coarse."""
    for _ in range(20):
        try:
            run("qemu-img", "convert", "-O", "luks", *arguments)
        except AssertionError as error:
            if "Unable to get accurate CPU usage" not in str(error):
                raise
        else:
            return
    pytest.skip("needs a machine on which qemu-img can measure the cost of a key")


def test_luks1_of_cryptsetup(run: Run, tmp_path: Path, key_file: Path, data: bytes) -> None:
    """Two keys, the first of them removed; the content is qemu-img's."""
    raw, path, second = tmp_path / "raw", tmp_path / "luks1", tmp_path / "second"
    raw.write_bytes(data)
    second.write_bytes(b"a key file\0 of any bytes\n")
    path.write_bytes(bytes(8 << 20))
    fast = ("-q", "--pbkdf-force-iterations", "1000", "--key-file", key_file)
    run("cryptsetup", "luksFormat", "--type", "luks1", "--hash", "sha512", *fast, path)
    run("cryptsetup", "luksAddKey", *fast, path, second)
    opened = f"driver=luks,key-secret=s0,file.filename={path}"
    secret = ("--object", f"secret,id=s0,data={SECRET}")
    run("qemu-img", "convert", *secret, "-n", "--target-image-opts", raw, opened)
    with unlocked(path) as volume:
        check_device(SliceDevice(volume, 0, len(data)), data, rounds=20)
    run("cryptsetup", "luksKillSlot", "-q", "--key-file", second, path, "0")
    with unlocked(path, second.read_bytes()) as volume:
        assert volume.read(0, len(data)) == data
    with FileDevice.open(path) as device, pytest.raises(KeyRequired, match="no key that was given"):
        raise unlock(device).failures["/dev/sda2"]


def test_priorities(run: Run, encrypt: Encrypt, tmp_path: Path, key_file: Path) -> None:
    """A slot to be ignored does not open; one to be preferred is tried first."""
    path, second = encrypt(), tmp_path / "second"
    second.write_text("second")
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    run("cryptsetup", "luksAddKey", *cheap, "--key-file", key_file, path, second)
    run("cryptsetup", "config", "--key-slot", "1", "--priority", "prefer", path)
    with unlocked(path, b"second"), unlocked(path, b"second\n"), unlocked(path):
        pass
    run("cryptsetup", "config", "--key-slot", "1", "--priority", "ignore", path)
    with FileDevice.open(path) as device:
        assert list(unlock(device, b"second").failures) == ["/dev/sda2", f"/dev/mapper/luks-{uuid_of(device)}"]


def uuid_of(device: BlockDevice) -> str | None:
    identity = identify(device)
    assert identity is not None
    return identity.uuid


def test_identity(run: Run, shared: Path, tmp_path: Path, encrypt: Encrypt) -> None:
    image = tmp_path / "image"
    folder = shared / "blkid" / "images-fs"
    run("sh", "-c", 'xz -dc "$1" > "$2"', "sh", folder / "luks2.img.xz", image)
    told = dict(line.split("=", 1) for line in (folder / "luks2.expected").read_text().splitlines())
    with FileDevice.open(image) as device:
        assert FileSystem.identify(device) == Identity(
            "crypto_LUKS", "crypto", "2", told["ID_FS_LABEL"], told["ID_FS_UUID"]
        )
        with pytest.raises(UnsupportedFeature, match="crypto_LUKS"):
            FileSystem.detect(device)
    path = encrypt()
    run("cryptsetup", "config", "--label", "Name", path)
    with FileDevice.open(path) as device:
        assert FileSystem.identify(device) == blkid(run, path)
    content = bytearray(path.read_bytes())
    content[:4096] = bytes(4096)
    path.write_bytes(content)
    with FileDevice.open(path) as device:
        assert FileSystem.identify(device) == blkid(run, path)


def test_damaged_headers(encrypt: Encrypt, data: bytes) -> None:
    whole = encrypt().read_bytes()
    for offset in (8, 5000, 16384 + 8, 16384 + 5000):
        content = bytearray(whole)
        content[offset] ^= 1
        found = unlock(MemoryDevice(content))
        assert [warning.partition(": ")[2][:32] for warning in found.warnings] == ["one of two headers is damaged: L"]
        assert found.volumes[0].device.read(0, 65536) == data[:65536]
    content[8] ^= 1
    with pytest.raises(InvalidFormat):
        raise unlock(MemoryDevice(content)).failures["/dev/sda2"]


def test_newer_header_counts(run: Run, encrypt: Encrypt, key_file: Path, tmp_path: Path) -> None:
    path, second = encrypt(), tmp_path / "second"
    second.write_text("second")
    old = path.read_bytes()
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    run("cryptsetup", "luksAddKey", *cheap, "--key-file", key_file, path, second)
    new = path.read_bytes()
    mixed = old[:16384] + new[16384:]  # the first header was not written any more
    assert unlock(MemoryDevice(mixed), b"second").volumes
    assert not unlock(MemoryDevice(old), b"second").volumes


def test_detached_header(run: Run, tmp_path: Path, key_file: Path, data: bytes) -> None:
    header, path = tmp_path / "header", tmp_path / "data"
    path.write_bytes(data)
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key_file)
    run("cryptsetup", "reencrypt", "--encrypt", "-q", "--type", "luks2", *cheap, "--header", header, path)
    backup = tmp_path / "backup"
    run("cryptsetup", "luksHeaderBackup", "--header-backup-file", backup, header)
    for file in (header, backup):
        with FileDevice.open(file) as first, FileDevice.open(path) as second:
            members = [Member("/dev/sda", first), Member("/dev/sdb", second)]
            found = assemble(members, Keys([Key("all", SECRET.encode())]))
            assert not found.warnings
            assert found.volumes[0].parents == ("/dev/sdb", "/dev/sda")
            check_device(found.volumes[0].device, data, rounds=20)
            for others in ([], [Member("/dev/sdc", MemoryDevice(data)), members[1]]):
                found = assemble([members[0], *others], Keys([Key("all", SECRET.encode())]))
                assert found.warnings == [
                    f"/dev/sda: a detached header, and {len(others)} devices that could be what it belongs to"
                ]


def change(image: bytes, edit: Callable[[Any], object]) -> MemoryDevice:
    """Both headers with changed metadata and right checksums."""
    content = bytearray(image)
    for start in (0, 16384):
        metadata = json.loads(content[start + 4096 : start + 16384].partition(b"\0")[0])
        edit(metadata)
        content[start + 4096 : start + 16384] = json.dumps(metadata).encode().ljust(12288, b"\0")
        seal(content, start)
    return MemoryDevice(content)


def seal(content: bytearray, start: int) -> None:
    content[start + 448 : start + 512] = bytes(64)
    digest = hashlib.sha256(content[start : start + 16384]).digest()
    content[start + 448 : start + 480] = digest


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("segments 0 integrity", {"type": "hmac(sha256)"}, "integrity"),
        ("segments 0 encryption", "serpent-xts-plain64", "the cipher serpent"),
        ("segments 0 encryption", "aes-cbc-tcw", "initialization vectors by tcw"),
        ("segments 0 encryption", "aes-gcm-random", "the cipher aes-gcm-random"),
        ("segments 0 type", "hw-opal", "a segment of type hw-opal"),
        ("config requirements", {"mandatory": ["online-reencrypt-v2"]}, "requires online-reencrypt-v2"),
        ("keyslots 0 kdf iterations", 4_000_000_000, "PBKDF2 of 4000000000 iterations"),
        ("digests 0 iterations", 400_000_000, "PBKDF2 of 400000000 iterations"),
        ("keyslots 0 kdf hash", "whirlpool2", "the hash whirlpool2"),
        ("keyslots 0 kdf type", "scrypt", "keys derived by scrypt"),
        ("digests 0 type", "sha256", "a digest of type sha256"),
    ],
)
def test_refused_by_name(encrypt: Encrypt, path: str, value: object, message: str) -> None:
    def edit(metadata: Any) -> None:
        *parents, last = path.split()
        for name in parents:
            metadata = metadata[name]
        metadata[last] = value

    found = unlock(change(encrypt().read_bytes(), edit))
    assert not found.volumes
    with pytest.raises(UnsupportedFeature, match=message):
        raise found.failures["/dev/sda2"]


def test_reencryption_under_way(run: Run, encrypt: Encrypt, key_file: Path) -> None:
    path = encrypt()
    run("cryptsetup", "reencrypt", "--init-only", "-q", "--key-file", key_file, path)
    with FileDevice.open(path) as device, pytest.raises(UnsupportedFeature, match="online-reencrypt"):
        raise unlock(device).failures["/dev/sda2"]


def test_segments(encrypt: Encrypt, data: bytes) -> None:
    """The volume in two parts, with its initialization vectors, and a plain one after them."""
    image = encrypt().read_bytes()

    def edit(metadata: Any) -> None:
        first = metadata["segments"]["0"]
        start = int(first["offset"])
        second = first | {"offset": str(start + (1 << 20)), "iv_tweak": str((1 << 20) // 512), "size": "4096"}
        metadata["segments"] = {
            "0": first | {"size": str(1 << 20)},
            "1": second,
            "2": {"type": "linear", "offset": "8192", "size": "1024"},
        }
        metadata["digests"]["0"]["segments"] = ["0", "1"]

    device = change(image, edit)
    found = unlock(device)
    assert not found.warnings
    (volume,) = found.volumes
    check_device(volume.device, data[: (1 << 20) + 4096] + bytes(device.read(8192, 1024)), rounds=40)


def test_keys_are_asked_for_and_not_shown(encrypt: Encrypt) -> None:
    asked = []

    def ask(name: str) -> bytes | None:
        asked.append(name)
        return SECRET.encode()

    with FileDevice.open(encrypt()) as device:
        keys = Keys([Key("/dev/sdb", b"hunter2")], ask=ask)
        members = [Member("/dev/sda2", device)]
        assert assemble(members, keys).volumes == assemble(members, keys).volumes
        assert asked == ["/dev/sda2"]
        shown = repr(keys) + repr(assemble(members, keys)) + repr(unlock(device, b"hunter2"))
        assert "hunter2" not in shown
        assert SECRET not in shown
        assert "no key was given" in str(assemble(members, Keys()).failures["/dev/sda2"])


def test_damage(encrypt: Encrypt, fuzz: Callable[..., None]) -> None:
    """Mutants of the header, half of them with right checksums: a volume or a typed error."""
    image = encrypt().read_bytes()[: 1 << 20]

    def look(mutant: bytearray) -> None:
        found = unlock(MemoryDevice(mutant))
        for volume in found.volumes:
            volume.device.read(0, min(volume.device.size, 4096))

    fuzz(image, look, places=(range(512), range(4096, 5200)), seal=lambda mutant: seal(mutant, 0))


def test_damage_of_luks1(run: Run, tmp_path: Path, key_file: Path, fuzz: Callable[..., None]) -> None:
    path = tmp_path / "luks1"
    path.write_bytes(bytes(4 << 20))
    fast = ("-q", "--pbkdf-force-iterations", "1000", "--key-file", key_file)
    run("cryptsetup", "luksFormat", "--type", "luks1", *fast, path)

    def look(mutant: bytearray) -> None:
        for volume in unlock(MemoryDevice(mutant)).volumes:
            volume.device.read(0, min(volume.device.size, 4096))

    fuzz(path.read_bytes(), look, places=(range(592),))


def test_two_of_one_uuid(encrypt: Encrypt) -> None:
    path = encrypt()
    with FileDevice.open(path) as first, FileDevice.open(path) as second:
        members, keys = [Member("/dev/sda", first), Member("/dev/sdb", second)], Keys([Key("all", SECRET.encode())])
        for _ in range(2):
            found = assemble(members, keys)
            assert [volume.parents for volume in found.volumes] == [("/dev/sda",)]
            assert found.warnings == ["/dev/sdb: the same UUID as /dev/sda, and not opened"]


def test_header_that_ends_early(encrypt: Encrypt) -> None:
    image = encrypt().read_bytes()
    for size in (0, 1, 6, 511, 591, 592, 4095, 4096, 16383, 16384, 40000):
        device = MemoryDevice(image[:size])
        if identify(device) is None:
            assert size < 592
        else:
            with pytest.raises(GuestctlError):
                raise unlock(device).failures["/dev/sda2"]
    for version in (0, 3, 65535):
        struct.pack_into(">H", changed := bytearray(image), 6, version)
        changed[16384 : 16384 + 6] = bytes(6)
        assert identify(MemoryDevice(changed)) is None
