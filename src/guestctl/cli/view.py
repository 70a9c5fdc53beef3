"""What the commands that show one view of each guest have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.cli.options import GuestOptions
    from guestctl.detectors.system import System


def print_found(header: Sequence[str], rows: Sequence[Sequence[str]], none: str, *, right: Sequence[int] = ()) -> None:
    """A table, or where it would be empty the words `none`."""
    from guestctl.cli.output import print_table

    if rows:
        print_table(header, rows, right=right)
    else:
        print(none)


def show_view(
    name: str,
    images: Sequence[str],
    options: GuestOptions,
    as_json: bool,
    print_page: Callable[[Any], None],
    *,
    view: Callable[[System], Any] | None = None,
) -> None:
    """Print the view called `name` of every guest on `images`, in JSON or with `print_page`.

    `view` computes it, where it is more than the view alone.
    """
    import msgspec

    from guestctl.cli.output import fail, print_json, printable, warn
    from guestctl.core.errors import DetectionError, GuestctlError
    from guestctl.detectors import views
    from guestctl.detectors.system import open_system

    failed = False
    records: list[tuple[System, Any]] = []
    with options.machine(*images) as machine:
        systems: list[System] = []
        try:
            systems = [open_system(machine, guest) for guest in machine.guests()]
            if not systems:
                raise DetectionError("no operating system found")
            for system in systems:
                try:
                    records.append((system, view(system) if view else views.view(name, system)))
                except (GuestctlError, OSError) as error:
                    if len(systems) == 1:
                        raise
                    # The others have an answer.
                    fail(f"{system.guest.root}: {error}")
                    failed = True
            if as_json:
                print_json([{"root": system.guest.root, name: msgspec.to_builtins(one)} for system, one in records])
            else:
                for number, (system, record) in enumerate(records):
                    if len(systems) > 1:
                        print(("\n" if number else "") + f"{printable(system.guest.root)}:")
                    print_page(record)
        finally:
            for warning in machine.all_warnings():
                warn(warning)
            for system in systems:
                for warning in system.warnings:
                    warn(f"{system.guest.root}: {warning}")
    if failed:
        raise SystemExit(1)
