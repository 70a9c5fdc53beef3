"""The names that hyper2kvm imports, under the module name it imports them from."""

from guestctl import __version__
from guestctl.core.errors import (
    CommandFailed,
    ConversionError,
    DetectionError,
    GuestctlError,
    InvalidFormat,
    KeyRequired,
    LocationRefused,
    UnsupportedFeature,
)
from guestctl.core.retry import retry
from guestctl.core.types import DiskFormat, Firmware, GuestIdentity, GuestType
from guestctl.detectors import GuestDetector
from guestctl.disk import DiskReader, FileSystem, LoopDevice, NbdDevice, Partition, PartitionTable
from guestctl.guestfs import GuestFS, Guestfs
from guestctl.machine import Machine

__all__ = [
    "CommandFailed",
    "ConversionError",
    "DetectionError",
    "DiskFormat",
    "DiskReader",
    "FileSystem",
    "Firmware",
    "GuestDetector",
    "GuestFS",
    "GuestIdentity",
    "GuestType",
    "GuestctlError",
    "Guestfs",
    "InvalidFormat",
    "KeyRequired",
    "LocationRefused",
    "LoopDevice",
    "Machine",
    "NbdDevice",
    "Partition",
    "PartitionTable",
    "UnsupportedFeature",
    "__version__",
    "retry",
]
