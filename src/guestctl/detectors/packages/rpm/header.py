"""A package's header ("RPM V4 Package format", section "Header format"): an index of tags, then their data.

In a database the header begins with its two counts, without the magic that it has in a package file.
Numbers are big-endian.
"""

from __future__ import annotations

from struct import Struct

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.report import Application

_COUNTS = Struct(">II")
_ENTRY = Struct(">IIiI")  # tag, type, offset, count
_INT32 = Struct(">I")
_MAX_TAGS = 0xFFFF  # rpm's own limit
_TYPE_INT32, _TYPE_STRING, _TYPE_I18N = 4, 6, 9
_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY = 1000, 1001, 1002, 1003, 1004
_VENDOR, _URL, _ARCH, _SOURCE = 1011, 1020, 1022, 1044
_WANTED = frozenset((_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY, _VENDOR, _URL, _ARCH, _SOURCE))


def parse_header(blob: bytes) -> Application:
    """What a header says of its package. Raises `InvalidFormat`."""
    if len(blob) < _COUNTS.size:
        raise _bad(f"{len(blob)} bytes")
    tags, size = _COUNTS.unpack_from(blob)
    start = _COUNTS.size + tags * _ENTRY.size
    if tags > _MAX_TAGS or start + size > len(blob):
        raise _bad(f"{tags} tags and {size} bytes of data in {len(blob)}")
    values: dict[int, str] = {}
    epoch = 0
    for tag, kind, offset, _count in _ENTRY.iter_unpack(blob[_COUNTS.size : start]):
        if tag not in _WANTED:
            continue
        at = start + offset
        if not start <= at < start + size:
            raise _bad(f"the value of tag {tag} is at {offset} of {size}")
        if tag == _EPOCH and kind == _TYPE_INT32 and at + _INT32.size <= len(blob):
            epoch = _INT32.unpack_from(blob, at)[0]
        elif kind in (_TYPE_STRING, _TYPE_I18N):  # of several languages the first is C
            end = blob.find(b"\0", at, start + size)
            if end < 0:
                raise _bad(f"the value of tag {tag} does not end")
            values[tag] = blob[at:end].decode("utf-8", "surrogateescape")
    if not values.get(_NAME):
        raise _bad("no name")
    return Application(
        name=values[_NAME],
        epoch=epoch,
        version=values.get(_VERSION, ""),
        release=values.get(_RELEASE, ""),
        arch=values.get(_ARCH, ""),
        summary=values.get(_SUMMARY, ""),
        url=values.get(_URL, ""),
        publisher=values.get(_VENDOR, ""),
        source=values.get(_SOURCE, ""),
    )


def _bad(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="rpm header", offset=0)
