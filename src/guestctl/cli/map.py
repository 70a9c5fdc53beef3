"""``guestctl map``."""

from __future__ import annotations

import click

from guestctl.cli.options import ImageOptions, image_options, json_option


@click.command("map")
@click.argument("image")
@click.option("--snapshot", metavar="NAME", help="Map an internal snapshot instead of the current state.")
@image_options
@json_option
def command(image: str, snapshot: str | None, options: ImageOptions, as_json: bool) -> None:
    """Show which ranges of IMAGE hold data and where, as qemu-img map does.

    Without --json only ranges that hold data as it is are listed, in bytes.
    """
    import json

    from guestctl.cli.output import print_table

    with options.open(image, snapshot=snapshot) as reader:
        if not as_json:
            rows = [
                (f"{entry.start:#x}", f"{entry.length:#x}", f"{entry.offset:#x}", entry.filename or "")
                for entry in reader.map()
                if entry.data and entry.offset is not None
            ]
            print_table(("Offset", "Length", "Mapped to", "File"), rows)
            return
        # A line per entry, written as it is found: a map can have millions.
        separator = "["
        for entry in reader.map():
            record = {
                "start": entry.start,
                "length": entry.length,
                "depth": entry.depth,
                "present": entry.present,
                "zero": entry.zero,
                "data": entry.data,
                "compressed": entry.compressed,
            }
            if entry.offset is not None:
                record["offset"] = entry.offset
            print(separator + json.dumps(record), end="")
            separator = ",\n"
        print("[]" if separator == "[" else "]")
