"""``guestctl security``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.security import Security


@click.command("security")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@guest_options
@json_option
def command(images: tuple[str, ...], options: GuestOptions, as_json: bool) -> None:
    """Show what restrains users and programs: SELinux, AppArmor, sudo, the ssh server, the firewall."""
    show_view("security", images, options, as_json, _print_page)


def _print_page(found: Security) -> None:
    from guestctl.cli.output import print_table

    rows = [
        ("SELinux", " ".join(filter(None, (found.selinux_mode, found.selinux_policy)))),
        ("AppArmor", f"{len(found.apparmor_profiles)} profiles, {len(found.apparmor_disabled)} disabled"),
        ("Firewall", ", ".join(found.firewall)),
        *((f"sshd {keyword}", value) for keyword, value in sorted((found.sshd or {}).items())),
        *((f"sudo {', '.join(rule.users)}", str(rule)) for rule in (found.sudoers.rules if found.sudoers else ())),
    ]
    print_table(("What", "Setting"), rows)
