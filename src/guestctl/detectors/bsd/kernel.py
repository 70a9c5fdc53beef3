"""The file of a BSD kernel: the line that tells its version, and the names of the drivers that are in it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from guestctl.block import BlockDevice

# The names that systems give themselves, which begin the lines that tell a release.
NAMES = {"freebsd": "FreeBSD", "netbsd": "NetBSD", "openbsd": "OpenBSD", "dragonfly": "DragonFly"}
_MAX_KERNEL_BYTES = 256 << 20
_CHUNK_BYTES = 4 << 20
_LONGEST = 256


def version_line(name: str) -> re.Pattern[bytes]:
    """The line of which uname(1) shows a part, as ``OpenBSD 7.4 (GENERIC) #1336: Tue Oct …``."""
    return re.compile(rb"%s v?\d+\.\d[\w.-]* [^\n\0]{1,200}(?=[\n\0])" % name.encode())


def search(kernel: BlockDevice, patterns: Mapping[str, re.Pattern[bytes]]) -> dict[str, str]:
    """What the patterns, of at most 256 bytes, find first; reading ends where all have."""
    found: dict[str, str] = {}
    tail = b""
    for buffer in kernel.buffers(0, min(kernel.size, _MAX_KERNEL_BYTES)):
        for start in range(0, len(buffer), _CHUNK_BYTES):
            data = tail + bytes(buffer[start : start + _CHUNK_BYTES])
            for name in patterns.keys() - found.keys():
                match = patterns[name].search(data)
                if match:
                    found[name] = match[0].decode("utf-8", "replace").strip()
            if len(found) == len(patterns):
                return found
            tail = data[-_LONGEST:]
    return found
