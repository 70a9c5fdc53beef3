"""``guestctl services``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.services import Service

# What nobody switches on or off.
_QUIET = ("static", "alias", "generated", "transient", "indirect")


@click.command("services")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--all", "with_all", is_flag=True, help="Also what is only started by others: static units, aliases.")
@guest_options
@json_option
def command(images: tuple[str, ...], options: GuestOptions, with_all: bool, as_json: bool) -> None:
    """Show what the guest starts: units, scripts, services, drivers, timers and jobs of cron."""
    show_view("services", images, options, as_json, lambda found: _print_page(found, with_all))


def _print_page(found: list[Service], with_all: bool) -> None:
    rows = [
        (
            one.name,
            one.kind,
            one.start,
            one.schedule or " ".join(one.listen),
            one.account,
            one.description or one.command,
        )
        for one in found
        if with_all or one.start not in _QUIET
    ]
    print_found(("Name", "Kind", "Start", "When", "As", "Description"), rows, "No services.")
