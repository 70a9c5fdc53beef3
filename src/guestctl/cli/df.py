"""``guestctl df``."""

from __future__ import annotations

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("df")
@click.argument("image")
@click.option("-i", "--inodes", is_flag=True, help="Inodes instead of bytes.")
@guest_options
@json_option
def command(image: str, inodes: bool, options: GuestOptions, as_json: bool) -> None:
    """Show how full each filesystem is and where the guest mounts it. Sizes are in KiB, in JSON in bytes."""
    from guestctl.cli.output import print_json, print_table, warn

    with options.machine(image) as machine:
        mounted = {device: path for guest in reversed(machine.guests()) for path, device in guest.mountpoints.items()}
        usages = [
            (found, usage)
            for found in machine.found()
            if found.identity is not None and found.identity.usage == "filesystem"
            for usage in (machine.usage(found.device),)
            if usage is not None
        ]
        warnings = machine.all_warnings()
    if as_json:
        print_json(
            [
                {
                    "device": found.device,
                    "type": found.identity.type if found.identity else None,
                    "size": usage.size,
                    "used": usage.used,
                    "available": usage.available,
                    "inodes": usage.inodes,
                    "inodes_used": usage.inodes_used,
                    "mountpoint": mounted.get(found.device),
                }
                for found, usage in usages
            ]
        )
    else:
        rows = []
        for found, usage in usages:
            if inodes:
                numbers = (usage.inodes, usage.inodes_used, usage.inodes - usage.inodes_used)
            else:
                numbers = (usage.size >> 10, usage.used >> 10, usage.available >> 10)
            filled = numbers[1] + numbers[2]
            percent = f"{-(-100 * numbers[1] // filled)}%" if filled else "-"
            rows.append((found.device, *map(str, numbers), percent, mounted.get(found.device, "")))
        header = ("Inodes", "IUsed", "IFree", "IUse%") if inodes else ("1K-blocks", "Used", "Available", "Use%")
        print_table(("Filesystem", *header, "Mounted on"), rows, right=(1, 2, 3, 4))
    for warning in warnings:
        warn(warning)
