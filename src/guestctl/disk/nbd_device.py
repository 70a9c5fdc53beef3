"""``NbdDevice``: an image in any format as a block device, by the Linux kernel's NBD client.

A server in a process of its own (``guestctl serve nbd``, or ``qemu-nbd``) reads the image. This process
negotiates, hands the socket to a free ``/dev/nbdN`` by the ioctls of ``<linux/nbd.h>``, and keeps a
thread in NBD_DO_IT; the kernel frees the device when that ends, however the process does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from guestctl.core.errors import CommandFailed, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.attachments import forget, record
from guestctl.disk.nbd import layout

_NBD_SET_SOCK = 0xAB00
_NBD_SET_BLKSIZE = 0xAB01
_NBD_DO_IT = 0xAB03
_NBD_CLEAR_SOCK = 0xAB04
_NBD_SET_SIZE_BLOCKS = 0xAB07
_NBD_DISCONNECT = 0xAB08
_NBD_SET_FLAGS = 0xAB0A
_SECTOR_BYTES = 512
_READY_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
_MAX_REPLIES, _MAX_REPLY_BYTES = 16, 1 << 16

Engine = Literal["native", "qemu-nbd"]


class NbdDevice:
    """The virtual disk of the image `path` as the block device ``device``; needs root and the module ``nbd``.

    Read-only, unless `overlay` is a file that collects the writes: a qcow2 overlay, made where it is
    missing. `load_module` loads the kernel's module where it is not there. Raises `UnsupportedFeature` without the
    module, ``OSError`` for the devices, `CommandFailed` for the server.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        overlay: str | os.PathLike[str] | None = None,
        engine: Engine = "native",
        load_module: bool = False,
    ) -> None:
        if overlay is not None and engine != "native":
            raise UnsupportedFeature("an overlay is the native engine's", feature="overlay")
        self.path = os.path.realpath(path)
        self.format = format
        self.overlay = overlay
        self.engine = engine
        self.load_module = load_module
        self.device = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if not is_available(load_module=self.load_module):
            raise UnsupportedFeature("the kernel's module nbd is not loaded", feature="nbd")
        with self._stack:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="guestctl-nbd-"))
            address = os.path.join(directory, "socket")
            client = self._serve(address)
            size, flags = negotiate(client)
            self._attach(client, size, flags)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _serve(self, address: str) -> socket.socket:
        """A connection to a server on the socket file `address`."""
        argv = self._server(address)
        errors = self._stack.enter_context(tempfile.TemporaryFile())
        server = self._stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        )
        self._stack.callback(server.terminate)
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # The file is there before the server listens.
        _wait(lambda: client.connect_ex(address) == 0 or server.poll() is not None, argv[0])
        if server.poll() is not None:
            errors.seek(0)
            raise CommandFailed(argv, server.returncode, errors.read().decode(errors="replace"))
        return client

    def _server(self, address: str) -> list[str]:
        form = [f"--format={self.format}"] if self.format else []
        if self.engine == "qemu-nbd":
            return ["qemu-nbd", "--read-only", f"--socket={address}", *form, self.path]
        overlay = [f"--overlay={os.fspath(self.overlay)}"] if self.overlay is not None else []
        return [
            sys.executable,
            "-m",
            "guestctl",
            "serve",
            "nbd",
            "--once",
            f"--socket={address}",
            *form,
            *overlay,
            self.path,
        ]

    def _attach(self, client: socket.socket, size: int, flags: int) -> None:
        import fcntl

        fd, self.device = _claim_free(client)
        self._stack.callback(os.close, fd)
        self._stack.callback(_disconnect, fd)
        fcntl.ioctl(fd, _NBD_SET_BLKSIZE, _SECTOR_BYTES)
        fcntl.ioctl(fd, _NBD_SET_SIZE_BLOCKS, size // _SECTOR_BYTES)
        fcntl.ioctl(fd, _NBD_SET_FLAGS, flags)
        thread = threading.Thread(target=_do_it, args=(fd,), daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(_disconnect, fd)
        self._stack.callback(forget, record(self.device, self.path))
        block = Path("/sys/block", os.path.basename(self.device))
        _wait(lambda: (block / "pid").exists() and int((block / "size").read_text()) > 0, self.device)


def is_available(*, load_module: bool = False) -> bool:
    """Whether the kernel has NBD devices."""
    if not os.path.isdir("/sys/block/nbd0") and load_module:
        with suppress(OSError):
            subprocess.run(["modprobe", "nbd"], capture_output=True)
    return os.path.isdir("/sys/block/nbd0")


def negotiate(client: socket.socket) -> tuple[int, int]:
    """The size and the transmission flags of the default export, after which `client` takes requests."""
    magic, option_magic, _ = layout.GREETING.unpack(_receive(client, layout.GREETING.size))
    if (magic, option_magic) != (layout.NBDMAGIC, layout.IHAVEOPT):
        raise InvalidFormat("not the newstyle handshake", structure="NBD greeting", offset=0)
    client.sendall(layout.CLIENT_FLAGS.pack(layout.FLAG_C_FIXED_NEWSTYLE | layout.FLAG_C_NO_ZEROES))
    choice = layout.UINT32.pack(0) + layout.UINT16.pack(0)  # the export without a name, no information wanted
    client.sendall(layout.OPTION.pack(layout.IHAVEOPT, layout.OPT_GO, len(choice)) + choice)
    found: tuple[int, int] | None = None
    for _ in range(_MAX_REPLIES):
        magic, _, kind, length = layout.OPTION_REPLY.unpack(_receive(client, layout.OPTION_REPLY.size))
        if magic != layout.OPTION_REPLY_MAGIC or length > _MAX_REPLY_BYTES:
            break
        data = _receive(client, length)
        if kind == layout.REP_ACK and found is not None:
            return found
        if kind == layout.REP_INFO and length == layout.INFO_EXPORT_REPLY.size:
            information, size, flags = layout.INFO_EXPORT_REPLY.unpack(data)
            found = (size, flags) if information == layout.INFO_EXPORT else found
        elif kind != layout.REP_INFO:
            break
    raise InvalidFormat("the server does not give the export", structure="NBD option reply", offset=0)


def _receive(client: socket.socket, length: int) -> bytes:
    data = client.recv(length, socket.MSG_WAITALL) if length else b""
    if len(data) < length:
        raise ConnectionResetError("the NBD server has closed the connection")
    return data


def _claim_free(client: socket.socket) -> tuple[int, str]:
    """The first device that takes the socket: only one process's wins where several try."""
    import fcntl

    for block in sorted(Path("/sys/block").glob("nbd*"), key=lambda path: int(path.name[3:])):
        if (block / "pid").exists():
            continue
        device = f"/dev/{block.name}"
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _NBD_SET_SOCK, client.fileno())
        except OSError:
            os.close(fd)
        else:
            return fd, device
    raise GuestctlError("no NBD device is free (the module's parameter nbds_max says how many there are)")


def _do_it(fd: int) -> None:
    import fcntl

    with suppress(OSError):
        fcntl.ioctl(fd, _NBD_DO_IT)
    with suppress(OSError):
        fcntl.ioctl(fd, _NBD_CLEAR_SOCK)


def _disconnect(fd: int) -> None:
    import fcntl

    for request in (_NBD_DISCONNECT, _NBD_CLEAR_SOCK):
        with suppress(OSError):
            fcntl.ioctl(fd, request)


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _READY_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise GuestctlError(f"{what} is not ready after {_READY_SECONDS:.0f} seconds")
        time.sleep(_PAUSE_SECONDS)
