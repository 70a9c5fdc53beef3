"""``guestctl containers``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.containers import Containers


@click.command("containers")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@guest_options
@json_option
def command(images: tuple[str, ...], options: GuestOptions, as_json: bool) -> None:
    """Show the container images and the containers that the guest keeps."""
    show_view("containers", images, options, as_json, _print_page)


def _print_page(found: Containers) -> None:
    from guestctl.cli.output import size_text

    images = [
        (one.id[:12], " ".join(one.names), one.created or "", "" if one.size is None else size_text(one.size))
        for one in found.images
    ]
    print_found(("Image", "Names", "Created", "Size"), images, "No container images.", right=(3,))
    print()
    rows = [(one.id[:12], one.name, one.image, one.state or "", one.created or "") for one in found.containers]
    print_found(("Container", "Name", "Image", "State", "Created"), rows, "No containers.")
