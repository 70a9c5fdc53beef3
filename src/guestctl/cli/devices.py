"""``guestctl devices``."""

from __future__ import annotations

import click

from guestctl.cli.options import json_option


@click.command("devices")
@click.option("--detach-stale", is_flag=True, help="Detach those whose process is gone.")
@json_option
def command(detach_stale: bool, as_json: bool) -> None:
    """List the loop and NBD devices that guestctl attached for this user.

    A loop device is stale when the process that attached it is gone, as after kill -9 of one that used
    sudo. With --detach-stale the stale ones are detached, and those that were are listed.
    """
    from guestctl.cli.output import print_json, print_table
    from guestctl.disk.attachments import attachments
    from guestctl.disk.loop_device import detach

    found = list(attachments())
    if detach_stale:
        found = [one for one in found if one.stale]
        for one in found:
            detach(one.device, sudo=one.sudo)  # a loop device: the kernel frees NBD devices itself
    if as_json:
        fields = ("device", "source", "pid", "stale")
        print_json([{name: getattr(one, name) for name in fields} for one in found])
    elif found:
        rows = [(one.device, str(one.pid), "stale" if one.stale else "in use", one.source) for one in found]
        print_table(("Device", "Process", "State", "Source"), rows, right=(1,))
