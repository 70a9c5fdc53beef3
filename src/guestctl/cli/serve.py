"""``guestctl serve``."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guestctl.cli.options import GuestOptions, guest_options

if TYPE_CHECKING:
    import ssl

    from guestctl.block.device import BlockDevice, WritableDevice
    from guestctl.machine import Machine


@click.group("serve")
def command() -> None:
    """Serve a disk to other programs."""


@command.command("nbd")
@click.argument("image")
@click.option("--device", metavar="DEVICE", help="A device of the machine, such as /dev/VG/LV, instead of the disk.")
@click.option("--overlay", metavar="FILE", help="Take writes, into the qcow2 overlay FILE; made where it is missing.")
@click.option("--socket", "path", metavar="PATH", help="Listen on a Unix socket.")
@click.option("--bind", "host", metavar="ADDRESS", help="Listen on this address instead of localhost.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of 10809; 0 for a free one.")
@click.option("--export", metavar="NAME", default="", help="The name of the export.")
@click.option(
    "--tls-certificates",
    "tls_directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Serve over TLS alone, with the server-cert.pem, server-key.pem and ca-cert.pem there, or keys.psk.",
)
@click.option("--once", is_flag=True, help="End when the last client has left.")
@guest_options
def nbd(
    image: str,
    device: str | None,
    overlay: str | None,
    path: str | None,
    host: str | None,
    port: int | None,
    export: str,
    tls_directory: Path | None,
    once: bool,
    options: GuestOptions,
) -> None:
    """Serve the disk IMAGE, or a device of the machine, over NBD.

    It is read-only unless an overlay takes the writes; IMAGE itself is never written. The URI for clients is
    printed once they can connect. Ctrl-C or SIGTERM ends the server.
    """
    import asyncio

    if path is not None and (host is not None or port is not None):
        raise click.UsageError("--socket excludes --bind and --port")
    if len(export.encode("utf-8", "surrogateescape")) > 4096:
        raise click.UsageError("--export: the name is longer than 4096 bytes")
    tls = None
    if tls_directory is not None:
        from guestctl.disk.nbd.tls import server_context

        tls = server_context(tls_directory)
    with ExitStack() as stack:
        if overlay is None:
            served = _open(image, device, options, stack)
        else:
            served = _open_overlay(overlay, image, device, options, stack)
        asyncio.run(_serve(served, path, host, port, export, tls, once))


def _open(image: str, name: str | None, options: GuestOptions, stack: ExitStack) -> BlockDevice:
    if name is None:
        return stack.enter_context(options.open(image))
    return _find(stack.enter_context(options.machine(image)), name)[1]


def _find(machine: Machine, name: str) -> tuple[str, BlockDevice]:
    """A device of the machine, and its own name for it."""
    from guestctl.core.errors import DetectionError

    disks = {disk.name: disk.reader for disk in machine.disks}
    devices: dict[str, BlockDevice] = {**disks, **machine.partitioned, **machine.devices}
    name = machine.find_device(name) or name
    if name in machine.failures:
        raise machine.failures[name]
    if name not in devices:
        raise DetectionError(f"no device {name} in this machine (there are: {', '.join(devices)})")
    return name, devices[name]


def _open_overlay(
    overlay: str, image: str, name: str | None, options: GuestOptions, stack: ExitStack
) -> WritableDevice:
    """The overlay of a disk, or the part of it that a partition is."""
    from guestctl.block.device import WritableSlice
    from guestctl.disk.formats.qcow2.overlay import open_overlay

    part = None
    if name is not None:
        with options.machine(image) as machine:
            image, part = _place(machine, name)
    how: dict[str, Any] = {"format": options.format, "allow_dirs": options.allow_dirs, "keys": options.keys()}
    whole = stack.enter_context(open_overlay(overlay, image, **how))
    return whole if part is None else WritableSlice(whole, *part)


def _place(machine: Machine, name: str) -> tuple[str, tuple[int, int] | None]:
    """The image of a disk or of a partition's disk, and the partition's start and size.

    A volume may have mirrors or snapshots that a write to its disk would miss.
    """
    from guestctl.block.device import SliceDevice
    from guestctl.core.errors import UnsupportedFeature
    from guestctl.disk.reader import DiskReader

    name, device = _find(machine, name)
    if isinstance(device, DiskReader):
        return device.path, None
    if isinstance(device, SliceDevice) and isinstance(device.parent, DiskReader) and machine.partition(name):
        return device.parent.path, (device.start, device.size)
    raise UnsupportedFeature(f"{name}: only disks and partitions have overlays", feature="overlay")


async def _serve(
    device: BlockDevice,
    path: str | None,
    host: str | None,
    port: int | None,
    export: str,
    tls: ssl.SSLContext | None,
    once: bool,
) -> None:
    import asyncio
    import signal

    from guestctl.disk.nbd.server import DEFAULT_PORT, NbdServer

    server = NbdServer(
        device,
        path=path,
        host=host or "localhost",
        port=DEFAULT_PORT if port is None else port,
        export=export,
        tls=tls,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels this
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    async with server:
        print(server.uri, flush=True)
        ends = [asyncio.create_task(event.wait()) for event in ((stop, server.left) if once else (stop,))]
        _, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
