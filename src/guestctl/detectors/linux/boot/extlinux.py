"""SYSLINUX and its kin, EXTLINUX above all, and U-Boot, which reads the same files (SYSLINUX's doc/syslinux.txt).

A relative path begins at the directory of the configuration. ``DEFAULT`` names a label, or like ``UI`` the menu
program, whose own default is the label with ``MENU DEFAULT``; else the first label is taken, as U-Boot and menus do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath

from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry

_CONFIGURATIONS = (
    *("/boot/extlinux/extlinux.conf", "/boot/syslinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"),
    *("/boot/extlinux.conf", "/boot/syslinux.cfg", "/extlinux/extlinux.conf", "/extlinux.conf", "/syslinux.cfg"),
)
_ESP_CONFIGURATIONS = ("/EFI/syslinux/syslinux.cfg", "/EFI/BOOT/syslinux.cfg")
_KERNEL_WORDS = ("kernel", "linux", "boot", "com32", "bss", "pxe", "fdimage")
_MAX_FILES = 32
_MAX_LABELS = 1000


@dataclass(slots=True)
class Label:
    """An entry as the file has it; paths are the file's."""

    name: str
    title: str = ""
    kernel: str = ""
    append: str | None = None
    initrds: list[str] = field(default_factory=list)
    menu_default: bool = False


@dataclass(slots=True)
class Configuration:
    default: str = ""
    append: str = ""
    ui: bool = False  # a menu program is named
    labels: list[Label] = field(default_factory=list)
    files: int = 0

    def chosen(self) -> Label | None:
        """The label that starts when nobody chooses; None where there are none."""
        marked = [one for one in self.labels if one.menu_default]
        words = self.default.lower().split()
        named = [one for one in self.labels if [one.name.lower()] == words[:1]]
        has_menu = self.ui or not named
        return next(iter([*(marked if has_menu else ()), *named, *self.labels]), None)


def read_entries(places: Places) -> list[BootEntry]:
    """The labels of the first configuration that there is."""
    on_esps = [places.locate(esp, path) for esp in places.esps for path in _ESP_CONFIGURATIONS]
    source = next((name for name in [*_CONFIGURATIONS, *on_esps] if places.is_file(name)), None)
    if source is None:
        return []
    found = Configuration()
    _read(places, source, found)
    chosen = found.chosen()
    return [_entry(places, source, found, label, label is chosen) for label in found.labels]


def _entry(places: Places, source: str, found: Configuration, label: Label, default: bool) -> BootEntry:
    append = found.append if label.append is None else label.append.strip()
    words = [] if append == "-" else append.split()
    initrds = label.initrds + [
        path for word in words if word.startswith("initrd=") for path in word.removeprefix("initrd=").split(",")
    ]
    return BootEntry(
        title=label.title or label.name,
        loader="extlinux",
        kernel=_path(places, source, label.kernel) if label.kernel else None,
        command_line=" ".join(words),
        initramfs=[_path(places, source, path) for path in initrds if path],
        default=default,
        source=source,
    )


def _path(places: Places, source: str, path: str) -> str:
    """What the guest calls `path`, which is absolute on the filesystem of `source`, or relative to it."""
    device, own_path = places.origin(source)
    return places.locate(device, normpath(join(dirname(own_path), path)))


def _read(places: Places, name: str, found: Configuration) -> None:
    found.files += 1
    text = places.read_text(name) if found.files <= _MAX_FILES else None
    if text is not None:
        for included in parse(text, found):
            _read(places, _path(places, name, included), found)


def parse(text: str, found: Configuration) -> Iterator[str]:
    """Put what a file says into `found`; yields the files that it includes, in their places."""
    for line in text.splitlines():
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        key, value = key.lower(), value.strip()
        label = found.labels[-1] if found.labels else None
        if key == "menu":
            key, _, value = value.partition(" ")
            key, value = f"menu {key.lower()}", value.strip()
        if key in ("include", "menu include") and value:
            yield value.split()[0]
        elif key == "label" and len(found.labels) < _MAX_LABELS:
            found.labels.append(Label(value))
        elif key == "default":
            found.default = value
        elif key == "ui":
            found.ui = True
        elif key == "append" and label is None:
            found.append = value
        elif label is not None:
            _set(label, key, value)


def _set(label: Label, key: str, value: str) -> None:
    if key in _KERNEL_WORDS:
        label.kernel = value
    elif key == "append":
        label.append = value
    elif key == "initrd":
        label.initrds += value.split(",")
    elif key == "menu label":
        label.title = value.replace("^", "", 1)
    elif key == "menu default":
        label.menu_default = True
