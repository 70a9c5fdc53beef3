"""UDF (ECMA-167, and OSTA UDF 1.02 to 2.60), also on a disc that is ISO 9660 as well.

===========================================  =====================================================
blocks of 512 to 4096 bytes                  read
anchors at 256, N - 256 and N                read, the first that is sound
main and reserve sequences of descriptors    read, prevailing ones by their numbers
physical, virtual, sparable partitions       read; a virtual allocation table of 1.50 or 2.00
metadata partitions                          read, by the mirror file where the main one is damaged
file entries and extended ones               read; ICB strategies 4 and 4096
short, long and embedded descriptors         read; extended ones are refused by name
extents not recorded or not allocated        zeros
links, device numbers, owners, modes         read
checksums and CRCs of descriptors            verified
streams, extended attributes                 not shown: Linux has none of them either
several sessions                             the one whose anchor is found as above
===========================================  =====================================================

Names, link counts and inode numbers are those of a Linux mount: hidden files are not shown, a directory's
link count has one more than is recorded, and characters that cannot be in a name become ``_`` with a CRC.
"""

from __future__ import annotations

from guestctl.disk.filesystems.udf.filesystem import UdfFileSystem, open_filesystem
from guestctl.disk.filesystems.udf.recognition import identify

__all__ = ["UdfFileSystem", "identify", "open_filesystem"]
