"""``guestctl find``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, json_option, tree_options


@click.command("find")
@click.argument("image")
@click.argument("path", default="/")
@click.option("--name", "pattern", metavar="PATTERN", help="Only names that match a shell pattern.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["file", "directory", "symlink", "char", "block", "fifo", "socket"]),
    help="Only files of one type.",
)
@click.option("-0", "--print0", is_flag=True, help="End each path with a NUL instead of a newline.")
@tree_options()
@json_option
def command(
    image: str,
    path: str,
    pattern: str | None,
    kind: str | None,
    print0: bool,
    options: TreeOptions,
    as_json: bool,
) -> int:
    """List everything from PATH (by default /) down, a directory before what it holds.

    --json prints one object a line: path, type, mode (st_mode), uid, gid, size (bytes), mtime
    (seconds), nlink, ino. What cannot be read is said on standard error, and the exit status is 1.
    """
    import fnmatch
    import sys

    from guestctl.cli.output import name_for_output
    from guestctl.cli.records import FailureCount, file_json, file_type

    failures = FailureCount()
    with options.tree(image) as (tree, _):
        write = sys.stdout.write
        for found, _, status in tree.find(path, onerror=failures):
            if kind is not None and file_type(status.st_mode) != kind:
                continue
            if pattern is not None and not fnmatch.fnmatchcase(found.rpartition("/")[2], pattern):
                continue
            if as_json:
                write(file_json(found, status) + "\n")
            elif print0:
                write(found + "\0")
            else:
                write(name_for_output(found) + "\n")
    return failures.exit_status
