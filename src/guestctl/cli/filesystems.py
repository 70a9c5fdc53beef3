"""``guestctl filesystems``."""

from __future__ import annotations

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("filesystems")
@click.argument("image")
@guest_options
@json_option
def command(image: str, options: GuestOptions, as_json: bool) -> None:
    """List what each device of the machine holds: filesystems, swap, members of volumes."""
    from guestctl.cli.output import print_json, print_table, size_text, warn

    with options.machine(image) as machine:
        records = [
            {
                "device": found.device,
                "type": found.identity.type if found.identity else "unknown",
                "usage": found.identity.usage if found.identity else None,
                "version": found.identity.version if found.identity else None,
                "label": found.identity.label if found.identity else None,
                "uuid": found.identity.uuid if found.identity else None,
                "size": found.size,
                "parents": list(machine.parents(found.device)),
            }
            for found in machine.found()
        ]
        if as_json:
            print_json(records)
        else:
            rows = [
                (
                    str(record["device"]),
                    str(record["type"]),
                    str(record["label"] or ""),
                    str(record["uuid"] or ""),
                    size_text(int(str(record["size"]))),
                    ", ".join(machine.parents(str(record["device"]))),
                )
                for record in records
            ]
            print_table(("Device", "Type", "Label", "UUID", "Size", "On"), rows, right=(4,))
        for warning in machine.all_warnings():
            warn(warning)
