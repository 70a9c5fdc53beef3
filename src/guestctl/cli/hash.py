"""``guestctl hash``."""

from __future__ import annotations

import click

from guestctl.cli.options import TreeOptions, json_option, tree_options


@click.command("hash")
@click.argument("image")
@click.argument("path", default="/")
@click.option("-a", "--algorithm", default="sha256", show_default=True, help="Any that Python's hashlib has.")
@tree_options("--add")
@json_option
def command(image: str, path: str, algorithm: str, options: TreeOptions, as_json: bool) -> int:
    """Print a checksum for every regular file from PATH (by default /) down, sorted by path.

    What cannot be read is said on standard error, and the exit status is 1.
    """
    import hashlib
    import json

    from guestctl.cli.output import name_for_output
    from guestctl.cli.records import FailureCount
    from guestctl.core.errors import GuestctlError
    from guestctl.disk.filesystem import WalkError

    if algorithm not in hashlib.algorithms_available or algorithm.startswith("shake"):
        known = ", ".join(sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")))
        raise click.BadParameter(f"{algorithm!r} (known: {known})", param_hint="--algorithm")
    failures = FailureCount()
    with options.tree(image) as (tree, _):
        for found, node, status in tree.find(path, onerror=failures, sort=True):
            if not status.is_file():
                continue
            digest = hashlib.new(algorithm, usedforsecurity=False)
            try:
                device = tree.node_data(node)
                for buffer in device.buffers(0, device.size):
                    digest.update(buffer)
            except GuestctlError as error:
                failures(WalkError(found, error))
                continue
            if as_json:
                print(json.dumps({"path": found, algorithm: digest.hexdigest()}))
            else:
                print(f"{digest.hexdigest()}  {name_for_output(found)}")
    return failures.exit_status
