"""``guestctl inspect``."""

from __future__ import annotations

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option


@click.command("inspect")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--xml", "as_xml", is_flag=True, help="Print virt-inspector's XML.")
@click.option("--all", "with_details", is_flag=True, help="Add what services, users, boot and the like show.")
@click.option("--html", metavar="FILE", help="Write a page for a browser to FILE, - for standard output.")
@click.option("--no-applications", is_flag=True, help="Leave out the list of installed packages.")
@guest_options
@json_option
def command(
    images: tuple[str, ...],
    as_xml: bool,
    with_details: bool,
    html: str | None,
    no_applications: bool,
    options: GuestOptions,
    as_json: bool,
) -> None:
    """Show every guest on the disks of a machine: system, packages, users, network, storage.

    Several images are the disks of one machine, in order. On a terminal the report is a page to
    read, which shows the beginning of what --all adds; --html is one file with everything, that needs no
    other; --json is the stable form (guestctl schema inspect).
    """
    if as_xml + as_json + (html is not None) > 1:
        raise click.UsageError("--json, --xml and --html exclude each other")
    from guestctl.detectors import inspect

    with options.machine(*images) as machine:
        report = inspect(machine, with_applications=not no_applications, with_details=with_details)
    if as_json:
        print(report.to_json())
    elif as_xml:
        from guestctl.cli.inspect_xml import to_xml

        print(to_xml(report))
    elif html is not None:
        from guestctl.cli.html import to_html

        page = to_html(report)
        with click.open_file(html, "w", encoding="utf-8", atomic=True) as stream:
            stream.write(page)
    else:
        from guestctl.cli.inspect_page import print_page

        print_page(report)
