"""``guestctl stat``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, json_option, tree_options


@click.command("stat")
@click.argument("image")
@click.argument("path")
@click.option("-L", "--dereference", is_flag=True, help="Follow a symbolic link.")
@tree_options()
@json_option
def command(image: str, path: str, dereference: bool, options: TreeOptions, as_json: bool) -> None:
    """Show the attributes of PATH in the guest, extended attributes included.

    Times are UTC; values of extended attributes are base64 in JSON and quoted bytes otherwise.
    """
    import base64
    import json
    import os
    import stat

    from guestctl.cli.output import name_for_output, time_text
    from guestctl.cli.records import decimal_seconds, file_json, file_type

    with options.tree(image) as (tree, _):
        node = tree.resolve(path, follow=dereference)
        status = tree.node_stat(node)
        target = tree.node_target(node) if status.is_symlink() else None
        xattrs = tree.node_xattrs(node)
    if as_json:
        encoded = {name: base64.b64encode(value).decode() for name, value in xattrs.items()}
        print(
            file_json(
                path,
                status,
                blocks=status.st_blocks,
                rdev=status.st_rdev,
                atime=decimal_seconds(status.st_atime_ns),
                ctime=decimal_seconds(status.st_ctime_ns),
                birthtime="null" if status.st_birthtime_ns is None else decimal_seconds(status.st_birthtime_ns),
                target=json.dumps(target),
                xattrs=encoded,
            )
        )
        return
    print(f"  File: {name_for_output(path)}" + (f" -> {name_for_output(target)}" if target is not None else ""))
    device = f"  Device type: {os.major(status.st_rdev)},{os.minor(status.st_rdev)}" if status.st_rdev else ""
    print(f"  Size: {status.st_size}  Blocks: {status.st_blocks}  {file_type(status.st_mode)}{device}")
    print(f" Inode: {status.st_ino}  Links: {status.st_nlink}")
    mode = f"({stat.S_IMODE(status.st_mode):04o}/{stat.filemode(status.st_mode)})"
    print(f"Access: {mode}  Uid: {status.st_uid}  Gid: {status.st_gid}")
    print(f"Access: {time_text(status.st_atime_ns)}")
    print(f"Modify: {time_text(status.st_mtime_ns)}")
    print(f"Change: {time_text(status.st_ctime_ns)}")
    print(f" Birth: {time_text(status.st_birthtime_ns)}")
    for name, value in sorted(xattrs.items()):
        print(f" Xattr: {name_for_output(name)}={value!r}")
