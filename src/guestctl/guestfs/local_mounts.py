"""What is mounted in the handle, mounted on a directory of the host: through FUSE, read-only."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time
from typing import Any

from guestctl.core.errors import CommandFailed, GuestctlError
from guestctl.disk.filesystem import FileSystem
from guestctl.guestfs.calls import ClosedHandle, GuestFSError, as_guestfs_error, launched
from guestctl.guestfs.handle import Handle

_RETRIES, _RETRY_SECONDS = 5, 1.0


class LocalMounts(Handle):
    """``mount_local``, ``mount_local_run`` and ``umount_local``, with the package mfusepy.

    The directory is mounted when `mount_local_run` runs, not before; other threads may go on using the handle.
    """

    _local: tuple[str, FileSystem[Any]] | None = None

    @launched
    def mount_local(
        self,
        localmountpoint: str,
        readonly: bool | None = None,
        options: str | None = None,
        cachetimeout: int | None = None,
        debugcalls: bool | None = None,
    ) -> None:
        """Choose the directory for `mount_local_run`. It is read-only whatever is asked for, and nothing changes."""
        if self._local is not None:
            raise GuestFSError("filesystem is already mounted in this handle", errno.EBUSY)
        if not os.path.isdir(localmountpoint):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), localmountpoint)
        self._local = localmountpoint, self._tree

    def mount_local_run(self) -> None:
        """Mount, and answer until it is unmounted."""
        if self._closed:
            raise ClosedHandle("GuestFS: method called on closed handle")
        from guestctl.disk.fuse.session import mount
        from guestctl.disk.fuse.tree import TreeOperations

        try:
            if self._local is None:
                raise GuestFSError("you must call 'mount-local' first", errno.EINVAL)
            directory, tree = self._local
            mount(TreeOperations(tree), directory, name="guestfs", ends_with_parent=False)
        except (GuestctlError, GuestFSError, OSError) as error:
            raise self._failed(as_guestfs_error("mount_local_run", error)) from error
        finally:
            self._local = None
            _ignore_broken_pipes()

    def umount_local(self, retry: bool | None = None) -> None:
        """Unmount, from another thread than that of `mount_local_run`; `retry` while it is in use."""
        try:
            if self._local is None:
                raise GuestFSError("no filesystem is mounted", errno.EINVAL)
            _unmount(self._local[0], _RETRIES if retry else 1)
        except (GuestFSError, CommandFailed, OSError) as error:
            raise self._failed(as_guestfs_error("umount_local", error)) from error


def _ignore_broken_pipes() -> None:
    """As Python has it: libfuse leaves SIGPIPE to end the process. Only C can say so outside the main thread."""
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN:
        c_library = ctypes.CDLL(None)
        c_library.signal.argtypes, c_library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        c_library.signal(signal.SIGPIPE, int(signal.SIG_IGN))


def _unmount(directory: str, tries: int) -> None:
    program = next((name for name in ("fusermount3", "fusermount") if shutil.which(name)), None)
    argv = [program, "-u", directory] if program else ["umount", directory]
    for left in range(tries - 1, -1, -1):
        done = subprocess.run(argv, capture_output=True, text=True)
        if not done.returncode:
            return
        if not left:
            raise CommandFailed(argv, done.returncode, done.stderr)
        time.sleep(_RETRY_SECONDS)
