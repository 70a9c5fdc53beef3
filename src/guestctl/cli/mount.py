"""``guestctl mount``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guestctl.cli.options import TreeOptions, tree_options

if TYPE_CHECKING:
    from guestctl.disk.fuse.operations import Operations


@click.command("mount")
@click.argument("image")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--raw", is_flag=True, help="Show the disks, partitions and volumes as raw files.")
@click.option("--overlay", metavar="FILE", help="With --raw: take writes, into the qcow2 overlay FILE.")
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted, or Ctrl-C.")
@click.option("--allow-other", is_flag=True, help="Let other users in, within the modes of the files.")
@click.option("--device", metavar="DEVICE", help="The same as -m.")
@tree_options()
def command(
    image: str,
    directory: Path,
    raw: bool,
    overlay: str | None,
    foreground: bool,
    allow_other: bool,
    device: str | None,
    options: TreeOptions,
) -> None:
    """Mount the files of the guest on DIRECTORY, read-only, and go to the background.

    fusermount3 -u DIRECTORY unmounts it. With --foreground the command stays, and Ctrl-C, SIGTERM or
    the end of the process that started it unmount. With --overlay the disk is one writable file, sda;
    IMAGE itself is never written, and FILE is made where it is missing.
    """
    from guestctl.disk.fuse.session import mount

    if device is not None:
        options = replace(options, mount=device)
    if raw and options.mount:
        raise click.UsageError("--raw shows every device, -m and --device the files on one")
    if overlay is not None and not raw:
        raise click.UsageError("--overlay needs --raw: files of a guest cannot be written yet")
    with ExitStack() as stack:
        if overlay is not None:
            operations = _overlay(image, overlay, options, stack)
        else:
            operations = _raw(image, options, stack) if raw else _tree(image, options, stack)
        mount(
            operations,
            directory,
            name=os.path.abspath(image),
            foreground=foreground,
            allow_other=allow_other,
            writable=overlay is not None,
        )


def _tree(image: str, options: TreeOptions, stack: ExitStack) -> Operations:
    from guestctl.disk.fuse.tree import TreeOperations

    return TreeOperations(stack.enter_context(options.tree(image)).filesystem)


def _raw(image: str, options: TreeOptions, stack: ExitStack) -> Operations:
    from guestctl.cli.output import warn
    from guestctl.disk.fuse.raw import RawOperations

    machine = stack.enter_context(options.machine(image))
    disks = {disk.name: disk.reader for disk in machine.disks}
    operations = RawOperations({**disks, **machine.partitioned, **machine.devices})
    for name in operations.conflicts:
        warn(f"{name}: no file, since another device has that place")
    return operations


def _overlay(image: str, overlay: str, options: TreeOptions, stack: ExitStack) -> Operations:
    from guestctl.disk.formats.qcow2.overlay import open_overlay
    from guestctl.disk.fuse.raw import RawOperations

    device = open_overlay(overlay, image, format=options.format, allow_dirs=options.allow_dirs, keys=options.keys())
    return RawOperations({"/dev/sda": stack.enter_context(device)})
