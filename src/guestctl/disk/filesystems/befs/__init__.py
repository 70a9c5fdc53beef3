"""BFS of BeOS and Haiku, as in "Practical File System Design with the Be File System" (D. Giampaolo).

===========================================  =====================================================
blocks of 1024 to 8192 bytes                 read, in either byte order
direct and (double-)indirect block runs      read
directories (B+trees), links of any length   read
modes, owners and times in whole seconds     read
attributes, indices, queries                 not shown: Linux has none of them either
a log with transactions in it                refused by name
===========================================  =====================================================

Sizes and link counts are those of a Linux mount: a short link has no size, and everything has one name.
"""

from __future__ import annotations

from guestctl.disk.filesystems.befs.filesystem import BefsFileSystem, open_filesystem
from guestctl.disk.filesystems.befs.superblock import identify

__all__ = ["BefsFileSystem", "identify", "open_filesystem"]
