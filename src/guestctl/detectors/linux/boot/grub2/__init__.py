"""GRUB 2: the menu that its configuration makes.

- A stub on the EFI system partition leads to the configuration on another filesystem, as Debian has it.
- Entries come from ``menuentry``, from ``submenu`` and, with ``blscfg``, from the Boot Loader Specification.
- ``default`` is a number, a title or an id; ``1>2`` leads into a submenu. It may come from ``grubenv``.

What a machine's own variables or a person at the console would change is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.detectors.linux.boot.grub2 import commands
from guestctl.detectors.linux.boot.grub2.interpreter import Interpreter, MenuEntry
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry

_MAX_MENU_LEVELS = 8


def read_entries(places: Places) -> list[BootEntry]:
    """The menu of the first configuration that makes one: those on EFI system partitions come first."""
    for name, platform in _configurations(places):
        device, path = places.origin(name)
        state = Interpreter(places, platform, commands.run)
        directory = f"({device}){path.rpartition('/')[0]}"
        state.variables |= {"root": device, "prefix": directory, "config_directory": directory}
        try:
            state.start(name)
        except (GuestctlError, OSError) as error:
            places.warn(name, error)
            continue
        if state.menu:
            return list(_entries(state, state.menu, state.variables.get("default", ""), ()))
    return []


def _configurations(places: Places) -> Iterator[tuple[str, str]]:
    for esp in places.esps:
        top = places.locate(esp, "/EFI")
        for vendor in places.listdir(top):
            if places.is_file(f"{top}/{vendor}/grub.cfg"):
                yield f"{top}/{vendor}/grub.cfg", "efi"
    for name in ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"):
        if places.is_file(name):
            yield name, "efi" if places.esps else "pc"


def _entries(
    state: Interpreter, menu: list[MenuEntry], default: str | None, titles: tuple[str, ...]
) -> Iterator[BootEntry]:
    """The entries of a menu, those of submenus in their places; `default` is None where none can be the default."""
    chosen, rest = _default(menu, default) if default is not None else (None, "")
    for index, entry in enumerate(menu):
        before = dict(state.variables)
        try:
            state.choose(entry)
        except (GuestctlError, OSError) as error:
            state.places.warn(entry.source, error)
            state.variables = before
            continue
        submenu, loaded = state.menu, state.loaded
        path = (*titles, entry.title)
        if submenu and len(path) < _MAX_MENU_LEVELS:
            yield from _entries(state, submenu, rest if index == chosen else None, path)
        else:
            yield BootEntry(
                title=">".join(path),
                loader="grub2",
                kernel=loaded.kernel,
                command_line=loaded.command_line,
                initramfs=loaded.initrds,
                default=index == chosen,
                source=entry.source,
            )
        state.variables = before


def _default(menu: list[MenuEntry], default: str) -> tuple[int, str]:
    """The number of the entry that `default` names, the first one for lack of another, and what is for its submenu."""
    match = re.match(r"((?:[^>]|>>)*)>?(.*)", default, re.DOTALL)
    head, rest = (match[1].replace(">>", ">"), match[2]) if match else (default, "")
    if head.isdecimal() and len(head) < 10:
        return (int(head) if int(head) < len(menu) else 0), rest
    return next((index for index, entry in enumerate(menu) if head in (entry.id, entry.title)), 0), rest
