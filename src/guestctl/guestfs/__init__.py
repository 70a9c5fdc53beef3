"""A handle with the calls of libguestfs's Python binding: ``from guestctl import guestfs`` for ``import guestfs``.

Names, arguments, results and messages are those of guestfs(3) and guestfs-python(3). What changes a disk is not there
yet, and raises ``NotImplementedError`` (which is a ``RuntimeError``) that names the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl.guestfs.archives import Archives
from guestctl.guestfs.attributes import Attributes
from guestctl.guestfs.availability import Availability
from guestctl.guestfs.block_devices import BlockDevices
from guestctl.guestfs.calls import ClosedHandle, GuestFSError
from guestctl.guestfs.contents import Contents
from guestctl.guestfs.details import Details
from guestctl.guestfs.disk_images import DiskImages
from guestctl.guestfs.drives import Drives
from guestctl.guestfs.events import (
    EVENT_ALL,
    EVENT_APPLIANCE,
    EVENT_CLOSE,
    EVENT_ENTER,
    EVENT_LAUNCH_DONE,
    EVENT_LIBRARY,
    EVENT_LIBVIRT_AUTH,
    EVENT_PROGRESS,
    EVENT_SUBPROCESS_QUIT,
    EVENT_TRACE,
    EVENT_WARNING,
)
from guestctl.guestfs.files import Files
from guestctl.guestfs.hives import Hives
from guestctl.guestfs.inspection import Inspection
from guestctl.guestfs.journals import Journals
from guestctl.guestfs.listing import Listing
from guestctl.guestfs.local_mounts import LocalMounts
from guestctl.guestfs.lvm_reports import LvmReports
from guestctl.guestfs.mounting import Mounting
from guestctl.guestfs.partitions import Partitions
from guestctl.guestfs.refused import REFUSED, refusal
from guestctl.guestfs.settings import Settings
from guestctl.guestfs.superblocks import Superblocks
from guestctl.guestfs.text import Text
from guestctl.guestfs.walking import Walking

__all__ = [
    "EVENT_ALL",
    "EVENT_APPLIANCE",
    "EVENT_CLOSE",
    "EVENT_ENTER",
    "EVENT_LAUNCH_DONE",
    "EVENT_LIBRARY",
    "EVENT_LIBVIRT_AUTH",
    "EVENT_PROGRESS",
    "EVENT_SUBPROCESS_QUIT",
    "EVENT_TRACE",
    "EVENT_WARNING",
    "ClosedHandle",
    "GuestFS",
    "GuestFSError",
    "Guestfs",
]


class GuestFS(
    Drives,
    Settings,
    Mounting,
    Files,
    Listing,
    Attributes,
    LocalMounts,
    Archives,
    Contents,
    Text,
    BlockDevices,
    Partitions,
    Inspection,
    LvmReports,
    Details,
    Hives,
    Journals,
    Superblocks,
    Walking,
    DiskImages,
    Availability,
):
    """A handle: add drives, ``launch()``, mount, read.

    ``python_return_dict=True`` gives tables as dicts; otherwise they are lists of pairs. ``environment=False`` leaves
    ``LIBGUESTFS_…`` variables alone. ``close_on_exit`` is taken, and what is open is closed with the process anyway.
    ``keys`` and ``options`` are those of `guestctl.machine.Machine`, and no part of libguestfs's interface.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


for _name, _reason in REFUSED.items():
    setattr(GuestFS, _name, refusal(_name, _reason))

Guestfs = GuestFS
