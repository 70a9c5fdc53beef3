"""Drives, the launch of a handle, and its end."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from guestctl.disk.reader import DiskReader
from guestctl.guestfs.calls import ClosedHandle, GuestFSError, call, launched
from guestctl.guestfs.events import EVENT_CLOSE, EVENT_LAUNCH_DONE, EVENT_PROGRESS, EVENT_TRACE
from guestctl.guestfs.handle import Drive, Handle
from guestctl.machine import Machine

if TYPE_CHECKING:
    from guestctl.guestfs.events import Callback

# The states of a handle. A call is over when it returns, so that no handle is seen launching or busy.
_CONFIG, _READY = 0, 2
_MAX_DISKS = 255


class Drives(Handle):
    """``add_drive`` and its kin, ``launch``, ``shutdown``, ``close``, and the states between them."""

    @call
    def add_drive(
        self,
        filename: str,
        readonly: bool | None = None,
        format: str | None = None,
        iface: str | None = None,
        name: str | None = None,
        label: str | None = None,
        protocol: str | None = None,
        server: Sequence[str] | None = None,
        username: str | None = None,
        secret: str | None = None,
        cachemode: str | None = None,
        discard: str | None = None,
        copyonread: bool | None = None,
        blocksize: int | None = None,
    ) -> None:
        """Add the disk image `filename`; the first one becomes /dev/sda.

        `format` skips probing, and `label` names the disk /dev/disk/guestfs/LABEL besides. What tunes the virtual
        machine of libguestfs (`iface`, `cachemode`, `discard`, `copyonread`, `blocksize`) means nothing here. A
        `protocol` other than ``file`` is refused with ``NotImplementedError``.
        """
        if protocol not in (None, "file"):
            raise NotImplementedError(f"add_drive: protocol {protocol!r} is not supported")
        if server:
            raise GuestFSError("no server may be given for local files", errno.EINVAL)
        if label is not None and not re.fullmatch("[a-zA-Z]{1,20}", label):
            raise GuestFSError("label parameter is empty, too long, or contains disallowed characters", errno.EINVAL)
        if self.is_ready():
            raise GuestFSError("drives cannot be added after launch", errno.ENOTSUP)
        if len(self._drives) >= _MAX_DISKS:
            raise GuestFSError("too many drives", errno.EINVAL)
        os.stat(filename)
        self._drives.append(Drive(os.fspath(filename), bool(readonly), format, label))

    add_drive_opts = add_drive

    @call
    def add_drive_ro(self, filename: str) -> None:
        """`add_drive` with ``readonly``."""
        self.add_drive(filename, readonly=True)

    add_cdrom = add_drive_ro

    @call
    def add_drive_with_if(self, filename: str, iface: str) -> None:
        """`add_drive`; `iface` means nothing here."""
        self.add_drive(filename)

    @call
    def add_drive_ro_with_if(self, filename: str, iface: str) -> None:
        """`add_drive_ro`; `iface` means nothing here."""
        self.add_drive_ro(filename)

    @call
    def add_drive_scratch(
        self, size: int, name: str | None = None, label: str | None = None, blocksize: int | None = None
    ) -> None:
        """Add a disk of `size` zero bytes, which goes with the handle."""
        if size <= 0:
            raise GuestFSError("size must be > 0", errno.EINVAL)
        file = tempfile.NamedTemporaryFile(prefix="guestctl-scratch-", dir=self._temporary_directory())
        file.truncate(size)
        self._scratch.append(file)
        self.add_drive(file.name, format="raw", label=label)

    @call
    def add_domain(
        self,
        dom: str,
        libvirturi: str | None = None,
        readonly: bool | None = None,
        iface: str | None = None,
        live: bool | None = None,
        allowuuid: bool | None = None,
        readonlydisk: str | None = None,
        cachemode: str | None = None,
        discard: str | None = None,
        copyonread: bool | None = None,
    ) -> int:
        """Add the disks of a libvirt domain, by its name, with the ``libvirt`` package. Gives their number."""
        try:
            import libvirt
        except ImportError as error:
            raise NotImplementedError("add_domain: needs the Python package libvirt") from error
        connection = libvirt.openReadOnly(libvirturi)
        try:
            find = connection.lookupByUUIDString if allowuuid else connection.lookupByName
            return self.add_libvirt_dom(find(dom), readonly=readonly, readonlydisk=readonlydisk)
        finally:
            connection.close()

    @call
    def add_libvirt_dom(
        self,
        dom: Any,
        readonly: bool | None = None,
        iface: str | None = None,
        live: bool | None = None,
        readonlydisk: str | None = None,
        cachemode: str | None = None,
        discard: str | None = None,
        copyonread: bool | None = None,
    ) -> int:
        """Add the disks of an open ``libvirt.virDomain``. Gives their number."""
        from guestctl.guestfs.libvirt_domain import domain_disks

        disks = domain_disks(dom.XMLDesc(0))
        if not disks:
            raise GuestFSError("libvirt domain has no disks", errno.ENOENT)
        for disk in disks:
            only_read = bool(readonly) or (disk.read_only and readonlydisk != "write")
            if disk.read_only and readonlydisk in ("ignore", "error"):
                if readonlydisk == "error":
                    raise GuestFSError(f"{disk.path}: disk is marked as readonly", errno.EPERM)
                continue
            self.add_drive(disk.path, readonly=only_read, format=disk.format)
        return len(disks)

    # States

    @call
    def launch(self) -> None:
        """Open the drives. There is no virtual machine: it takes as long as reading their partition tables."""
        if self.is_ready():
            return
        readers: list[DiskReader] = []
        try:
            allowed = self._allowed_directories()
            readers += (
                DiskReader.open(one.path, format=one.format, allow_dirs=allowed, keys=self._keys)
                for one in self._drives
            )
            self._machine_or_none = Machine(readers, options=self._options, keys=self._keys)
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        self._events.send(EVENT_PROGRESS, "", (0, 1, 1, 1))
        self._events.send(EVENT_LAUNCH_DONE)

    @call
    def wait_ready(self) -> None:
        """Nothing: `launch` returns when the handle is ready."""

    @call
    def shutdown(self) -> None:
        """Close the drives, and forget them."""
        self._close_drives()

    def _close_drives(self) -> None:
        self._drives.clear()
        self._mounts.clear()
        self._mountpoints.paths.clear()
        self._tree_or_none = None
        self._end_groups()
        if self._machine_or_none is not None:
            machine, self._machine_or_none = self._machine_or_none, None
            machine.close()
        while self._scratch:
            self._scratch.pop().close()

    kill_subprocess = shutdown

    def close(self) -> None:
        """`shutdown`, and the end of the handle: a method that is called after it raises `ClosedHandle`."""
        with self._lock:
            if self._closed:
                raise ClosedHandle("GuestFS: method called on closed handle")
            if self._settings.get("trace"):
                self._events.send(EVENT_TRACE, "close")
            self._close_drives()
            self._closed = True
            self._events.send(EVENT_CLOSE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    @call
    def get_state(self) -> int:
        """0 before the launch, 2 after it."""
        return _READY if self.is_ready() else _CONFIG

    @call
    def is_config(self) -> bool:
        """Whether the handle was not launched yet."""
        return not self.is_ready()

    @call
    def is_launching(self) -> bool:
        """False: `launch` is over when it returns."""
        return False

    @call
    def is_busy(self) -> bool:
        """False: a call is over when it returns."""
        return False

    @launched
    def get_pid(self) -> int:
        """The process that does the work: this one."""
        return os.getpid()

    @launched
    def ping_daemon(self) -> None:
        """Nothing, where the handle was launched."""

    @call
    def max_disks(self) -> int:
        """How many drives can be added."""
        return _MAX_DISKS

    # Events

    def set_event_callback(self, cb: Callback, event_bitmask: int) -> int:
        """Have `cb` called, with (event, event handle, text, numbers), for each event of the mask. Gives its handle."""
        return self._events.add(cb, event_bitmask)

    def delete_event_callback(self, event_handle: int) -> None:
        """Take back what `set_event_callback` set."""
        self._events.remove(event_handle)

    @call
    def user_cancel(self) -> None:
        """Nothing: a call is over when it returns."""
