"""Go's build information, as the documentation of the package debug/buildinfo has it.

``\\xff Go buildinf:``, the size of a pointer, and flags. Since Go 1.18 two strings follow, each with its length as
a varint; before, two pointers to strings, which are pointers with lengths. The first is Go's version, the second a
module a line, between two marks of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages.sections import Image

_MAGIC = b"\xff Go buildinf:"
_HEADER_BYTES, _ALIGNMENT = 32, 16
_BIG_ENDIAN, _INLINE = 1, 2
_MARK_BYTES = 16
_SEARCHED_BYTES = 1 << 20  # as Go does: the linker puts it at the beginning
_MAX_BYTES = 16 << 20
_MAX_VARINT_BYTES = 5

_Order = Literal["little", "big"]


def packages(image: Image, path: str) -> Iterator[Package]:
    """The main module, those that it depends on, and the standard library. Raises `InvalidFormat`."""
    found = build_info(image)
    if found is None:
        return
    version, modules = found
    rows = parse_modules(modules)
    release = version.split(" ")[0].removeprefix("go")
    for module, module_version in [*rows, ("stdlib", release)]:
        namespace, _, name = module.rpartition("/")
        # "(devel)": built from a working tree, whose version nobody said.
        known = "" if module_version == "(devel)" else module_version
        yield Package(manager="golang", namespace=namespace, name=name, version=known, path=path)


def build_info(image: Image) -> tuple[str, str] | None:
    """Go's version and the modules; None where the program is not Go's."""
    section = image.section(b".go.buildinfo", b"__go_buildinfo") or image.section(b".data")
    if section is None:
        return None
    data = image.read(section.offset, min(section.size, _SEARCHED_BYTES))
    start = data.find(_MAGIC)
    while start >= 0 and start % _ALIGNMENT:
        start = data.find(_MAGIC, start + 1)
    if start < 0 or start + _HEADER_BYTES > len(data):
        return None
    pointer_bytes, flags = data[start + 14], data[start + 15]
    if flags & _INLINE:
        first, second = _inline(image, section.offset + start + _HEADER_BYTES)
    else:
        order: _Order = "big" if flags & _BIG_ENDIAN else "little"
        if pointer_bytes not in (4, 8):
            raise _bad(f"pointers of {pointer_bytes} bytes", section.offset + start)
        at = start + 16
        pointers = (data[at : at + pointer_bytes], data[at + pointer_bytes : at + 2 * pointer_bytes])
        first, second = (_pointed(image, int.from_bytes(one, order), pointer_bytes, order) for one in pointers)
    framed = len(second) > 2 * _MARK_BYTES and second[-_MARK_BYTES - 1 : -_MARK_BYTES] == b"\n"
    modules = second[_MARK_BYTES:-_MARK_BYTES] if framed else b""
    return first.decode("utf-8", "replace"), modules.decode("utf-8", "replace")


def _inline(image: Image, offset: int) -> tuple[bytes, bytes]:
    found = []
    for _ in range(2):
        length, used = _varint(image.read(offset, _MAX_VARINT_BYTES), offset)
        data = image.read(offset + used, length) if length <= _MAX_BYTES else b""
        if len(data) != length:
            raise _bad(f"a string of {length} bytes", offset)
        found.append(data)
        offset += used + length
    return found[0], found[1]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and how many bytes it takes."""
    value = 0
    for number, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, number + 1
    raise _bad("a length does not end", offset)


def _pointed(image: Image, address: int, pointer_bytes: int, order: _Order) -> bytes:
    if not address:
        return b""
    header = image.at_address(address, 2 * pointer_bytes)
    start, length = (int.from_bytes(part, order) for part in (header[:pointer_bytes], header[pointer_bytes:]))
    if length > _MAX_BYTES:
        raise _bad(f"a string of {length} bytes", 0)
    return image.at_address(start, length) if length else b""


def parse_modules(text: str) -> list[tuple[str, str]]:
    """(path, version) of the modules: ``mod`` the main one, ``dep`` another, ``=>`` what replaces the one before."""
    found: list[tuple[str, str]] = []
    for line in text.split("\n"):
        kind, _, rest = line.partition("\t")
        parts = rest.split("\t")
        if kind == "=>" and found:
            replaced, _ = found.pop()
            if parts[0].startswith((".", "/")):  # a directory, whose version nobody said
                parts = [replaced]
        if kind in ("mod", "dep", "=>") and parts[0]:
            found.append((parts[0], parts[1] if len(parts) > 1 else ""))
    return found


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="Go build information", offset=offset)
