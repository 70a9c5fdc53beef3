"""``guestctl filesystems``."""

from __future__ import annotations

from typing import Any

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("filesystems")
@click.argument("image")
@guest_options
@json_option
def command(image: str, options: GuestOptions, as_json: bool) -> None:
    """Draw what each device of the machine holds and lies on: filesystems, swap, members of volumes, subvolumes."""
    from guestctl.cli.output import print_json, print_table, size_text, warn
    from guestctl.cli.storage_tree import tree_lines

    with options.machine(image) as machine:
        records: dict[str, dict[str, Any]] = {
            found.device: {
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
        }
        for device, record in list(records.items()):
            if record["usage"] == "filesystem":
                for name in machine.subvolumes(device):
                    records[name] = {**record, "device": name, "parents": [device]}
        if as_json:
            print_json(list(records.values()))
        else:
            tables = {disk.name: disk.table.type for disk in machine.disks if disk.table}
            whole = {
                name: {"type": tables.get(name, "partitioned"), "size": device.size, "parents": machine.parents(name)}
                for name, device in machine.partitioned.items()
            }
            records = whole | records
            rows = []
            for drawn, name in tree_lines({name: record["parents"] for name, record in records.items()}):
                record = records[name]
                words = [str(record.get(key) or "") for key in ("type", "label", "uuid")]
                rows.append((drawn + name, *words, size_text(record["size"])))
            print_table(("Device", "Type", "Label", "UUID", "Size"), rows, right=(4,))
        for warning in machine.all_warnings():
            warn(warning)
