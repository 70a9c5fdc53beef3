"""``guestctl ls``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, json_option, tree_options


@click.command("ls")
@click.argument("image")
@click.argument("path", default="/")
@click.option("-l", "--long", "long_format", is_flag=True, help="Mode, links, owner, group, size and time as well.")
@tree_options()
@json_option
def command(image: str, path: str, long_format: bool, options: TreeOptions, as_json: bool) -> None:
    """List PATH (by default /) of the guest in IMAGE, hidden names included, sorted."""
    from guestctl.cli.output import name_for_output
    from guestctl.cli.records import file_json, long_line

    with options.tree(image) as (tree, _):
        node = tree.resolve(path)
        if tree.node_stat(node).is_dir():
            base = path.rstrip("/") + "/"
            entries = [
                (entry.name, base + entry.name, entry.stat(follow_symlinks=False)) for entry in tree.scandir(path)
            ]
            entries.sort()
        else:
            entries = [(path, path, tree.lstat(path))]
        for name, full, status in entries:
            target = tree.readlink(full) if status.is_symlink() and (long_format or as_json) else None
            if as_json:
                print(file_json(full, status))
            elif long_format:
                arrow = f" -> {name_for_output(target)}" if target is not None else ""
                print(long_line(status) + " " + name_for_output(name) + arrow)
            else:
                print(name_for_output(name))
