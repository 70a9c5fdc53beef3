"""NBD devices in a small virtual machine with Debian's kernel and its module nbd, beside qemu's own tools; no root.

The machine's memory holds this Python, the sources and the images; `nbd_in_guest` runs there and says what it saw.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from conftest import Run
from guestctl.core.errors import CommandFailed, InvalidFormat, UnsupportedFeature
from guestctl.disk import NbdDevice
from guestctl.disk.nbd_device import is_available, negotiate

_SIZE = 6 << 20
_SLOW_SERVER = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
time.sleep(0.3)
server.listen()
server.accept()[0].sendall(b"hello")
"""
_NO_NEED = {"test", "tkinter", "idlelib", "lib2to3", "ensurepip", "site-packages", "dist-packages", "turtledemo"}
_INIT = """#!/bin/sh
export PATH=/bin PYTHONPATH=/src:/packages
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /tmp
mkdir /run && modprobe virtio_pci && modprobe virtio_blk
{python} /nbd_in_guest.py > /dev/ttyS0 2>&1
poweroff -f
"""


def _kernel() -> tuple[Path, Path]:
    for kernel in sorted(Path("/boot").glob("vmlinuz-*")):
        modules = Path("/lib/modules", kernel.name.removeprefix("vmlinuz-"))
        if list(modules.glob("kernel/drivers/block/nbd.ko*")) and os.access(kernel, os.R_OK):
            return kernel, modules
    pytest.skip("needs a kernel in /boot with the module nbd")


def _copy_program(root: Path, program: Path) -> None:
    """A program and its libraries, at their own paths."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout.split()
    for file in {program, *(Path(word) for word in linked if word.startswith("/"))}:
        target = root / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def _copy_python(root: Path) -> Path:
    program = Path(os.path.realpath(sys.executable))
    _copy_program(root, program)
    library = Path(sysconfig.get_path("stdlib"))
    for part in library.iterdir():
        if part.name in _NO_NEED or part.name.startswith("config-"):
            continue
        target = root / str(part).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.is_dir():
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("test", "*.opt-?.pyc"))
        else:
            shutil.copy2(part, target)
    for extension in (library / "lib-dynload").glob("*.so"):
        _copy_program(root, extension)
    import click

    import guestctl

    shutil.copytree(Path(click.__file__).parent, root / "packages" / "click")
    shutil.copytree(Path(guestctl.__file__).parent, root / "src" / "guestctl")
    return program


def _make_root(run: Run, root: Path, modules: Path) -> None:
    for directory in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / directory).mkdir(parents=True)
    for tool in ("busybox", "kmod", "qemu-nbd"):
        path = Path(os.path.realpath(shutil.which(tool) or pytest.skip(f"needs {tool}")))
        _copy_program(root, path)
        if path.parent != Path("/bin"):
            (root / "bin" / tool).symlink_to(path)
    for name in ("sh", "mount", "mkdir", "poweroff"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "bin" / "modprobe").symlink_to("kmod")
    for part in ("drivers/block", "drivers/virtio"):
        shutil.copytree(modules / "kernel" / part, root / "lib" / "modules" / modules.name / "kernel" / part)
    for table in modules.glob("modules.[bo]*"):
        shutil.copy2(table, root / "lib" / "modules" / modules.name)
    run("depmod", "-b", root, modules.name)
    python = _copy_python(root)
    (root / "init").write_text(_INIT.format(python=python))
    (root / "init").chmod(0o755)
    shutil.copy2(Path(__file__).with_name("nbd_in_guest.py"), root)


@pytest.mark.long
def test_in_a_virtual_machine(run: Run, tmp_path: Path) -> None:
    kernel, modules = _kernel()
    run("qemu-system-x86_64", "--version")
    root = tmp_path / "root"
    _make_root(run, root, modules)
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(_SIZE // 2) + bytes(_SIZE // 2))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, root / "disk.qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, root / "disk.vmdk")
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with (tmp_path / "initramfs").open("wb") as archive:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=names, stdout=archive, check=True)
    (tmp_path / "out").write_bytes(bytes(16 << 20))
    console = run(
        *("timeout", "300", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1G", "-smp", "2"),
        *("-nographic", "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", tmp_path / "initramfs"),
        *("-append", "console=ttyS0 quiet panic=-1", "-drive", f"file={tmp_path / 'out'},format=raw,if=virtio"),
    )
    line = next((line for line in console.splitlines() if line.startswith("{")), None)
    assert line is not None, console
    seen = json.loads(line)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    for case, device in (("native", "/dev/nbd0"), ("vmdk", "/dev/nbd1"), ("qemu-nbd", "/dev/nbd0")):
        assert seen[case] == {"device": device, "size": _SIZE, "sha256": digest, "read_only": True}
    assert seen["in use after an exception"] == seen["in use after exit"] == seen["in use after kill -9"] == []
    assert seen["listed"] == [["/dev/nbd0", "/disk.qcow2", False], ["/dev/nbd1", "/disk.vmdk", False]]
    assert seen["servers after kill -9"] == 0
    written = bytearray(raw.read_bytes())
    written[1 << 20 : (1 << 20) + 7] = b"written"
    overlay = tmp_path / "overlay"
    length = int.from_bytes((tmp_path / "out").read_bytes()[:8], "little")
    overlay.write_bytes((tmp_path / "out").read_bytes()[512 : 512 + length])
    run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", root / "disk.qcow2", overlay)
    run("qemu-img", "check", overlay)
    run("qemu-img", "convert", "-O", "raw", overlay, tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == written


def test_without_the_module(tmp_path: Path) -> None:
    if is_available():
        pytest.skip("the kernel has NBD")
    with pytest.raises(UnsupportedFeature, match="module nbd is not loaded"), NbdDevice(tmp_path / "image"):
        pass


def test_an_overlay_is_not_qemu_nbds(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFeature, match="overlay"):
        NbdDevice(tmp_path / "image", overlay=tmp_path / "overlay", engine="qemu-nbd")


def test_negotiation_with_qemu_nbd(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(12345 * 512))
    run("qemu-nbd", "--version")
    argv = ["qemu-nbd", "--read-only", "--format=raw", f"--socket={tmp_path / 'socket'}", str(image)]
    with subprocess.Popen(argv) as server, socket.socket(socket.AF_UNIX) as client:
        try:
            for _ in range(400):
                if (tmp_path / "socket").exists():
                    break
                server.poll()
                threading.Event().wait(0.02)
            client.connect(str(tmp_path / "socket"))
            size, flags = negotiate(client)
            assert size == 12345 * 512 and flags & 3 == 3
        finally:
            server.terminate()


_GREETING = b"NBDMAGICIHAVEOPT\0\3"
_REPLY = bytes.fromhex("0003e889045565a9 00000007")


@pytest.mark.parametrize(
    "answer",
    [
        b"\0" * 18,
        _GREETING + bytes(20),
        _GREETING + _REPLY + bytes.fromhex("80000006 00000000"),
        _GREETING + _REPLY + bytes.fromhex("00000001 00000000"),
        _GREETING + _REPLY + bytes.fromhex("00000003 ffffffff"),
        _GREETING + (_REPLY + bytes.fromhex("00000003 00000002 0003")) * 16,
    ],
    ids=["no greeting", "no magic", "refused", "acknowledged without an export", "endless", "informs for ever"],
)
def test_servers_that_do_not_give_it(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        with pytest.raises(InvalidFormat):
            negotiate(ours)


def test_a_server_that_hangs_up() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(_GREETING)
        theirs.shutdown(socket.SHUT_WR)
        with theirs, pytest.raises(ConnectionResetError):
            negotiate(ours)


def test_a_server_that_does_not_listen_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket file is there by then."""
    monkeypatch.setattr(NbdDevice, "_server", lambda _, address: [sys.executable, "-c", _SLOW_SERVER, address])
    device = NbdDevice("image")
    with device._stack:
        assert device._serve(str(tmp_path / "socket")).recv(5) == b"hello"


def test_a_server_that_fails(tmp_path: Path) -> None:
    device = NbdDevice(tmp_path / "none")
    with device._stack, pytest.raises(CommandFailed, match="No such file"):
        device._serve(str(tmp_path / "socket"))
