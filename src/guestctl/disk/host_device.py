"""`attach`: any image as a block device of the host, by the shortest way that the kernel has."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guestctl.core.errors import CommandFailed
from guestctl.core.types import DiskFormat
from guestctl.disk.loop_device import LoopDevice
from guestctl.disk.nbd_device import NbdDevice, is_available
from guestctl.disk.reader import DiskReader

_READY_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


@contextmanager
def attach(
    path: str | os.PathLike[str], *, format: str | None = None, load_module: bool = False
) -> Iterator[LoopDevice | NbdDevice]:
    """The virtual disk of an image as a read-only block device, with its name in ``device``.

    A loop device for what the kernel reads as it is; an NBD device for the rest; and where there is no NBD,
    which `load_module` may change, a loop device on the file that `guestctl mount --raw` shows.
    """
    with DiskReader.open(path, format=format, metadata_only=True) as reader:
        is_plain = reader.format == DiskFormat.RAW and reader.size == os.path.getsize(path) and len(reader.files) == 1
    if is_plain:
        with LoopDevice(path) as loop:
            yield loop
    elif is_available(load_module=load_module):
        with NbdDevice(path, format=format) as nbd:
            yield nbd
    else:
        with _raw_view(path, format) as file, LoopDevice(file) as loop:
            yield loop


@contextmanager
def _raw_view(path: str | os.PathLike[str], format: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="guestctl-raw-") as directory:
        argv = [sys.executable, "-m", "guestctl", "mount", "--raw", "--foreground"]
        argv += [f"--format={format}"] if format else []
        argv += ["--", os.fspath(path), directory]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
            file = Path(directory, "sda")
            try:
                end = time.monotonic() + _READY_SECONDS
                while not file.exists():
                    if server.poll() is not None or time.monotonic() > end:
                        server.terminate()
                        raise CommandFailed(argv, server.wait(), server.communicate()[1])
                    time.sleep(_PAUSE_SECONDS)
                yield file
            finally:
                server.terminate()
                server.communicate()
