"""Arrays of bytes: files, parts of them, and layers that map one array onto another."""

from guestctl.block.cache import CachedDevice
from guestctl.block.device import BlockDevice, Extent, MappedDevice, MemoryDevice, Run, SliceDevice, WritableDevice
from guestctl.block.file import FileDevice
from guestctl.block.output import Output, OutputFile
from guestctl.block.overlay import Overlay
from guestctl.block.stream import DeviceStream

__all__ = [
    "BlockDevice",
    "CachedDevice",
    "DeviceStream",
    "Extent",
    "FileDevice",
    "MappedDevice",
    "MemoryDevice",
    "Output",
    "OutputFile",
    "Overlay",
    "Run",
    "SliceDevice",
    "WritableDevice",
]
