"""``guestctl create``."""

from __future__ import annotations

import os

import click

from guestctl.cli.options import json_option, parse_format_options, size


@click.command("create")
@click.argument("path", metavar="FILE")
@click.argument("disk_size", metavar="[SIZE]", required=False, type=size)
@click.option("-f", "--format", metavar="FMT", default="raw", show_default=True, help="The new image's format.")
@click.option("-o", "--option", "option_texts", metavar="KEY=VALUE[,...]", multiple=True, help="Options of the format.")
@click.option("-b", "--backing", metavar="FILE", help="The backing file, relative to the new image.")
@click.option("-F", "--backing-format", metavar="FMT", help="The format of the backing file.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists; needed for a block device.")
@json_option
def command(
    path: str,
    disk_size: int | None,
    format: str,
    option_texts: tuple[str, ...],
    backing: str | None,
    backing_format: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Create FILE, an empty disk of SIZE bytes, as qemu-img create does.

    SIZE may have a suffix: k, M, G, T, P, E. With a backing file it may be left out: the disk is then as
    large as that one. A comma in the value of an option is written twice.
    """
    from guestctl.cli.output import print_json, size_text
    from guestctl.disk.reader import DiskReader

    values = parse_format_options(option_texts)
    for key, value in (("backing_file", backing), ("backing_fmt", backing_format)):
        if value is not None:
            values[key] = value
    disk_size = _size(path, disk_size, values)
    _create(path, format, disk_size, values, force=force)
    with DiskReader.open(path, format=format, metadata_only=True) as reader:
        info = reader.info()
    if as_json:
        print_json(info)
    else:
        print(f"{path}: {format}, {size_text(info['virtual-size'])} ({info['virtual-size']} bytes)")


def _size(path: str, disk_size: int | None, values: dict[str, str]) -> int:
    """The size of the disk: as given, as the option ``size`` says, or that of the backing file, which must be there."""
    from guestctl.core.errors import ConversionError
    from guestctl.disk.reader import DiskReader

    text = values.pop("size", None)
    if disk_size is None and text is not None:
        disk_size = size(text)
    backing, format = values.get("backing_file"), values.get("backing_fmt")
    if backing is None:
        if disk_size is None:
            raise click.UsageError("a new image without a backing file needs a SIZE")
        return disk_size
    if format is None:
        raise click.UsageError("the backing file's format is needed (-F FMT)")
    backing_path = os.path.join(os.path.dirname(path), backing)
    if os.path.exists(path) and os.path.samefile(path, backing_path):
        raise ConversionError(f"{path} is the backing file itself")
    with DiskReader.open(backing_path, format=format, metadata_only=True) as reader:
        return reader.size if disk_size is None else disk_size


def _create(path: str, format: str, disk_size: int, values: dict[str, str], *, force: bool) -> None:
    from guestctl.block.output import Output
    from guestctl.disk.writer import create_writer

    output = Output(path, overwrite=force)
    try:
        create_writer(format, output, disk_size, values).finish()
        output.publish()
    except BaseException:
        output.discard()
        raise
