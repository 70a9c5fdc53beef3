"""What the commands that show one view of each guest have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.cli.options import GuestOptions
    from guestctl.detectors.system import System


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

    from guestctl.cli.output import print_json, printable, warn
    from guestctl.core.errors import DetectionError
    from guestctl.detectors import views
    from guestctl.detectors.system import open_system

    with options.machine(*images) as machine:
        try:
            systems = [open_system(machine, guest) for guest in machine.guests()]
            if not systems:
                raise DetectionError("no operating system found")
            records = [view(system) if view else views.view(name, system) for system in systems]
        finally:
            for warning in machine.all_warnings():
                warn(warning)
        for system in systems:
            for warning in system.warnings:
                warn(f"{system.guest.root}: {warning}")
        if as_json:
            print_json(
                [
                    {"root": system.guest.root, name: msgspec.to_builtins(record)}
                    for system, record in zip(systems, records, strict=True)
                ]
            )
            return
        for number, (system, record) in enumerate(zip(systems, records, strict=True)):
            if len(systems) > 1:
                print(("\n" if number else "") + f"{printable(system.guest.root)}:")
            print_page(record)
