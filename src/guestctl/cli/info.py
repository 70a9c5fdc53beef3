"""``guestctl info``."""

from __future__ import annotations

from typing import Any

import click

from guestctl.cli.options import ImageOptions, image_options, json_option


@click.command("info")
@click.argument("image")
@image_options
@json_option
def command(image: str, options: ImageOptions, as_json: bool) -> None:
    """Describe IMAGE, as qemu-img info does."""
    from guestctl.cli.output import print_json

    with options.open(image) as reader:
        info = reader.info()
        if as_json:
            print_json(info)
        else:
            _print(info)
        _warn(reader.warnings)


def _warn(warnings: Any) -> None:
    from guestctl.cli.output import warn

    for warning in warnings:
        warn(warning)


def _print(info: dict[str, Any]) -> None:
    from guestctl.cli.output import size_text

    print(f"image: {info['filename']}")
    print(f"file format: {info['format']}")
    print(f"virtual size: {size_text(info['virtual-size'])} ({info['virtual-size']} bytes)")
    print(f"disk size: {size_text(info['actual-size'])}")
    if info.get("encrypted"):
        print("encrypted: yes")
    if "cluster-size" in info:
        print(f"cluster_size: {info['cluster-size']}")
    if info.get("dirty-flag"):
        print("cleanly shut down: no")
    if "backing-filename" in info:
        name, full = info["backing-filename"], info.get("full-backing-filename")
        print(f"backing file: {name}" + (f" (actual path: {full})" if full and full != name else ""))
    if "backing-filename-format" in info:
        print(f"backing file format: {info['backing-filename-format']}")
    if info.get("snapshots"):
        _print_snapshots(info["snapshots"])
    data = info.get("format-specific", {}).get("data")
    if data:
        print("Format specific information:")
        _print_nested(data, "    ")


def _print_snapshots(snapshots: list[dict[str, Any]]) -> None:
    from guestctl.cli.output import print_table, size_text, time_text

    print("Snapshot list:")
    print_table(
        ("ID", "TAG", "VM SIZE", "DATE"),
        [
            (
                snapshot["id"],
                snapshot["name"],
                size_text(snapshot["vm-state-size"]),
                time_text(snapshot["date-sec"] * 10**9)[:19],
            )
            for snapshot in snapshots
        ],
        right=(2,),
    )


def _print_nested(values: dict[str, Any], indent: str) -> None:
    from guestctl.cli.output import printable

    for key, value in values.items():
        label = f"{indent}{key.replace('-', ' ')}:"
        if isinstance(value, dict):
            print(label)
            _print_nested(value, indent + "    ")
        elif isinstance(value, list):
            print(label)
            for number, item in enumerate(value):
                print(f"{indent}    [{number}]:")
                _print_nested(item if isinstance(item, dict) else {"value": item}, indent + "        ")
        else:
            print(label, printable(str(value).lower() if isinstance(value, bool) else str(value)))
