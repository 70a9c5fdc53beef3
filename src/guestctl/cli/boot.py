"""``guestctl boot``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.boot import Boot, InitramfsFile
    from guestctl.detectors.system import System

_DEFAULT = "default"


@click.command("boot")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--initramfs",
    metavar="[PATH]",
    is_flag=False,
    flag_value=_DEFAULT,
    help="List the files of an initramfs of the guest instead; after the images, of the one it would start with.",
)
@guest_options
@json_option
def command(images: tuple[str, ...], initramfs: str | None, options: GuestOptions, as_json: bool) -> None:
    """Show what the guest starts: loaders, their menus, the kernel and the drivers it starts with."""
    if initramfs is None:
        show_view("boot", images, options, as_json, _print_page)
    else:
        path = None if initramfs == _DEFAULT else initramfs
        show_view("initramfs", images, options, as_json, _print_files, view=partial(_initramfs, path=path))


def _initramfs(system: System, path: str | None) -> list[InitramfsFile]:
    from guestctl.core.errors import UnsupportedFeature
    from guestctl.core.types import GuestType
    from guestctl.detectors.linux.boot import initramfs

    if system.guest.type is not GuestType.LINUX:
        raise UnsupportedFeature(f"no initramfs of {system.guest.type}", feature="initramfs")
    return initramfs(system, path)


def _print_files(files: list[InitramfsFile]) -> None:
    from guestctl.cli.output import name_for_output

    for file in files:
        print(name_for_output(file.name))


def _print_page(boot: Boot) -> None:
    from guestctl.cli.output import print_table, printable

    if boot.loaders:
        rows = [(one.name, one.firmware, one.path, one.label) for one in boot.loaders]
        print_table(("Loader", "Firmware", "Path", "Label"), rows)
        print()
    if boot.entries:
        entries = [("*" if one.default else "", one.loader, one.title, one.kernel or "") for one in boot.entries]
        print_table(("", "Menu", "Entry", "Kernel"), entries)
        print()
    virtio = {None: "unknown", True: "yes", False: "no"}[boot.virtio]
    drivers: dict[str, list[str]] = {}
    for driver in boot.drivers:
        drivers.setdefault(driver.where, []).append(driver.name)
    print(f"Kernel: {printable(boot.kernel or 'unknown')}")
    print(f"Command line: {printable(boot.command_line or '')}")
    for where, names in drivers.items():
        print(printable(f"Drivers, {where}: {' '.join(names)}"))
    print(f"Finds disks on virtio: {virtio}")
