"""Encrypted qcow2 images of qemu-img, read with their keys and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance import check_device
from conftest import Run
from guestctl.cli import cli
from guestctl.core.errors import KeyRequired
from guestctl.disk import DiskReader
from guestctl.disk.volumes.keys import Key, Keys
from guestctl.machine import Machine

KEYS = Keys([Key("all", b"abc")])


def write(run: Run, path: Path, *commands: str) -> None:
    secret = ("--object", "secret,id=s0,data=abc")
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", *secret, "--image-opts", *words, f"driver=qcow2,file.filename={path},encrypt.key-secret=s0")


def flat(run: Run, path: Path, tmp_path: Path) -> bytes:
    raw = tmp_path / "flat"
    opened = f"driver=qcow2,file.filename={path},encrypt.key-secret=s0"
    run("qemu-img", "convert", "--object", "secret,id=s0,data=abc", "--image-opts", "-O", "raw", opened, raw)
    return raw.read_bytes()


@pytest.mark.parametrize("cipher", ["luks", "aes"])
def test_with_a_key(tmp_path: Path, run: Run, cipher: str, encrypted: Callable[[Path, str], None]) -> None:
    path, content = tmp_path / "encrypted.qcow2", tmp_path / "content"
    encrypted(path, cipher)
    content.write_bytes(random.Random(0).randbytes(150_016))
    write(run, path, f"write -s {content} 300k 150016", "write -P 7 700k 3k", "write -z 64k 64k")
    expected = flat(run, path, tmp_path)
    assert content.read_bytes() in expected
    with DiskReader.open(path, keys=KEYS) as reader:
        check_device(reader, expected, rounds=100)


@pytest.mark.parametrize("cipher", ["luks", "aes"])
def test_without_a_key(tmp_path: Path, cipher: str, encrypted: Callable[[Path, str], None]) -> None:
    path = tmp_path / "encrypted.qcow2"
    encrypted(path, cipher)
    asked = []

    def ask(name: str) -> bytes | None:
        asked.append(name)
        return None

    with DiskReader.open(path, keys=Keys(ask=ask)) as reader:
        for offset in (0, 512 << 10):
            with pytest.raises(KeyRequired, match="no key was given") as caught:
                reader.read(offset, 512)
            with pytest.raises(KeyRequired):
                list(reader.runs(offset, 512))
        assert caught.value.device == str(path)
        assert reader.info()["encrypted"]
    assert asked == [str(path)]
    with Machine.open(path) as machine:
        assert [disk.name for disk in machine.disks] == ["/dev/sda"]
        assert not machine.guests()
        assert any("no key was given" in warning for warning in machine.warnings)
        with pytest.raises(KeyRequired):
            machine.filesystem("/dev/sda")


def test_wrong_key(tmp_path: Path, encrypted: Callable[[Path, str], None]) -> None:
    path = tmp_path / "encrypted.qcow2"
    encrypted(path, "luks")
    with (
        DiskReader.open(path, keys=Keys([Key(str(path), b"abd")])) as reader,
        pytest.raises(KeyRequired, match="no key that was given opens it") as caught,
    ):
        reader.read(0, 512)
    assert "abd" not in str(caught.value)


def test_backing_file_and_snapshot(tmp_path: Path, run: Run, encrypted: Callable[[Path, str], None]) -> None:
    """An encrypted image below a plain one, and an older state of it."""
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    encrypted(base, "luks")
    before = flat(run, base, tmp_path)
    opened = f"driver=qcow2,file.filename={base},encrypt.key-secret=s0"
    run("qemu-img", "snapshot", "--object", "secret,id=s0,data=abc", "--image-opts", "-c", "old", opened)
    write(run, base, "write -P 9 0 200k")
    with DiskReader.open(base, keys=KEYS, snapshot="old") as reader:
        check_device(reader, before, rounds=20)
    expected = flat(run, base, tmp_path)
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top, "1M")
    with DiskReader.open(top, keys=KEYS) as reader:
        check_device(reader, expected, rounds=20)


def test_conversion(tmp_path: Path, run: Run, encrypted: Callable[[Path, str], None]) -> None:
    path, key, target = tmp_path / "encrypted.qcow2", tmp_path / "key", tmp_path / "plain.raw"
    encrypted(path, "luks")
    key.write_text("abc\n")
    words = ["convert", "--key", f"all:file:{key}", str(path), str(target)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == flat(run, path, tmp_path)
    assert CliRunner().invoke(cli, ["compare", "--key", "all:key:abc", str(path), str(target)]).exit_code == 0
