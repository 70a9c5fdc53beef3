"""``guestctl serve``."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guestctl.cli.options import GuestOptions, guest_options

if TYPE_CHECKING:
    import ssl

    from guestctl.block.device import BlockDevice
    from guestctl.disk.formats.qcow2.overlay import Qcow2Overlay


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
        served = (
            _open(image, device, options, stack)
            if overlay is None
            else stack.enter_context(_open_overlay(overlay, image, device, options))
        )
        asyncio.run(_serve(served, path, host, port, export, tls, once))


def _open(image: str, name: str | None, options: GuestOptions, stack: ExitStack) -> BlockDevice:
    from guestctl.core.errors import DetectionError

    if name is None:
        return stack.enter_context(options.open(image))
    machine = stack.enter_context(options.machine(image))
    disks = {disk.name: disk.reader for disk in machine.disks}
    devices: dict[str, BlockDevice] = {**disks, **machine.partitioned, **machine.devices}
    name = machine.find_device(name) or name
    if name in machine.failures:
        raise machine.failures[name]
    if name not in devices:
        raise DetectionError(f"no device {name} in this machine (there are: {', '.join(devices)})")
    return devices[name]


def _open_overlay(overlay: str, image: str, name: str | None, options: GuestOptions) -> Qcow2Overlay:
    from guestctl.core.errors import UnsupportedFeature
    from guestctl.disk.formats.qcow2.overlay import open_overlay

    how: dict[str, Any] = {"format": options.format, "allow_dirs": options.allow_dirs, "keys": options.keys()}
    if name is not None:
        with options.machine(image) as machine:
            paths = {disk.name: disk.reader.path for disk in machine.disks}
        name = machine.find_device(name) or name
        if name not in paths:
            raise UnsupportedFeature(f"{name}: an overlay is of a whole disk ({', '.join(paths)})", feature="overlay")
        image = paths[name]
    return open_overlay(overlay, image, **how)


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
