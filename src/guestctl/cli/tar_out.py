"""``guestctl tar-out``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, tree_options


@click.command("tar-out")
@click.argument("image")
@click.argument("path")
@click.argument("file", metavar="FILE|-")
@tree_options()
def command(image: str, path: str, file: str, options: TreeOptions) -> int:
    """Write PATH of the guest as the tar archive FILE, or to standard output for ``-``.

    The archive holds what tar --xattrs --numeric-owner of a mount would, names beginning with ./.
    """
    import errno
    import os
    import sys

    from guestctl.cli.records import FailureCount
    from guestctl.disk.tar import write_tar

    failures = FailureCount()
    with options.tree(image) as (tree, machine):
        if file == "-":
            write_tar(tree, path, sys.stdout.buffer, onerror=failures)
            return failures.exit_status
        tree.resolve(path)
        if os.path.exists(file) and any(os.path.samefile(file, source) for source in machine.image_files()):
            raise FileExistsError(errno.EEXIST, "Is an image that is being read", file)
        if os.path.exists(file) and not os.path.isfile(file):
            # A pipe or a device is written to; a rename would put a file in its place.
            with open(file, "wb") as stream:
                write_tar(tree, path, stream, onerror=failures)
            return failures.exit_status
        target = os.path.realpath(file)
        partial = f"{target}.guestctl-{os.getpid()}"
        try:
            with open(partial, "xb") as stream:
                write_tar(tree, path, stream, onerror=failures)
            os.replace(partial, target)
        except OSError as error:
            if error.filename == partial:
                error.filename = file
            raise
        finally:
            if os.path.lexists(partial):
                os.unlink(partial)
    return failures.exit_status
