"""``guestctl shell``: the calls of the libguestfs handle as commands, as guestfish has them."""

from __future__ import annotations

import sys

import click

from guestctl.cli.options import TreeOptions, tree_options


@click.command("shell")
@click.argument("image")
@click.option("-c", "--command", "lines", metavar="LINE", multiple=True, help="Run LINE, and leave.")
@tree_options()
def command(image: str, lines: tuple[str, ...], options: TreeOptions) -> None:
    """Look around in the guest in IMAGE.

    The commands are the calls of libguestfs, with hyphens or underscores: ls /etc, cat /etc/hostname,
    list-filesystems. "help" lists them. The guest's tree is mounted, read-only. A script comes from standard
    input: it ends at the first error, but for lines that begin with a hyphen.
    """
    from guestctl.cli.shell.session import Session

    with Session(image, options) as session:
        if lines or not sys.stdin.isatty():
            session.run_script(lines or (line.rstrip("\n") for line in sys.stdin))
        else:
            from guestctl.cli.shell.prompt import read_lines

            session.run_interactively(read_lines(session.handle))
