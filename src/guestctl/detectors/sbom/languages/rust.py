"""What cargo-auditable puts into a Rust program: the section ``.dep-v0``, JSON in a zlib stream (its PARSING.md)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.sections import Image
from guestctl.detectors.sbom.languages.texts import members, parse_json

_MAX_BYTES = 8 << 20  # the limit that its documentation gives for the JSON


def packages(image: Image, path: str) -> Iterator[Package]:
    """The crates that are in the program, those only needed to build it left out. Raises `InvalidFormat`."""
    section = image.section(b".dep-v0")
    if section is None:
        return
    if section.size > _MAX_BYTES:
        raise _bad(f"{section.size} bytes", section.offset)
    try:
        text = zlib.decompressobj().decompress(image.read(section.offset, section.size), _MAX_BYTES)
    except zlib.error as error:
        raise _bad(str(error), section.offset) from None
    found = parse_json(text)
    crates = found.get("packages") if isinstance(found, dict) else None
    for crate in crates if isinstance(crates, list) else ():
        values = members(crate, "name", "version", "kind")
        if values["name"] and values["version"] and values["kind"] != "build":
            yield Package(manager="cargo", name=values["name"], version=values["version"], path=path)


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="section .dep-v0", offset=offset)
