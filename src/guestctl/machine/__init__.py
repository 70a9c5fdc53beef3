"""``Machine``: the disks of one virtual machine, assembled into devices and mount points."""

from guestctl.machine.devices import Disk
from guestctl.machine.machine import FoundFilesystem, Guest, Machine
from guestctl.machine.roots import windows_root
from guestctl.machine.tree import MountTree

__all__ = ["Disk", "FoundFilesystem", "Guest", "Machine", "MountTree", "windows_root"]
