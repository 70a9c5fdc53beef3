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
PROBES = (
    FormatProbe("qcow2", 0, b"QFI\xfb"),
    FormatProbe("vmdk", 0, b"KDMV"),
    FormatProbe("vmdk", 0, b"COWD"),
    FormatProbe("vmdk", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),  # seSparse
    FormatProbe("vmdk", 0, b"# Disk DescriptorFile"),
    FormatProbe("vhdx", 0, b"vhdxfile"),
    FormatProbe("vdi", 64, b"\x7f\x10\xda\xbe"),
    FormatProbe("vpc", 0, b"conectix"),
    FormatProbe("ova", 257, b"ustar"),
    FormatProbe("ova", 0, b"<?xml"),
    FormatProbe("ova", 0, b"\xef\xbb\xbf<?xml"),
    FormatProbe("ova", 0, b"<Envelope"),
    FormatProbe("ova", 0, b"<ovf:Envelope"),
    FormatProbe("gz", 0, b"\x1f\x8b\x08"),
    FormatProbe("xz", 0, b"\xfd7zXZ\0"),
    FormatProbe("zst", 0, b"\x28\xb5\x2f\xfd"),
    FormatProbe("zst", 0, b"\x50\x2a\x4d\x18"),  # pzstd's skippable frame before the first
    FormatProbe("bz2", 4, b"1AY&SY"),
    # A fixed VHD is a raw disk with a footer, of 512 bytes or, in old files, 511.
    FormatProbe("vpc", -512, b"conectix"),
    FormatProbe("vpc", -511, b"conectix"),
)
