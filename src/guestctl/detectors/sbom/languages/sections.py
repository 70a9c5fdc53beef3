"""Sections of executables: ELF (System V ABI), PE (Microsoft's PE format) and Mach-O, of 32 and 64 bits."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat

_ELF, _MZ, _PE = b"\x7fELF", b"MZ", b"PE\0\0"
_MACH_O = {b"\xce\xfa\xed\xfe": ("<", 28), b"\xcf\xfa\xed\xfe": ("<", 32)}  # magic -> byte order, bytes of the header
# load command -> its structure, that of its sections, and how many bytes each of them takes
_SEGMENTS = {0x01: ("16xIIIIIIII", "16s16xIII", 68), 0x19: ("16xQQQQIIII", "16s16xQQI", 80)}
_NOBITS = 8
_MAX_SECTIONS = 0xFFFF
_MAX_TABLE_BYTES = 16 << 20
_MAX_NAME_BYTES = 64  # longer than those that are looked for


class Section(NamedTuple):
    name: bytes
    address: int
    offset: int
    size: int  # bytes in the file


class Image(NamedTuple):
    """An executable and its sections."""

    device: BlockDevice
    sections: list[Section]

    def section(self, *names: bytes) -> Section | None:
        return next((section for section in self.sections if section.name in names), None)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""
        length = max(0, min(length, self.device.size - offset))
        return bytes(self.device.read(offset, length)) if length else b""

    def at_address(self, address: int, length: int) -> bytes:
        """`length` bytes where they would be in memory. Raises `InvalidFormat`."""
        for section in self.sections:
            if section.address <= address and address + length <= section.address + section.size:
                return self.read(section.offset + address - section.address, length)
        raise InvalidFormat(
            f"{length} bytes at the address {address:#x} are in no section", structure="executable", offset=0
        )


def read_sections(device: BlockDevice) -> Image | None:
    """The executable on `device`; None where it is none that is known. Raises `InvalidFormat`."""
    image = Image(device, [])
    head = image.read(0, 64)
    if head.startswith(_ELF):
        image.sections.extend(_elf(image, head))
    elif head[:4] in _MACH_O:
        image.sections.extend(_mach_o(image, head))
    elif head.startswith(_MZ):
        image.sections.extend(_pe(image, head))
    else:
        return None
    return image


def _elf(image: Image, head: bytes) -> list[Section]:
    wide, order = head[4:5] == b"\2", ">" if head[5:6] == b"\2" else "<"
    fixed = Struct(order + ("40xQ10xHHH" if wide else "32xI10xHHH"))  # e_shoff, e_shentsize, e_shnum, e_shstrndx
    header = Struct(order + ("IIQQQQ24x" if wide else "IIIIII16x"))  # name, type, flags, address, offset, size
    if len(head) < fixed.size:
        raise _bad("its header is cut off", 0)
    offset, entry_bytes, count, names_index = fixed.unpack_from(head)
    if not count:
        return []
    table = image.read(offset, count * header.size)
    if entry_bytes != header.size or len(table) != count * header.size or names_index >= count:
        raise _bad(f"{count} section headers of {entry_bytes} bytes", offset)
    rows = list(header.iter_unpack(table))
    names = image.read(rows[names_index][4], min(rows[names_index][5], _MAX_TABLE_BYTES))
    return [
        Section(names[name : name + _MAX_NAME_BYTES].partition(b"\0")[0], address, at, size)
        for name, kind, _flags, address, at, size in rows
        if kind != _NOBITS
    ]


def _pe(image: Image, head: bytes) -> list[Section]:
    if len(head) < 64:
        return []
    start = int.from_bytes(head[60:64], "little")
    header = image.read(start, 24 + 32)
    if len(header) < 56 or not header.startswith(_PE):
        return []  # a program of DOS
    count = int.from_bytes(header[6:8], "little")
    optional_bytes = int.from_bytes(header[20:22], "little")
    wide = header[24:26] == b"\x0b\x02"
    base = int.from_bytes(header[48:56] if wide else header[52:56], "little")
    row = Struct("<8sIIII16x")  # name, bytes in memory, address, bytes in the file, offset
    table = image.read(start + 24 + optional_bytes, count * row.size)
    if len(table) != count * row.size:
        raise _bad(f"{count} section headers", start)
    return [
        Section(name.rstrip(b"\0"), base + address, offset, size)
        for name, _, address, size, offset in row.iter_unpack(table)
    ]


def _mach_o(image: Image, head: bytes) -> list[Section]:
    order, start = _MACH_O[head[:4]]
    commands, length = Struct(order + "16xII").unpack_from(head.ljust(32, b"\0"))
    if commands > _MAX_SECTIONS or length > _MAX_TABLE_BYTES:
        raise _bad(f"{commands} load commands of {length} bytes", 0)
    table = image.read(start, length)
    command, found, at = Struct(order + "II"), [], 0
    for _ in range(commands):
        if at + command.size > len(table):
            raise _bad("the load commands are cut off", start + at)
        kind, size = command.unpack_from(table, at)
        if size < command.size or at + size > len(table):
            raise _bad(f"a load command of {size} bytes", start + at)
        if kind in _SEGMENTS:
            found += _segment(table[at + command.size : at + size], order, *_SEGMENTS[kind])
        at += size
    return found


def _segment(data: bytes, order: str, segment: str, section: str, section_bytes: int) -> list[Section]:
    head, row = Struct(order + segment), Struct(order + section)
    if len(data) < head.size:
        raise _bad("a segment is cut off", 0)
    count = head.unpack_from(data)[-2]
    if head.size + count * section_bytes > len(data):
        raise _bad(f"{count} sections of a segment", 0)
    rows = (row.unpack_from(data, head.size + number * section_bytes) for number in range(count))
    return [Section(name.rstrip(b"\0"), address, offset, size) for name, address, size, offset in rows]


def _bad(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="executable", offset=offset)
