"""HFS Plus and HFSX, as in Apple's Technical Note TN1150.

===========================================  =====================================================
volumes of their own, or in an HFS wrapper   read; by the alternate header where the first is damaged
blocks of 512 bytes to 1 MiB                 read
catalog, extents overflow, attributes        read, in nodes of 512 bytes to 32 KiB
hard links to files                          read; those to directories are files, as on Linux
owners, modes, device numbers, dates         read
resource forks                               ``HfsPlusFileSystem.resource_fork``
extended attributes, inline and in extents   read, with Linux's names: ``osx.`` before what macOS wrote
compressed files (decmpfs)                   stored and zlib; LZVN, LZFSE and others are refused by name
a journal with transactions in it            replayed into an overlay, up to one that is not complete
a journal on another device                  refused by name
plain HFS                                    refused by name
===========================================  =====================================================

Names are composed, ``/`` in them is ``:`` and NUL is U+2400, as Linux shows them; what is beyond the Basic
Multilingual Plane, which Linux has as ``??``, is read. Names are found in any case but in a case-sensitive HFSX.
Dates before 1970 are taken for such after 2040, as on Linux.
"""

from __future__ import annotations

from guestctl.disk.filesystems.hfsplus.filesystem import HfsPlusFileSystem, identify, open_filesystem

__all__ = ["HfsPlusFileSystem", "identify", "open_filesystem"]
