"""``LoopDevice``: a file as a block device of the Linux kernel, by the ioctls of ``<linux/loop.h>``.

What may make one, root as a rule, needs no ``losetup``; ``sudo=True`` has ``sudo -n losetup`` make it.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from guestctl.block import FileDevice, SliceDevice
from guestctl.core.errors import CommandFailed, UnsupportedFeature
from guestctl.disk.attachments import forget, record
from guestctl.disk.partition import PartitionTable

_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A  # since Linux 5.8
_LOOP_CTL_GET_FREE = 0x4C82
# struct loop_config: fd, block_size; info: lo_device lo_inode lo_rdevice lo_offset lo_sizelimit,
# lo_number lo_encrypt_type lo_encrypt_key_size lo_flags, lo_file_name; the rest, and reserved
_CONFIG = struct.Struct("=II5Q4I64s112x64x")
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_MAX_FILE_NAME = 63
_MAX_TRIES = 64  # another process may take the free device first


class LoopDevice:
    """`size_limit` bytes (0: all) of the file `path` from `offset` as the block device ``device``.

    The device is there while this is entered, and no longer than the process, however that ends; one
    that is mounted then stays until it is unmounted. Raises ``OSError`` with the device's or the
    file's name, and `CommandFailed` for losetup. ::

        with LoopDevice("disk.raw") as loop:
            print(loop.device, loop.partitions)  # /dev/loop0 {1: '/dev/loop1'}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = True,
        offset: int = 0,
        size_limit: int = 0,
        sudo: bool = False,
    ) -> None:
        self.path = os.path.realpath(path)
        self.read_only = read_only
        self.offset = offset
        self.size_limit = size_limit
        self.sudo = sudo
        self.device = ""
        self._stack = ExitStack()
        self._partitions: dict[int, str] | None = None

    def __enter__(self) -> Self:
        with self._stack:
            if self.sudo:
                self._attach_by_losetup()
            else:
                self._attach()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._partitions = None
        self._stack.close()

    @property
    def partitions(self) -> dict[int, str]:
        """A loop device for each partition but containers, by its number, whether or not the kernel scans for them.

        Raises `DetectionError` where there is no partition table.
        """
        if self._partitions is None:
            with FileDevice.open(self.path) as file:
                size = self.size_limit or file.size - self.offset
                disk = SliceDevice(file, self.offset, size)
                table = PartitionTable.parse(disk)
                ranges = {
                    one.number: (self.offset + one.start, min(one.size, disk.size - one.start))
                    for one in table.partitions
                    if not one.extended and one.size and one.start < disk.size
                }
            self._partitions = {number: self._part(*place) for number, place in ranges.items()}
        return self._partitions

    def _part(self, offset: int, size: int) -> str:
        part = LoopDevice(self.path, read_only=self.read_only, offset=offset, size_limit=size, sudo=self.sudo)
        return self._stack.enter_context(part).device

    def _attach(self) -> None:
        mode = os.O_RDONLY if self.read_only else os.O_RDWR
        file = os.open(self.path, mode | os.O_CLOEXEC)
        try:
            fd = self._configure_free(file, mode)
        finally:
            os.close(file)
        self._stack.callback(os.close, fd)  # the last one to close it detaches it: AUTOCLEAR
        self._stack.callback(_clear, fd)
        self._stack.callback(forget, record(self.device, self.path))

    def _configure_free(self, file: int, mode: int) -> int:
        import fcntl

        flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if self.read_only else 0)
        name = os.fsencode(self.path)[:_MAX_FILE_NAME]
        config = _CONFIG.pack(file, 0, 0, 0, 0, self.offset, self.size_limit, 0, 0, 0, flags, name)
        for _ in range(_MAX_TRIES):
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            finally:
                os.close(control)
            self.device = f"/dev/loop{number}"
            fd = os.open(self.device, mode | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:
                    raise OSError(error.errno, os.strerror(error.errno or 0), self.path) from error
            else:
                return fd
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), self.device)

    def _attach_by_losetup(self) -> None:
        argv = ["losetup", "--find", "--show", f"--offset={self.offset}", f"--sizelimit={self.size_limit}"]
        argv += ["--read-only"] if self.read_only else []
        self.device = run_by_sudo([*argv, "--", self.path]).strip()
        self._stack.callback(run_by_sudo, ["losetup", "--detach", self.device])
        self._stack.callback(forget, record(self.device, self.path, sudo=True))


def detach(device: str, *, sudo: bool = False) -> None:
    """Detach a loop device; one that is in use detaches itself at its last close."""
    if sudo and os.geteuid() != 0:
        run_by_sudo(["losetup", "--detach", device])
        return
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _clear(fd)
    finally:
        os.close(fd)


def _clear(fd: int) -> None:
    import fcntl

    with suppress(OSError):  # ENXIO: it is detached
        fcntl.ioctl(fd, _LOOP_CLR_FD)


def run_by_sudo(argv: Iterable[str]) -> str:
    """What the command prints; sudo asks for no password."""
    command = ["sudo", "-n", *argv]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UnsupportedFeature("there is no sudo here", feature="sudo") from None
    if done.returncode:
        raise CommandFailed(command, done.returncode, done.stderr)
    return done.stdout
