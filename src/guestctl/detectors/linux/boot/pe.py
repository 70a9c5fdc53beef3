"""Sections of PE files (Microsoft's "PE Format"), and what loaders and unified kernel images put in them.

A unified kernel image (UAPI Group) has the sections ``.linux``, ``.initrd``, ``.cmdline``, ``.osrel``, ``.uname``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guestctl.block import BlockDevice
from guestctl.block.device import SliceDevice
from guestctl.core.errors import InvalidFormat

_DOS_MAGIC = b"MZ"
_LFANEW = struct.Struct("<60xI")
_COFF_HEADER = struct.Struct("<4s2xH12xH2x")  # Signature, NumberOfSections, SizeOfOptionalHeader
_SECTION = struct.Struct("<8sI4xII16x")  # Name, VirtualSize, SizeOfRawData, PointerToRawData
_MAX_SECTIONS = 96  # of the Windows loader; UKIs have a dozen
_MAX_TEXT_BYTES = 64 << 10
_BZIMAGE_MAGIC_OFFSET = 0x202  # Linux/x86 boot protocol
_BZIMAGE_MAGIC = b"HdrS"


@dataclass(frozen=True, slots=True)
class PeFile:
    """A PE file and where its sections lie."""

    device: BlockDevice
    sections: dict[str, tuple[int, int]]  # name -> offset and length in bytes

    def section(self, name: str) -> SliceDevice | None:
        """The content of a section, or None where there is none."""
        found = self.sections.get(name)
        return SliceDevice(self.device, *found) if found else None

    def text(self, name: str) -> str:
        """A section of text, without the zeros and blanks at its end; empty where there is none."""
        section = self.section(name)
        if section is None:
            return ""
        data = bytes(section.read(0, min(section.size, _MAX_TEXT_BYTES)))
        return data.decode("utf-8", "surrogateescape").rstrip("\0").strip()


def read_pe(device: BlockDevice) -> PeFile:
    """The sections of a file; `InvalidFormat` where it is no PE file."""
    if device.size < _LFANEW.size or bytes(device.read(0, 2)) != _DOS_MAGIC:
        raise _invalid("no MZ at its start", 0)
    (offset,) = _LFANEW.unpack(device.read(0, _LFANEW.size))
    if offset + _COFF_HEADER.size > device.size:
        raise _invalid("the file ends before it", offset)
    signature, count, optional_bytes = _COFF_HEADER.unpack(device.read(offset, _COFF_HEADER.size))
    if signature != b"PE\0\0" or count > _MAX_SECTIONS:
        raise _invalid(f"signature {signature!r}, {count} sections", offset)
    offset += _COFF_HEADER.size + optional_bytes
    if offset + count * _SECTION.size > device.size:
        raise _invalid("the file ends before its sections", offset)
    sections = {}
    for name, virtual_size, size, start in _SECTION.iter_unpack(bytes(device.read(offset, count * _SECTION.size))):
        length = min(virtual_size, size) or size
        text = name.rstrip(b"\0").decode("ascii", "replace")
        if start + length > device.size:
            raise _invalid(f"the file ends before the section {text}", offset)
        sections[text] = (start, length)
    return PeFile(device, sections)


def program(pe: PeFile) -> str | None:
    """What an EFI program is: "linux", "systemd-boot", "shim", "grub2"; None where it does not say."""
    device = pe.device
    if ".linux" in pe.sections:
        return "linux"
    if device.size >= 0x206 and bytes(device.read(_BZIMAGE_MAGIC_OFFSET, 4)) == _BZIMAGE_MAGIC:
        return "linux"
    if "systemd-boot" in pe.text(".sdmagic"):
        return "systemd-boot"
    # SBAT: lines of values with commas, the first of each a component.
    components = {line.partition(",")[0] for line in pe.text(".sbat").splitlines()}
    if "shim" in components:
        return "shim"
    return "grub2" if "grub" in components or "mods" in pe.sections else None


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="PE header", offset=offset)
