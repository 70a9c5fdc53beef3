"""How a BSD system boots: loader.conf(5) of FreeBSD and DragonFly, boot.cfg(5) of NetBSD, boot.conf(8) of OpenBSD.

What a person would choose at the prompt is not known. Loaders written in Lua and Forth may be told otherwise by
scripts of their own, which are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.core.errors import GuestctlError
from guestctl.core.types import GuestType
from guestctl.detectors.bsd.kernel import search
from guestctl.detectors.firmware import boot_sector_loader
from guestctl.detectors.linux.boot.efi import find_loaders
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.boot import Boot, BootDriver, BootEntry, BootLoader
from guestctl.detectors.system import System

_SETTING = re.compile(r'^[ \t]*([\w.-]+)[ \t]*=[ \t]*(?:"((?:\\.|[^"\\\n])*)"|([^\s#"]*))', re.MULTILINE)
_CONF_FILES = "/boot/device.hints /boot/loader.conf /boot/loader.conf.local"
_MAX_FILES = 64
_MAX_ENTRIES = 100
# What a kernel that finds a disk on virtio calls its drivers; a name ends at a zero byte.
_VIRTIO = {
    GuestType.FREEBSD: ("virtio_pci", "virtio_blk"),
    GuestType.DRAGONFLY: ("virtio_pci", "virtio_blk"),
    GuestType.NETBSD: ("virtio", "ld_virtio"),
    GuestType.OPENBSD: ("virtio", "vioblk"),
}


def boot(system: System) -> Boot:
    """The view of how the guest boots."""
    found = Boot()
    places = Places(system)
    try:
        found.loaders = _loaders(places)
    except (GuestctlError, OSError) as error:
        system.warnings.append(f"boot: loaders: {error}")
    family = system.guest.type
    settings = loader_conf(system) if family in (GuestType.FREEBSD, GuestType.DRAGONFLY) else {}
    if family is GuestType.NETBSD:
        found.entries = list(parse_boot_cfg(text_of(system, "/boot.cfg")))
    elif family is GuestType.OPENBSD:
        found.entries = [parse_boot_conf(text_of(system, "/etc/boot.conf")), *_openbsd_kernels(system)]
    else:
        found.entries = list(_freebsd_entries(system, settings))
    chosen = next((entry for entry in found.entries if entry.default), None)
    if chosen is not None:
        found.kernel, found.command_line = chosen.kernel, chosen.command_line
        found.drivers = _drivers(system, chosen.kernel, loaded_modules(settings))
        ready = {driver.name for driver in found.drivers}
        found.virtio = True if ready >= set(_VIRTIO[family]) else None
    return found


def _loaders(places: Places) -> list[BootLoader]:
    loaders = list(find_loaders(places))
    for disk in places.machine.disks:
        name = boot_sector_loader(places.machine, disk)
        if name is not None:
            loaders.append(BootLoader(name=name, firmware="bios", path=disk.name))
    return loaders


def loader_conf(system: System) -> dict[str, str]:
    """The settings of FreeBSD's and DragonFly's loader(8), of which the last counts."""
    settings = _settings(text_of(system, "/boot/defaults/loader.conf"))
    for path in settings.get("loader_conf_files", _CONF_FILES).split()[:_MAX_FILES]:
        settings |= _settings(text_of(system, path))
    for directory in settings.get("loader_conf_dirs", "/boot/loader.conf.d").split()[:_MAX_FILES]:
        for name in names_in(system, directory):
            if name.endswith(".conf"):
                settings |= _settings(text_of(system, f"{directory}/{name}"))
    once = _settings(text_of(system, settings.get("nextboot_conf", "/boot/nextboot.conf")))
    if once.get("nextboot_enable", "").upper() == "YES":
        settings |= once
    return settings


def _settings(text: str) -> dict[str, str]:
    return {name: re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in _SETTING.findall(text)}


def loaded_modules(settings: dict[str, str]) -> list[str]:
    """The modules that loader(8) loads with the kernel."""
    names = [
        name.removesuffix("_load")
        for name, value in settings.items()
        if name.endswith("_load") and value.upper() == "YES"
    ]
    # What has a type of its own is no module, but a file of data.
    return [settings.get(f"{name}_name") or name for name in names if f"{name}_type" not in settings]


def _freebsd_entries(system: System, settings: dict[str, str]) -> Iterator[BootEntry]:
    """The kernel of loader.conf(5), then the others that the loader's menu shows."""
    wanted, file = settings.get("kernel") or "kernel", settings.get("bootfile") or "kernel"
    flags = [settings[name] for name in ("kernel_options",) if settings.get(name)]
    flags += [
        flag
        for name, flag in (("boot_single", "-s"), ("boot_verbose", "-v"))
        if settings.get(name, "NO").upper() == "YES"
    ]
    names = settings.get("kernels", "").split()
    if settings.get("kernels_autodetect", "YES").upper() == "YES":
        names += names_in(system, "/boot")
    for name in list(dict.fromkeys([wanted, *names]))[:_MAX_ENTRIES]:
        path = file if file.startswith("/") else name if system.tree.is_file(name) else f"/boot/{name}/{file}"
        path = next((one for one in (path, f"{path}.gz") if system.tree.is_file(one)), path)
        if name == wanted or (system.tree.is_file(path) and not file.startswith("/")):
            source = "/boot/loader.conf" if name == wanted else ""
            yield BootEntry(
                title=name,
                loader="loader",
                kernel=path,
                command_line=" ".join(flags),
                default=name == wanted,
                source=source,
            )


def parse_boot_cfg(text: str) -> Iterator[BootEntry]:
    """The menu of NetBSD's boot(8); without one it starts /netbsd."""
    lines = [line.partition("=") for line in text.splitlines() if not line.startswith("#")]
    default = next((int(value) for key, _, value in lines if key == "default" and re.fullmatch(r"\d{1,4}", value)), 1)
    menu = [value for key, _, value in lines if key == "menu"] or ["boot"]
    for number, item in enumerate(menu[:_MAX_ENTRIES], 1):
        title, colon, commands = item.partition(":")
        commands = commands if colon else title
        words = next((words for one in commands.split(";") if (words := one.split()) and words[0] == "boot"), None)
        if words:
            kernel, flags = _kernel_and_flags(words[1:], "netbsd")
            yield BootEntry(
                title=title,
                loader="boot",
                kernel=kernel,
                command_line=flags,
                default=number == default,
                source="/boot.cfg" if text else "",
            )


def parse_boot_conf(text: str) -> BootEntry:
    """What OpenBSD's boot(8) starts: the image that is set, or that its command boot names."""
    image, howto = "bsd", ""
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:2] == ["set", "image"] and len(words) > 2:
            image = words[2]
        elif words[:2] == ["set", "howto"] and len(words) > 2:
            howto = " ".join(words[2:])
        elif words[:1] in (["boot"], ["b"]):
            image, howto = _kernel_and_flags(words[1:], image)
            break
    kernel, _ = _kernel_and_flags([image], "bsd")
    source = "/etc/boot.conf" if text else ""
    return BootEntry(title="boot", loader="boot", kernel=kernel, command_line=howto, default=True, source=source)


def _kernel_and_flags(words: list[str], usual: str) -> tuple[str, str]:
    """``hd0a:netbsd -s``: the kernel's path, and its flags."""
    image = words[0].rpartition(":")[2] if words and not words[0].startswith("-") else ""
    flags = words if words and words[0].startswith("-") else words[1:]
    return "/" + (image or usual).rpartition(":")[2].lstrip("/"), " ".join(flags)


def _openbsd_kernels(system: System) -> Iterator[BootEntry]:
    for name in ("bsd.mp", "bsd.sp", "bsd.rd", "obsd", "bsd.booted"):
        if system.tree.is_file(f"/{name}"):
            yield BootEntry(title=name, loader="boot", kernel=f"/{name}")


def _drivers(system: System, kernel: str | None, modules: list[str]) -> list[BootDriver]:
    """The drivers for virtio that are in the kernel, or are loaded with it."""
    names = _VIRTIO[system.guest.type]
    within: dict[str, str] = {}
    if kernel and system.tree.is_file(kernel):
        patterns = {name: re.compile(rb"\0%s\0" % name.encode()) for name in names}
        try:
            within = search(system.tree.device(kernel), patterns)
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{kernel}: {error}")
    directories = [(kernel or "").rpartition("/")[0], "/boot/modules"]
    loaded = [
        name
        for name in names
        if name in modules and any(system.tree.is_file(f"{directory}/{name}.ko") for directory in directories)
    ]
    return [
        BootDriver(name=name, ready=True, where="built in" if name in within else "loader.conf")
        for name in names
        if name in within or name in loaded
    ]
