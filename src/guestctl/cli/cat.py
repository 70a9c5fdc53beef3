"""``guestctl cat``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, tree_options


@click.command("cat")
@click.argument("image")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@tree_options()
def command(image: str, paths: tuple[str, ...], options: TreeOptions) -> None:
    """Print the files at PATH of the guest in IMAGE, one after the other."""
    import sys

    with options.tree(image) as (tree, _):
        for path in paths:
            device = tree.device(path)
            for buffer in device.buffers(0, device.size):
                sys.stdout.buffer.write(buffer)
