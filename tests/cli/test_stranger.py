"""The command line in clumsy hands: every failure is one line on standard error, never a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).resolve().parents[1] / "data" / "debian-12.qcow2"
Run = Callable[..., str]
_GUESTCTL = (sys.executable, "-m", "guestctl")
# Every command that opens an image, and what else it needs.
_ON_IMAGES = {
    "inspect": (),
    "info": (),
    "map": (),
    "check": (),
    "partitions": (),
    "filesystems": (),
    "df": (),
    "ls": (),
    "find": (),
    "hash": (),
    "cat": ("/etc/hostname",),
    "stat": ("/",),
    "tar-out": ("/", "-"),
}
_ON_TREES = ("ls", "find", "hash", "cat", "stat", "tar-out")


def guestctl(*argv: str | os.PathLike[str], **how: Any) -> subprocess.CompletedProcess[str]:
    how = {"stdout": subprocess.PIPE, **how}
    words = [*_GUESTCTL, *map(str, argv)]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace", timeout=60, **how)


def complaint(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line that the command failed with."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("guestctl: error: ")
    return line.removeprefix("guestctl: error: ")


@pytest.mark.parametrize("command", _ON_IMAGES)
def test_what_is_no_file(command: str, tmp_path: Path) -> None:
    more = _ON_IMAGES[command]
    missing, fifo = tmp_path / "missing", tmp_path / "fifo"
    os.mkfifo(fifo)
    assert complaint(guestctl(command, missing, *more)) == f"{missing}: No such file or directory"
    assert complaint(guestctl(command, tmp_path, *more)) == f"{tmp_path}: Is a directory"
    assert complaint(guestctl(command, fifo, *more)) == f"{fifo}: Not a regular file or block device"


def test_an_empty_file_has_no_tree(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for command in _ON_TREES:
        assert complaint(guestctl(command, empty, *_ON_IMAGES[command])) == "no filesystem that guestctl knows"


def test_paths_of_the_guest() -> None:
    assert complaint(guestctl("ls", DEMO, "/nope")) == "/nope: No such file or directory"
    assert complaint(guestctl("cat", DEMO, "/etc")) == "/etc: Is a directory"
    assert complaint(guestctl("cat", DEMO, "/etc/hostname/x")) == "/etc/hostname/x: Not a directory"
    assert complaint(guestctl("stat", DEMO, "a\nb\x1b[2J")) == "a\\x0ab\\x1b[2J: No such file or directory"
    assert complaint(guestctl("stat", DEMO, "/" + "x" * 5000)).endswith("No such file or directory")


@pytest.mark.parametrize("command", _ON_TREES)
def test_unknown_device(command: str) -> None:
    line = complaint(guestctl(command, "-m", "/dev/sdz9", DEMO, *_ON_IMAGES[command]))
    assert line == "no device /dev/sdz9 in this machine (there are: /dev/sda1, /dev/sda2)"


def test_wrong_formats(tmp_path: Path) -> None:
    noise = tmp_path / "noise.raw"
    noise.write_bytes(b"noise" * 20000)
    assert "magic" in complaint(guestctl("info", "--format", "qcow2", noise))
    assert complaint(guestctl("info", "--format", "nope", noise)).startswith("unknown image format 'nope'")


def test_a_directory_to_allow_that_is_not_there(tmp_path: Path) -> None:
    done = guestctl("info", "--allow-dir", tmp_path / "missing", DEMO)
    assert done.returncode == 2
    assert f"Directory '{tmp_path / 'missing'}' does not exist" in done.stderr


def test_unwritable_targets(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    nowhere = tmp_path / "missing" / "x.tar"
    assert complaint(guestctl("tar-out", DEMO, "/etc", nowhere)) == f"{nowhere}: No such file or directory"
    assert complaint(guestctl("tar-out", DEMO, "/etc", tmp_path)) == f"{tmp_path}: Is a directory"
    assert complaint(guestctl("tar-out", DEMO, "/nope", file)) == "/nope: No such file or directory"
    assert complaint(guestctl("cp", DEMO, "/etc", file)) == f"{file}: Not a directory"
    assert complaint(guestctl("cp", DEMO, "/nope", tmp_path)) == "/nope: No such file or directory"
    assert file.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_tar_out_writes_to_a_pipe_instead_of_replacing_it(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    assert guestctl("tar-out", DEMO, "/etc/apt", fifo).returncode == 0
    reader.join(30)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert got[0] == guestctl_bytes("tar-out", DEMO, "/etc/apt", "-")


def test_tar_out_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.tar"
    link.symlink_to("there/real.tar")
    assert guestctl("tar-out", DEMO, "/etc/apt", link).returncode == 0
    assert link.is_symlink()
    assert tarfile.is_tarfile(tmp_path / "there" / "real.tar")


def guestctl_bytes(*argv: str | os.PathLike[str]) -> bytes:
    return subprocess.run([*_GUESTCTL, *map(str, argv)], stdout=subprocess.PIPE, check=True, timeout=60).stdout


_PRINTING = [
    *((command, str(DEMO), *more) for command, more in _ON_IMAGES.items()),
    ("inspect", "--json", str(DEMO)),
    ("inspect", "--xml", str(DEMO)),
    ("find", "--json", str(DEMO)),
    ("schema", "inspect"),
    ("completion", "bash"),
    ("version",),
    ("--help",),
]


@pytest.mark.parametrize("argv", _PRINTING, ids=" ".join)
def test_full_disk(argv: tuple[str, ...]) -> None:
    if not (os.path.exists("/dev/full") and stat.S_ISCHR(os.stat("/dev/full").st_mode)):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        assert complaint(guestctl(*argv, stdout=full)) == "No space left on device"


@pytest.mark.parametrize("argv", _PRINTING, ids=" ".join)
def test_nobody_reads(argv: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = guestctl(*argv, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode in (1, 141)
    assert done.stderr == ""


def test_closed_streams() -> None:
    if shutil.which("sh") is None:
        pytest.skip("needs sh")
    for argv in (["version"], ["find", str(DEMO)], ["tar-out", str(DEMO), "/etc", "-"]):
        done = guestctl_in_shell(">&-", argv)
        assert complaint(done) == "Bad file descriptor"
    assert guestctl_in_shell("2>&-", ["ls", str(DEMO), "/nope"]).returncode == 1


def guestctl_in_shell(redirection: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    script = f'"$@" {redirection}'
    return subprocess.run(["sh", "-c", script, "sh", *_GUESTCTL, *argv], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("argv", [("hash",), ("tar-out",)], ids=" ".join)
def test_interrupt(argv: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    image = tmp_path / "big.img"
    source = tmp_path / "tree"
    source.mkdir()
    with open(source / "big", "wb") as stream:
        stream.truncate(200 << 30)
    run("mke2fs", "-q", "-t", "ext4", "-d", source, image, "64M")
    more = ("/",) if argv[0] == "hash" else ("/", os.devnull)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and what they start
    with subprocess.Popen(
        [*_GUESTCTL, *argv, image, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until_reading(process, image)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == ""


def wait_until_reading(process: subprocess.Popen[str], image: Path) -> None:
    """Until `process` has the image open, and a moment more."""
    descriptors = Path(f"/proc/{process.pid}/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    for _ in range(300):
        if any(os.path.realpath(item) == str(image) for item in descriptors.iterdir()):
            break
        time.sleep(0.05)
    time.sleep(0.7)
