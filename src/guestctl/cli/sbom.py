"""``guestctl sbom``."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, document_options

if TYPE_CHECKING:
    from guestctl.detectors.system import System
    from guestctl.machine import Machine


@click.command("sbom")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--format",
    "document_format",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    show_default=True,
    help="CycloneDX 1.7 or SPDX 2.3, in JSON.",
)
@click.option(
    "-o", "--output", type=click.File("w", encoding="utf-8", atomic=True), default="-", help="Write to a file."
)
@click.option("--no-languages", is_flag=True, help="Only packages of package managers, without a walk of the tree.")
@click.option("--root", metavar="DEVICE", help="The guest with this root, where there are several.")
@document_options
def command(
    images: tuple[str, ...],
    document_format: str,
    output: IO[str],
    no_languages: bool,
    root: str | None,
    options: GuestOptions,
) -> None:
    """Write a software bill of materials: the system, its packages, and those of languages.

    Languages: Python, Node, Ruby, Go, Java, Rust, PHP, .NET. With SOURCE_DATE_EPOCH set the same
    image gives the same document.
    """
    from guestctl.cli.output import warn

    with options.machine(*images) as machine:
        system = _system(machine, root)
        try:
            output.write(_document(system, document_format, languages=not no_languages))
        finally:
            for warning in (*machine.all_warnings(), *system.warnings):
                warn(warning)


def _system(machine: Machine, root: str | None) -> System:
    from guestctl.core.errors import DetectionError
    from guestctl.detectors.system import open_system

    guests = [guest for guest in machine.guests() if root in (None, guest.root)]
    if not guests:
        raise DetectionError("no operating system found" + (f" with the root {root}" if root else ""))
    if len(guests) > 1:
        roots = ", ".join(guest.root for guest in guests)
        raise DetectionError(f"more than one operating system; choose one with --root ({roots})")
    return open_system(machine, guests[0])


def _document(system: System, document_format: str, *, languages: bool) -> str:
    from guestctl.core.errors import UnsupportedFeature

    try:
        from guestctl.detectors.sbom import take_inventory

        if document_format == "spdx":
            from guestctl.detectors.sbom.spdx import to_spdx as to_document
        else:
            from guestctl.detectors.sbom.cyclonedx import to_cyclonedx as to_document
    except ModuleNotFoundError as error:
        raise UnsupportedFeature(
            f"an SBOM needs the library {error.name}: pip install 'guestctl[sbom]'", feature="extra sbom"
        ) from None
    return to_document(take_inventory(system, languages=languages))
