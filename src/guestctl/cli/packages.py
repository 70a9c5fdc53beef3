"""``guestctl packages``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.report.packages import Package, PackageFile
    from guestctl.detectors.system import System


@click.command("packages")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--files", "of_package", metavar="PACKAGE", help="Show the files of a package instead.")
@click.option("--owner", metavar="PATH", help="Show only the packages that a file belongs to.")
@guest_options
@json_option
def command(
    images: tuple[str, ...], of_package: str | None, owner: str | None, options: GuestOptions, as_json: bool
) -> None:
    """Show the installed packages of every package manager that the guest has.

    dpkg, apk, rpm, pacman and others, by their own databases. What has been removed but for its
    configuration is among them, with its status.
    """
    if of_package is not None and owner is not None:
        raise click.UsageError("--files and --owner exclude each other")
    if of_package is not None:
        show_view("files", images, options, as_json, _print_files, view=lambda system: _files(system, of_package))
    elif owner is not None:
        show_view("packages", images, options, as_json, _print_packages, view=lambda system: _owners(system, owner))
    else:
        show_view("packages", images, options, as_json, _print_packages)


def _files(system: System, name: str) -> list[PackageFile]:
    from guestctl.core.errors import DetectionError
    from guestctl.detectors.packages import files

    found = list(files(system, name))
    if not found:
        raise DetectionError(f"no package {name} is installed, or none of its files are listed")
    return found


def _owners(system: System, path: str) -> list[Package]:
    from guestctl.core.errors import DetectionError
    from guestctl.detectors.packages import owners

    found = list(owners(system, path))
    if not found:
        raise DetectionError(f"{path} belongs to no package")
    return found


def _print_packages(found: list[Package]) -> None:
    rows = [(one.manager, one.name, one.full_version, one.arch, one.status, one.summary) for one in found]
    print_found(("Manager", "Package", "Version", "Architecture", "Status", "Summary"), rows, "No packages.")


def _print_files(found: list[PackageFile]) -> None:
    from guestctl.cli.output import name_for_output

    for one in found:
        print(name_for_output(one.path))
