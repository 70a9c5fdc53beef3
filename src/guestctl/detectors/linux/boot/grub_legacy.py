"""GRUB legacy, 0.9x (its manual, "Configuration" and "Commands"): ``menu.lst`` or ``grub.conf``.

``default`` is a number or ``saved``, which is in the file ``default`` beside. ``(hd0,1)`` is the second partition of
the first disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry

_CONFIGURATIONS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
_MAX_TITLES = 1000


@dataclass(slots=True)
class Title:
    """An entry as the file has it: commands with their arguments."""

    text: str
    commands: list[tuple[str, str]] = field(default_factory=list)


def read_entries(places: Places) -> list[BootEntry]:
    """The titles of the first configuration that there is."""
    source = next((name for name in _CONFIGURATIONS if places.is_file(name)), None)
    text = places.read_text(source) if source else None
    if source is None or text is None:
        return []
    settings, titles = parse(text)
    default = settings.get("default", "0")
    if default == "saved":
        saved = places.read_text(f"{source.rpartition('/')[0]}/default") or ""
        default = saved.split()[0] if saved.split() else "0"
    number = int(default[:6]) if default.isdecimal() else 0
    return [
        _entry(places, source, title, index == (number if number < len(titles) else 0))
        for index, title in enumerate(titles)
    ]


def parse(text: str) -> tuple[dict[str, str], list[Title]]:
    """The settings before the first title, and the titles."""
    settings: dict[str, str] = {}
    titles: list[Title] = []
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z]\w*)(?:\s*=\s*|\s+|$)(.*)", line)
        if match is None:
            continue
        command, argument = match[1].lower(), match[2].strip()
        if command == "title":
            if len(titles) < _MAX_TITLES:
                titles.append(Title(argument))
        elif titles:
            titles[-1].commands.append((command, argument))
        else:
            settings[command] = argument
    return settings, titles


def _entry(places: Places, source: str, title: Title, default: bool) -> BootEntry:
    device: str | None = places.origin(source)[0]
    kernel, command_line, initrds = None, "", []
    for command, argument in title.commands:
        words = [word for word in argument.split() if not word.startswith(("--type=", "--no-mem-option"))]
        if not words:
            continue
        if command in ("root", "rootnoverify"):
            device = _device(places, words[0])
        elif command == "uuid":
            device = places.machine.find_device(f"UUID={words[0]}")
        elif command == "kernel" or (command == "module" and (kernel or "").endswith(".gz")):
            # A hypervisor's first module is the kernel.
            kernel, command_line = _path(places, device, words[0]), " ".join(words[1:])
        elif command in ("initrd", "module"):
            initrds.append(_path(places, device, words[0]))
    return BootEntry(
        title=title.text,
        loader="grub-legacy",
        kernel=kernel,
        command_line=command_line,
        initramfs=initrds,
        default=default,
        source=source,
    )


def _path(places: Places, device: str | None, path: str) -> str:
    if path.startswith("("):
        name, _, path = path.partition(")")
        device = _device(places, name + ")")
    return places.locate(device, path)


def _device(places: Places, name: str) -> str | None:
    match = re.fullmatch(r"\(hd(\d{1,3})(?:,(\d{1,3}))?(?:,[a-z])?\)", name)
    disks = places.machine.disks
    if match is None or int(match[1]) >= len(disks):
        return None
    device = disks[int(match[1])].name + (str(int(match[2]) + 1) if match[2] else "")
    return device if device in places.machine.devices else None
