"""``guestctl info``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from guestctl.cli.options import ImageOptions, image_options, json_option

if TYPE_CHECKING:
    from guestctl.disk.reader import DiskReader


@click.command("info")
@click.argument("image")
@click.option("--backing-chain", is_flag=True, help="Describe the backing files too; they are opened then.")
@image_options
@json_option
def command(image: str, backing_chain: bool, options: ImageOptions, as_json: bool) -> None:
    """Describe IMAGE, as qemu-img info does. Its backing file may be missing."""
    from guestctl.cli.output import print_json, warn

    with options.open(image, metadata_only=not backing_chain) as reader:
        chain = list(_chain(reader)) if backing_chain else [reader]
        infos = [level.info() for level in chain]
        if as_json:
            print_json(infos if backing_chain else infos[0])
        else:
            for number, info in enumerate(infos):
                print(end="\n" if number else "")
                _print(info)
        for level in chain:
            for warning in level.warnings:
                warn(warning)


def _chain(reader: DiskReader | None) -> Iterator[DiskReader]:
    while reader is not None:
        yield reader
        reader = reader.backing


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
