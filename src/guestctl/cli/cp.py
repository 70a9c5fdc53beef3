"""``guestctl cp``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, tree_options


@click.command("cp")
@click.argument("image")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.argument("directory", metavar="DIR")
@tree_options()
def command(image: str, paths: tuple[str, ...], directory: str, options: TreeOptions) -> int:
    """Copy the files and directories at PATH of the guest into DIR, which must exist.

    Permissions, times, symbolic links and holes are kept; owners are not. Devices, pipes and
    sockets are left out. Nothing is ever written outside DIR.
    """
    from guestctl.cli.records import FailureCount
    from guestctl.disk.copy_out import copy_out

    failures = FailureCount()
    with options.tree(image) as (tree, machine):
        for path in paths:
            copy_out(tree, path, directory, keep=machine.image_files(), onerror=failures)
    return failures.exit_status
