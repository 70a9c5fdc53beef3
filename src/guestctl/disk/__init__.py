"""What the bytes of a disk mean: image formats, partitions, volumes, filesystems."""

from guestctl.disk.filesystem import FileSystem
from guestctl.disk.partition import Partition, PartitionTable
from guestctl.disk.reader import DiskReader

__all__ = ["DiskReader", "FileSystem", "Partition", "PartitionTable"]
