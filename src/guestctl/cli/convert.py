"""``guestctl convert``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from guestctl.cli.options import ImageOptions, image_options, json_option, parse_format_options, size

if TYPE_CHECKING:
    from guestctl.core.progress import Progress

# Of files, where they are not the format's name.
_ENDINGS = {"vpc": "vhd", "gz": "raw.gz", "xz": "raw.xz", "zst": "raw.zst"}


@click.command("convert")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("output", metavar="DST")
@click.option("-O", "--output-format", "output_format", metavar="FMT", help="The new image's format (default: raw).")
@click.option("-o", "--option", "option_texts", metavar="KEY=VALUE[,...]", multiple=True, help="Options of the format.")
@click.option("-c", "--compress", is_flag=True, help="Compress the data.")
@click.option("--engine", type=click.Choice(("auto", "native", "qemu-img")), default="auto", show_default=True)
@click.option("-f", "--force", is_flag=True, help="Replace DST where it exists; needed for a block device.")
@click.option("--snapshot", metavar="NAME", help="Convert an internal snapshot instead of the current state.")
@click.option("--no-flatten", is_flag=True, help="Keep the backing file of SRC below DST.")
@click.option("-b", "--backing", metavar="FILE", help="A backing file for DST, which then holds what differs from it.")
@click.option("-F", "--backing-format", metavar="FMT", help="The format of the backing file.")
@click.option("--resize", metavar="SIZE", type=size, help="The size of the new disk, such as 20G.")
@click.option("--shrink", is_flag=True, help="Let --resize cut the disk's end off.")
@click.option("--sparsify", is_flag=True, help="Make free blocks of the filesystems zeros.")
@click.option("--verify", is_flag=True, help="Read DST back and compare.")
@click.option("--digest", is_flag=True, help="Print the SHA-256 of the disk's raw content.")
@click.option("--resume", is_flag=True, help="Keep a record, and go on where an interrupted run ended.")
@click.option("--no-sync", is_flag=True, help="Leave it to the host when DST reaches the disk.")
@click.option("--progress", type=click.Choice(("auto", "none", "json")), default="auto", show_default=True)
@image_options
@json_option
def command(
    sources: tuple[str, ...],
    output: str,
    output_format: str | None,
    option_texts: tuple[str, ...],
    compress: bool,
    engine: str,
    force: bool,
    snapshot: str | None,
    no_flatten: bool,
    backing: str | None,
    backing_format: str | None,
    resize: int | None,
    shrink: bool,
    sparsify: bool,
    verify: bool,
    digest: bool,
    resume: bool,
    no_sync: bool,
    progress: str,
    options: ImageOptions,
    as_json: bool,
) -> None:
    """Convert the disk image SRC into a new image DST.

    With several SRC, DST is a directory. "-" as DST is standard output, for a raw disk.

    FMT is raw, qcow2, vmdk, vpc (VHD), vhdx, vdi, ova, or gz, xz, zst of a raw disk.
    """
    from guestctl.cli.output import print_json
    from guestctl.converters import DiskConverter

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind either
    format = output_format or "raw"
    if output == "-":
        _to_standard_output(sources, format, snapshot, options, progress)
        return
    converter = DiskConverter(engine)
    results = []
    for source, target in _targets(sources, output, format):
        with _progress(progress, os.path.basename(source)) as listener:
            result = converter.convert(
                source,
                target,
                format,
                compress=compress,
                flatten=not no_flatten,
                options=parse_format_options(option_texts),
                source_format=options.format,
                allow_dirs=options.allow_dirs,
                snapshot=snapshot,
                backing_file=backing,
                backing_format=backing_format,
                size=resize,
                shrink=shrink,
                sparsify=sparsify,
                overwrite=force,
                verify=verify,
                digest="sha256" if digest else None,
                resume=resume,
                sync=not no_sync,
                progress=listener,
                keys=options.keys(),
            )
        results.append(result)
    if as_json:
        print_json(results if len(sources) > 1 else results[0])
    elif digest:
        for result in results:
            print(f"{result['digest']}  {result['output_path']}")


def _targets(sources: Sequence[str], output: str, format: str) -> Iterator[tuple[str, str]]:
    """Each source with its target: in a directory, the source's name with the format's ending."""
    if not os.path.isdir(output):
        if len(sources) > 1:
            raise click.UsageError(f"{output} is no directory, and there is more than one source")
        yield sources[0], output
        return
    targets: dict[str, str] = {}
    for source in sources:
        stem = os.path.splitext(os.path.basename(source))[0]
        target = os.path.join(output, f"{stem}.{_ENDINGS.get(format, format)}")
        if target in targets:
            raise click.UsageError(f"{targets[target]} and {source} would both become {target}")
        targets[target] = source
    yield from ((source, target) for target, source in targets.items())


def _to_standard_output(
    sources: Sequence[str], format: str, snapshot: str | None, options: ImageOptions, progress: str
) -> None:
    if format != "raw" or len(sources) > 1:
        raise click.UsageError("standard output takes one raw disk")
    with (
        options.open(sources[0], snapshot=snapshot) as reader,
        _progress(progress, os.path.basename(sources[0])) as listener,
    ):
        done = 0
        for buffer in reader.buffers(0, reader.size):
            sys.stdout.buffer.write(buffer)
            done += len(buffer)
            listener.update(done, reader.size)


@contextmanager
def _progress(kind: str, description: str) -> Iterator[Progress]:
    from guestctl.core.progress import JsonProgress, NoProgress, terminal_progress

    if kind == "auto":
        with terminal_progress(description) as progress:
            yield progress
    else:
        yield JsonProgress(sys.stderr) if kind == "json" else NoProgress()
