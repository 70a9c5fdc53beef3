"""``guestctl network``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.network import NetworkInterface


@click.command("network")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@guest_options
@json_option
def command(images: tuple[str, ...], options: GuestOptions, as_json: bool) -> None:
    """Show the network interfaces that the guest configures, and where."""
    show_view("network", images, options, as_json, _print_page)


def _print_page(found: list[NetworkInterface]) -> None:
    rows = [
        (
            one.name,
            one.method or "",
            " ".join(one.addresses),
            one.gateway or "",
            " ".join(one.dns),
            one.mac or "",
            one.source,
        )
        for one in found
    ]
    header = ("Interface", "Method", "Addresses", "Gateway", "DNS", "MAC", "Configured in")
    print_found(header, rows, "No network interfaces are configured.")
