"""``guestctl shell``."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guestctl.cli.shell.prompt import candidates
from guestctl.guestfs import GuestFS

_DEMO = Path(__file__).parents[1] / "data/debian-12.qcow2"
_SHELL = [sys.executable, "-m", "guestctl", "shell", str(_DEMO)]


def _run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_SHELL, *options], input=script, capture_output=True, text=True)


def test_script() -> None:
    done = _run("""
        # calls, with hyphens or underscores
        list-filesystems
        list_devices
        cat /etc/hostname   # and a comment
        is-dir /etc
        filesize /etc/hostname
        grep root /etc/passwd extended:true
        lvs
        readlink '/etc/localtime'
        !echo the host
        -cat /none
        mount-ro /dev/sda1 /none
        exit
    """)
    assert done.stdout.splitlines() == [
        "/dev/sda1: vfat",
        "/dev/sda2: ext4",
        "/dev/sda",
        "demo.example.org",
        "true",
        "17",
        "root:x:0:0:root:/root:/bin/bash",
        "/usr/share/zoneinfo/Europe/Paris",
        "the host",
    ]
    assert done.stderr.splitlines() == [
        "guestctl: error: cat: /none: No such file or directory",
        "guestctl: error: mount_ro: /none: mount point is not a directory",
    ]
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "nothing: no such command; help lists them"),
        ("write /a b", "write: not supported: it changes a disk"),
        ("cat", "cat: needs path"),
        ("cat /etc/hostname more", "cat: unknown argument more"),
        ("is-dir /etc followsymlinks:perhaps", "followsymlinks: perhaps is neither true nor false"),
        ("head-n x /etc/passwd", "invalid literal for int() with base 0: 'x'"),
        ("cat '/etc", "No closing quotation"),
    ],
)
def test_errors(line: str, message: str) -> None:
    done = _run("", "-c", line)
    assert (done.stdout, done.stderr, done.returncode) == ("", f"guestctl: error: {message}\n", 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/none", "guestctl: error: add_drive: /none: No such file or directory"),
        ("/", "guestctl: error: launch: /: Is a directory"),
    ],
)
def test_images_that_are_none(image: str, message: str) -> None:
    argv = [sys.executable, "-m", "guestctl", "shell", image, "-c", "version"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()) == (1, [message])


def test_an_empty_image_and_a_device_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    argv = [sys.executable, "-m", "guestctl", "shell", str(tmp_path / "empty"), "-c", "list-devices"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "/dev/sda\n")
    done = _run("", "-m", "/dev/sdz1", "-c", "ls /")
    assert (done.returncode, done.stderr) == (1, "guestctl: error: mount_ro: /dev/sdz1: No such file or directory\n")


def test_one_filesystem() -> None:
    assert _run("ls /", "-m", "/dev/sda1").stdout == "EFI\n"


def test_bytes_go_out_as_they_are() -> None:
    done = subprocess.run([*_SHELL, "-c", "read-file /etc/hostname"], capture_output=True)
    assert done.stdout == b"demo.example.org\n"


def test_help() -> None:
    listed = _run("", "-c", "help").stdout.split()
    assert {"ls", "list-filesystems", "hivex-open"} < set(listed)
    assert not {"write", "close", "set-event-callback"} & set(listed)
    assert _run("", "-c", "help is-dir").stdout.startswith("is-dir path [followsymlinks:VALUE]\n\n")


def test_completion() -> None:
    with GuestFS(python_return_dict=True) as handle:
        handle.add_drive_ro(str(_DEMO))
        handle.launch()
        handle.mount_ro("/dev/sda2", "/")
        assert candidates(handle, "list-f") == ["list-filesystems"]
        assert candidates(handle, "exi") == ["exists", "exit"]
        assert candidates(handle, "cat /etc/hostn") == ["/etc/hostname"]
        assert candidates(handle, "ls /e") == ["/etc/"]
        assert candidates(handle, "mount-ro /dev/sda") == ["/dev/sda", "/dev/sda1", "/dev/sda2"]
        assert candidates(handle, "cat /none/x") == candidates(handle, "cat none") == []


def test_terminal(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(_SHELL, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    text = _until(ours, "><guest>")
    os.write(ours, b"cat /etc/hostname\r")
    text = _until(ours, "demo.example.org\r\n")
    os.write(ours, b"cat /none\r")
    text += _until(ours, "No such file or directory\r\n", "><guest>")
    os.write(ours, b"exit\r")
    _until(ours)
    assert "guestctl: error: cat: /none" in text
    assert shell.wait(10) == 0
    os.close(ours)
    history = tmp_path / "guestctl/shell_history"
    assert "+cat /etc/hostname\n" in history.read_text() and history.stat().st_mode & 0o777 == 0o600


def _until(terminal: int, *wanted: str) -> str:
    """What a terminal shows until it has shown all of `wanted`, in that order; or to its end."""
    text, end, order = "", time.monotonic() + 30, re.compile(".*".join(map(re.escape, wanted)), re.DOTALL)
    while not wanted or not order.search(text):
        if not select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
            raise AssertionError(f"no {wanted} in {text!r}")
        try:
            found = os.read(terminal, 4096)
        except OSError:  # Linux's word for the end
            found = b""
        if not found:
            assert not wanted, text
            break
        text += found.decode(errors="replace")
    return text
