"""Architecture: from the ELF header of a program that every system has (System V gABI, chapter 4)."""

from __future__ import annotations

import struct

from guestctl.detectors.files import Tree
from guestctl.detectors.report import Guest

_PROGRAMS = (
    "/bin/sh",
    "/bin/bash",
    "/bin/ls",
    "/bin/busybox",
    "/sbin/init",
    "/usr/bin/env",
    "/bin/true",
    "/usr/lib/systemd/systemd",
)

_ELFCLASS64 = 2
_ELFDATA2MSB = 2

# e_machine -> (32-bit, 64-bit) in the words of libguestfs's file_architecture
_MACHINES = {
    2: ("sparc", "sparc"),
    3: ("i386", "i386"),
    8: ("mips", "mips64"),
    18: ("sparc", "sparc"),
    20: ("ppc", "ppc"),
    21: ("ppc64", "ppc64"),
    22: ("s390", "s390x"),
    40: ("arm", "arm"),
    43: ("sparc64", "sparc64"),
    50: ("ia64", "ia64"),
    62: ("x86_64", "x86_64"),
    183: ("aarch64", "aarch64"),
    243: ("riscv32", "riscv64"),
    258: ("loongarch32", "loongarch64"),
}
_EM_PPC64 = 21


def detect_architecture(tree: Tree, guest: Guest) -> None:
    """The architecture of the first program that is an ELF file."""
    for path in _PROGRAMS:
        if tree.is_file(path):
            architecture = elf_architecture(bytes(tree.device(path).read(0, min(20, tree.stat(path).st_size))))
            if architecture is not None:
                guest.arch = architecture
                return


def elf_architecture(header: bytes) -> str | None:
    """The architecture that the first 20 bytes of an ELF file name, or None."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    big_endian = header[5] == _ELFDATA2MSB
    machine: int = struct.unpack_from(">H" if big_endian else "<H", header, 18)[0]
    if machine == _EM_PPC64 and not big_endian:
        return "ppc64le"
    names = _MACHINES.get(machine)
    return names[header[4] == _ELFCLASS64] if names else None
