"""``guestctl inspect``."""

from __future__ import annotations

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("inspect")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--xml", "as_xml", is_flag=True, help="Print virt-inspector's XML.")
@click.option("--all", "with_details", is_flag=True, help="Add what services, users, boot and the like show (JSON).")
@click.option("--no-applications", is_flag=True, help="Leave out the list of installed packages.")
@guest_options
@json_option
def command(
    images: tuple[str, ...],
    as_xml: bool,
    with_details: bool,
    no_applications: bool,
    options: GuestOptions,
    as_json: bool,
) -> None:
    """Show every guest on the disks of a machine: system, packages, users, network, storage.

    Several images are the disks of one machine, in order. On a terminal the report is a page to
    read; --json is the stable form (guestctl schema inspect).
    """
    if as_xml and as_json:
        raise click.UsageError("--json and --xml exclude each other")
    from guestctl.detectors import inspect

    with options.machine(*images) as machine:
        report = inspect(machine, with_applications=not no_applications, with_details=with_details)
    if as_json:
        print(report.to_json())
    elif as_xml:
        from guestctl.cli.inspect_xml import to_xml

        print(to_xml(report))
    else:
        from guestctl.cli.inspect_page import print_page

        print_page(report)
