"""``guestctl version``."""

from __future__ import annotations

import click

from guestctl._version import __version__
from guestctl.cli.options import json_option


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        from guestctl.cli.output import print_json

        print_json({"guestctl": __version__})
    else:
        print(f"guestctl {__version__}")
