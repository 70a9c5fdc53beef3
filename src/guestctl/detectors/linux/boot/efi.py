"""EFI system partitions: the programs that a UEFI firmware can start, and kernels that it starts itself.

A firmware's own boot entries are in the machine, not on its disks. On a disk are the fallback path,
``\\EFI\\BOOT\\BOOTX64.EFI`` and its like (UEFI specification, 3.5), and the files ``BOOTX64.CSV`` out of which
shim's fallback program makes entries: UTF-16 lines of file, label, arguments and comment.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import assignments
from guestctl.detectors.linux.boot.pe import PeFile, program, read_pe
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry, BootLoader

# Names that loaders have which do not say what they are, and programs that load nothing.
_NAMES = {"shim": "shim", "grub": "grub2", "systemd-boot": "systemd-boot", "bootmgfw": "bootmgr", "refind": "refind"}
_HELPERS = ("mm", "fb", "fwup", "mokmanager", "fallback", "bootmgr.efi", "memtest")
_MAX_CSV_BYTES = 64 << 10


def find_loaders(places: Places) -> Iterator[BootLoader]:
    """The programs in the directories of vendors, those in the fallback directory first."""
    for esp in places.esps:
        top = places.locate(esp, "/EFI")
        vendors = sorted(places.listdir(top), key=lambda name: (name.upper() != "BOOT", name))
        for directory in (f"{top}/{vendor}{below}" for vendor in vendors for below in ("", "/Boot")):
            files = places.listdir(directory)
            labels = _labels(places, directory, files)
            for file in files:
                name = file.lower()
                if name.endswith(".efi") and not name.startswith(_HELPERS):
                    path = f"{directory}/{file}"
                    known = next((found for prefix, found in _NAMES.items() if name.startswith(prefix)), "unknown")
                    yield BootLoader(
                        name=_program(places, path) or known,
                        firmware="uefi",
                        path=path,
                        label=labels.get(name, ""),
                    )


def read_entries(places: Places, loaders: list[BootLoader]) -> list[BootEntry]:
    """The kernels among `loaders`; one is the default where a firmware finds it without an entry of its own.

    Those that are in systemd-boot's menu are left out.
    """
    entries = []
    has_menu = any(loader.name == "systemd-boot" for loader in loaders)
    for loader in loaders:
        if loader.name == "linux" and not (has_menu and loader.path.upper().rpartition("/")[0].endswith("/EFI/LINUX")):
            fallback = loader.path.rpartition("/")[0].upper().endswith("/EFI/BOOT")
            pe = open_pe(places, loader.path)
            entries.append(
                unified_entry(places, pe, loader.path, title=loader.label, loader="uefi", default=fallback)
                if pe is not None
                else BootEntry(title=loader.label, loader="uefi", kernel=loader.path, source=loader.path)
            )
    return entries


def unified_entry(
    places: Places, pe: PeFile, path: str, *, title: str = "", loader: str, default: bool = False
) -> BootEntry:
    """The entry of a unified kernel image; it is its own initramfs."""
    return BootEntry(
        title=title or release(pe).get("PRETTY_NAME") or path.rpartition("/")[2],
        loader=loader,
        kernel=path,
        command_line=pe.text(".cmdline"),
        initramfs=[path] if ".initrd" in pe.sections else [],
        default=default,
        source=path,
    )


def release(pe: PeFile) -> dict[str, str]:
    """The os-release(5) in a unified kernel image."""
    return dict(assignments(pe.text(".osrel")))


def open_pe(places: Places, path: str) -> PeFile | None:
    """A file's sections; what is no PE file is a warning and None."""
    try:
        return read_pe(places.open(path))
    except (GuestctlError, OSError) as error:
        places.warn(path, error)
        return None


def _program(places: Places, path: str) -> str | None:
    pe = open_pe(places, path)
    return program(pe) if pe is not None else None


def _labels(places: Places, directory: str, files: list[str]) -> dict[str, str]:
    """File names in lower case -> labels."""
    labels = {}
    for file in files:
        if file.upper().startswith("BOOT") and file.upper().endswith(".CSV"):
            try:
                device = places.open(f"{directory}/{file}")
                data = bytes(device.read(0, min(device.size, _MAX_CSV_BYTES)))
            except (GuestctlError, OSError) as error:
                places.warn(f"{directory}/{file}", error)
                continue
            text = data.decode("utf-16-be" if data[:2] == b"\xfe\xff" else "utf-16-le", "replace").lstrip("\ufeff")
            fields = (line.split(",") for line in text.splitlines())
            labels.update({one[0].strip().lower(): one[1].strip() for one in fields if len(one) > 1})
    return labels
