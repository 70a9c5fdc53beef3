"""``/etc/fstab``, as fstab(5) and getmntent(3) describe it, and ``/etc/crypttab``, as crypttab(5) does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class FstabEntry(NamedTuple):
    """One line. ``spec`` and ``mountpoint`` are unescaped; ``mountpoint`` is absolute."""

    spec: str
    mountpoint: str
    type: str
    options: tuple[str, ...]


def parse_fstab(text: str) -> Iterator[FstabEntry]:
    """The lines that mount something from a device on a path."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        spec, mountpoint, type_ = (unescape(field) for field in fields[:3])
        if not mountpoint.startswith("/") or type_ == "swap" or not _names_device(spec):
            continue
        options = tuple(fields[3].split(",")) if len(fields) > 3 else ()
        if "bind" in options or "rbind" in options:
            continue
        yield FstabEntry(spec, "/" + mountpoint.strip("/"), type_, options)


def parse_crypttab(text: str) -> Iterator[tuple[str, str]]:
    """(name, device) of each line that unlocks one."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith("#"):
            yield fields[0], fields[1]


def _names_device(spec: str) -> bool:
    """NetBSD writes the name of a wedge as ``NAME=…``, OpenBSD the identifier of a disklabel and a letter."""
    tag, equals, _ = spec.partition("=")
    known = equals and tag in ("UUID", "LABEL", "PARTUUID", "PARTLABEL", "NAME")
    return bool(known) or spec.startswith("/dev/") or re.fullmatch(r"[0-9a-f]{16}\.[a-p]", spec) is not None


def unescape(field: str) -> str:
    """A field as it is meant: spaces and the like are written in octal: ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8) & 0xFF), field)
