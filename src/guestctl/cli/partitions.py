"""``guestctl partitions``."""

from __future__ import annotations

from typing import Any

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("partitions")
@click.argument("image")
@guest_options
@json_option
def command(image: str, options: GuestOptions, as_json: bool) -> None:
    """List the partition tables of the disks and what is in them. LBAs are in logical sectors."""
    from guestctl.cli.output import print_json, print_table, size_text, warn

    with options.machine(image) as machine:
        if as_json:
            print_json([_disk(disk) for disk in machine.disks])
        for disk in machine.disks if not as_json else ():
            if disk.table is None:
                print(f"{disk.name}: {disk.reader.path}: no partition table")
                continue
            uuid = f", {disk.table.uuid}" if disk.table.uuid else ""
            print(
                f"{disk.name}: {disk.reader.path}: {disk.table.type}, sectors of {disk.table.sector_size} bytes{uuid}"
            )
            rows = [
                (
                    f"{disk.name}{partition.number}",
                    str(partition.start_lba),
                    str(partition.size_sectors),
                    size_text(partition.size),
                    partition.type_name or partition.type,
                    partition.name or "",
                    partition.uuid or "",
                )
                for partition in disk.table.partitions
            ]
            print_table(("Device", "Start", "Sectors", "Size", "Type", "Name", "UUID"), rows, right=(1, 2, 3))
        for warning in machine.warnings:
            warn(warning)


def _disk(disk: Any) -> dict[str, Any]:
    table = disk.table
    return {
        "device": disk.name,
        "path": disk.reader.path,
        "partition_table": table.type if table else None,
        "sector_size": table.sector_size if table else None,
        "uuid": table.uuid if table else None,
        "warnings": list(table.warnings) if table else [],
        "partitions": [
            {
                "device": f"{disk.name}{partition.number}",
                "number": partition.number,
                "start_lba": partition.start_lba,
                "size_sectors": partition.size_sectors,
                "start": partition.start,
                "size": partition.size,
                "type": partition.type,
                "type_name": partition.type_name,
                "name": partition.name,
                "uuid": partition.uuid,
                "bootable": partition.bootable,
                "attributes": partition.attributes,
                "extended": partition.extended,
            }
            for partition in (table.partitions if table else ())
        ],
    }
