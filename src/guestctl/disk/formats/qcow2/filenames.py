"""File names in a qcow2 header: plain names, ``file:NAME`` and ``json:{...}`` pseudo-names.

A name with another protocol (``nbd://host/``) is refused by the protocol's name, a ``json:`` name by
the first driver or option that is not about a local file. Relative names are relative to the image;
qemu takes those in ``file:`` and ``json:`` names as relative to its working directory.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from guestctl.core.errors import InvalidFormat, UnsupportedFeature

_PROTOCOL = re.compile(r"([^/:]*):")  # qemu: a colon before any slash
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_FILE_DRIVERS = ("file", "host_device")
# Options that say how qemu opens a file and not what is in it.
_HARMLESS = frozenset(
    ("node-name", "read-only", "auto-read-only", "discard", "detect-zeroes", "force-share", "locking", "aio")
)
_MAX_DEPTH = 8


class Reference(NamedTuple):
    """A local file, and its format where the name or the header says so."""

    path: str
    format: str | None


def parse_reference(name: str, format: str | None) -> Reference:
    """What `name` means; `format` is the header's, which qemu lets override a name's own."""
    if format in _FILE_DRIVERS:
        format = "raw"
    match = None if os.name == "nt" and _DRIVE.match(name) else _PROTOCOL.match(name)
    if match is None:
        return Reference(name, format)
    protocol, rest = match[1], name[match.end() :]
    if protocol == "file":
        return Reference(rest, format)
    if protocol == "json":
        reference = _parse_json(rest)
        return Reference(reference.path, format or reference.format)
    raise UnsupportedFeature(f"{name!r}: files over protocol {protocol!r}", feature=f"protocol {protocol}")


def _parse_json(text: str) -> Reference:
    import json

    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"json: name is no JSON: {text[:80]!r}") from error
    if not isinstance(options, dict):
        raise _invalid("json: name is no object")
    return _from_options(_nested(options), depth=0)


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys (``file.filename``) as the objects they stand for."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        target = result
        *parents, last = key.split(".")
        for parent in parents:
            child = target.setdefault(parent, {})
            if not isinstance(child, dict):
                raise _invalid(f"json: name contradicts itself at {key!r}")
            target = child
        if isinstance(value, dict) and isinstance(target.get(last), dict):
            target[last].update(value)
        else:
            target[last] = value
    return result


def _from_options(options: dict[str, Any], *, depth: int) -> Reference:
    driver = options.pop("driver", None)
    if driver is not None and not isinstance(driver, str):
        raise _invalid("json: name whose driver is no string")
    for key in options:
        if key not in _HARMLESS and key not in ("file", "filename", "cache"):
            raise UnsupportedFeature(f"json: file name with option {key!r}", feature=f"option {key}")
    filename, file = options.get("filename"), options.get("file")
    if isinstance(filename, str) and file is None and driver in (None, *_FILE_DRIVERS):
        return Reference(filename, None)
    if isinstance(file, dict) and filename is None and driver not in _FILE_DRIVERS and depth < _MAX_DEPTH:
        below = _from_options(file, depth=depth + 1)
        if below.format not in (None, "raw"):
            raise UnsupportedFeature(f"json: file name with {driver!r} on {below.format!r}", feature="nested formats")
        return Reference(below.path, driver)
    if driver is not None and driver not in _FILE_DRIVERS and file is None:
        raise UnsupportedFeature(f"json: file name with driver {driver!r}", feature=f"driver {driver}")
    raise _invalid("json: name without one local file name")


def _invalid(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="backing file name", offset=0)
