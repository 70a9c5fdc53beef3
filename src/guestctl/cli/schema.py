"""``guestctl schema``."""

from __future__ import annotations

import click


@click.command("schema")
@click.argument("name", metavar="COMMAND", type=click.Choice(["inspect"]))
def command(name: str) -> None:
    """Print the JSON Schema of what COMMAND --json prints."""
    from guestctl.cli.output import print_json
    from guestctl.detectors.report import schema

    print_json(schema())
