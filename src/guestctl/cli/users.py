"""``guestctl users``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.users import Account


@click.command("users")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--all", "with_all", is_flag=True, help="Also accounts that cannot log in.")
@guest_options
@json_option
def command(images: tuple[str, ...], options: GuestOptions, with_all: bool, as_json: bool) -> None:
    """Show the accounts that can log in, their groups, rights and keys. No password, nor its hash, is printed."""
    show_view("users", images, options, as_json, lambda found: _print_page(found, with_all))


def _print_page(found: list[Account], with_all: bool) -> None:
    from guestctl.cli.output import printable
    from guestctl.detectors.linux.users import can_log_in

    shown = [
        one for one in found if with_all or (one.sid is None and can_log_in(one)) or (one.sid and not one.disabled)
    ]
    rows = [
        (one.name, str(one.uid), one.password or "", " ".join(one.groups), one.home, one.shell, one.comment)
        for one in shown
    ]
    header = ("Name", "Id", "Password", "Groups", "Home", "Shell", "Comment")
    print_found(header, rows, "No accounts." if with_all else "No account can log in.", right=(1,))
    for one in shown:
        for key in one.authorized_keys:
            print(printable(f"{one.name}: {key.fingerprint} {key.comment} ({key.type}, {key.source})"))
        for rule in one.sudo:
            print(printable(f"{one.name}: sudo {rule}"))
