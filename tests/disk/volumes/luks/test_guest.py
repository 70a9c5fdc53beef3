"""A guest on an encrypted partition, from the command line: with a key, with a wrong one, without, and asked for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Run
from guestctl.core.errors import KeyRequired
from guestctl.disk.volumes.keys import Key, Keys
from guestctl.machine import Machine

SECRET = "correct horse"
PARTITION_BYTES = 1 << 20  # where the partition begins
Encrypt = Callable[..., Path]


@pytest.fixture
def disk(run: Run, encrypt: Encrypt, tmp_path: Path) -> Path:
    """An MBR disk whose one partition is LUKS2, and holds the root of a guest."""
    tree, filesystem = tmp_path / "tree", tmp_path / "root.ext4"
    for name in ("etc", "usr/bin"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/hostname").write_text("locked\n")
    (tree / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, filesystem, "6M")
    encrypted = encrypt(content=filesystem.read_bytes() + bytes(2 << 20)).read_bytes()
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(PARTITION_BYTES) + encrypted)
    run("sfdisk", "-q", image, input=f"start={PARTITION_BYTES // 512}, type=83\n")
    return image


def guestctl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "guestctl", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_with_a_key(disk: Path, key_file: Path) -> None:
    for key in (f"/dev/sda1:key:{SECRET}", f"all:file:{key_file}"):
        done = guestctl("cat", "--key", key, disk, "/etc/hostname")
        assert (done.returncode, done.stdout, done.stderr) == (0, "locked\n", "")
    done = guestctl("inspect", "--json", "--key", f"all:key:{SECRET}", disk)
    report = json.loads(done.stdout)
    (guest,) = report["guests"]
    assert guest["root"].startswith("/dev/mapper/luks-")
    assert guest["hostname"] == "locked"
    assert report["warnings"] == []
    assert SECRET not in done.stdout + done.stderr
    uuid = guest["root"].removeprefix("/dev/mapper/luks-")
    assert guestctl("ls", "--key", f"{uuid.upper()}:key:{SECRET}", disk, "/etc").stdout.split() == [
        "hostname",
        "os-release",
    ]


def test_without_a_key(disk: Path) -> None:
    done = guestctl("inspect", "--json", disk)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["guests"] == []
    assert [(found["device"], found["type"]) for found in report["filesystems"]] == [("/dev/sda1", "crypto_LUKS")]
    (warning,) = report["warnings"]
    assert warning.startswith("/dev/sda1: encrypted (LUKS ")
    assert warning.endswith("no key was given")
    for words in (("cat", disk, "/etc/hostname"), ("cat", "-m", "/dev/sda1", disk, "/etc/hostname")):
        done = guestctl(*words)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"guestctl: error: {warning}"
    with Machine.open(disk) as machine:
        for device in ("/dev/sda1", f"/dev/mapper/luks-{report['filesystems'][0]['uuid']}"):
            with pytest.raises(KeyRequired) as caught:
                machine.filesystem(device)
            assert caught.value.device == "/dev/sda1"


def test_wrong_key(disk: Path) -> None:
    done = guestctl("ls", "--key", "all:key:wrong horse", disk, "/")
    assert done.returncode == 1
    assert "/dev/sda1: encrypted" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("no key that was given opens it")
    assert "wrong horse" not in done.stdout + done.stderr
    with Machine.open(disk, keys=Keys([Key("all", b"wrong horse")])) as machine:
        assert "wrong horse" not in repr([machine.warnings, machine.failures])


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
@pytest.mark.parametrize(("answer", "code"), [(SECRET, 0), ("", 1), ("no", 1)])
def test_prompt(disk: Path, answer: str, code: int) -> None:
    """On a terminal the key is asked for, once, and not shown."""
    terminal, inside = os.openpty()
    argv = [sys.executable, "-m", "guestctl", "cat", str(disk), "/etc/hostname"]
    with subprocess.Popen(
        argv, stdin=inside, stderr=inside, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        os.close(inside)
        shown = b""
        while b"Key of /dev/sda1:" not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, answer.encode() + b"\n")
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == code
    while True:
        try:
            part = os.read(terminal, 1000)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert output == ("" if code else "locked\n")
    assert shown.count(b"Key of") == 1
    if answer == SECRET:
        assert SECRET.encode() not in shown
