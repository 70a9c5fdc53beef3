"""A mount through mfusepy and libfuse (3, or 2.9), from its start to its end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from ctypes.util import find_library
from typing import Any, Self

from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.disk.fuse.operations import Operations

_FOREVER_SECONDS = 1 << 30  # what a read-only mount shows never changes
_PARENT_SECONDS = 0.25
# Unmounts what is left when the server is gone, however that died: df asks the server, past what the kernel remembers.
_UNDERTAKER = """
trap '' HUP INT TERM
read -r line
df "$0" || fusermount3 -quz "$0" || fusermount -quz "$0" || umount -l "$0"
"""


def mount(
    operations: Operations,
    directory: str | os.PathLike[str],
    *,
    name: str,
    foreground: bool = True,
    ends_with_parent: bool = True,
    allow_other: bool = False,
    writable: bool = False,
) -> None:
    """Mount on `directory` what `operations` answer; `name` is what the table of mounts calls it.

    Returns when it has been unmounted: by anyone, by SIGINT, SIGTERM or SIGHUP. With `ends_with_parent`
    the end of the parent process ends this one too. Without `foreground` the calling process ends as
    soon as the mount is there, and a child of it goes on until it is unmounted. A server that was
    killed leaves no mount.
    With `allow_other` all users see it, within the modes of its files.

    Raises ``OSError`` for the directory, `UnsupportedFeature` without mfusepy or libfuse, and
    `GuestctlError` with libfuse's words where it cannot mount.
    """
    directory = os.path.abspath(directory)
    if not os.path.isdir(directory):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    fuse = _fuse_class()
    options: dict[str, Any] = {"fsname": _escaped(name), "subtype": "guestctl", "use_ino": True, "ro": not writable}
    options["allow_other"] = options["default_permissions"] = allow_other
    if not writable:
        options["kernel_cache"] = True
        options.update(dict.fromkeys(("attr_timeout", "entry_timeout", "negative_timeout"), _FOREVER_SECONDS))
    if foreground and ends_with_parent:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    undertaker = ["sh", "-c", _UNDERTAKER, directory]
    silent = subprocess.DEVNULL
    with (
        subprocess.Popen(undertaker, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True),
        _CapturedErrors() as errors,
    ):
        operations.on_start = errors.restore if foreground else errors.forget
        try:
            fuse(operations, directory, foreground=foreground, nothreads=True, **options)
        except RuntimeError:
            if errors.captured:  # else it was mounted, and a signal has ended it
                raise GuestctlError(f"{directory}: cannot mount: {errors.last_line()}") from None


def _fuse_class() -> Any:
    """mfusepy's ``FUSE``, and lseek, which it leaves out of libfuse 3."""
    names = ("FUSE_LIBRARY_NAME", "FUSE_LIBRARY_PATH")
    if sys.platform.startswith("linux") and not any(name in os.environ for name in names) and find_library("fuse3"):
        os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    try:
        import mfusepy
    except ModuleNotFoundError as error:
        message = f"a mount needs the library {error.name}: pip install 'guestctl[fuse]'"
        raise UnsupportedFeature(message, feature="extra fuse") from None
    except OSError as error:
        raise UnsupportedFeature(f"a mount needs libfuse: {error}", feature="libfuse") from error

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        def lseek(self, path: bytes, offset: int, whence: int, info: Any) -> int:
            position: int = self.operations.lseek(os.fsdecode(path), offset, whence, info.contents.fh)
            return position

    return Fuse


def _escaped(name: str) -> str:
    """`name` as the value of a mount option."""
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


class _CapturedErrors:
    """What is written to descriptor 2 before the mount is there; libfuse and fusermount say there what went wrong."""

    def __enter__(self) -> Self:
        sys.stderr.flush()
        self.captured = True
        self._file = tempfile.TemporaryFile()
        self._before = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def forget(self) -> None:
        """In the background descriptor 2 is the null device by now; nobody is to wait for the end of what it was."""
        self.captured = False
        os.dup2(2, self._before)

    def restore(self) -> None:
        self.captured = False
        os.dup2(self._before, 2)

    def last_line(self) -> str:
        self._file.seek(0)
        lines = self._file.read().decode("utf-8", "surrogateescape").strip().splitlines()
        return lines[-1] if lines else "libfuse gives no reason"

    def __exit__(self, *exc_info: object) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)
        self._file.close()
