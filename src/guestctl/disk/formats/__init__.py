"""One room per image format, its reader and writer together, and the tables that find them.

A room has ``open_reader(image_file)``, which makes the reader, and where it can be written
``create_writer(output, size, options)``.
"""

from __future__ import annotations

from typing import NamedTuple

# format, as qemu-img names it -> its room
ROOMS = {
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vpc": "vhd",
    "vhdx": "vhdx",
    "vdi": "vdi",
    "ova": "ova",
    "gz": "compressed",
    "xz": "compressed",
    "zst": "compressed",
    "bz2": "compressed",
    "raw": "raw",
}


class FormatProbe(NamedTuple):
    """What tells a format: bytes at an offset, which counts from the end of the file where it is negative."""

    format: str
    offset: int
    magic: bytes


# In this order; a file that carries none of them is raw.
PROBES = (FormatProbe("qcow2", 0, b"QFI\xfb"),)
