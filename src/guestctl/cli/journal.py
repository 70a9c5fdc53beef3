"""``guestctl journal``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from guestctl.cli.options import GuestOptions, guest_options, json_option
from guestctl.cli.view import print_found, show_view

if TYPE_CHECKING:
    from guestctl.detectors.linux.journal.entries import Condition
    from guestctl.detectors.linux.journal.file import Entry, JournalFile
    from guestctl.detectors.report.journal import BootRecord, Journal
    from guestctl.detectors.system import System

_PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@click.command("journal")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-n", "--lines", type=click.IntRange(0, sys.maxsize), help="Only the last ones.")
@click.option("-p", "--priority", type=click.Choice([*_PRIORITIES, *"01234567"]), help="Of this urgency or more.")
@click.option("-u", "--unit", help="Of this unit.")
@click.option("-b", "--boot", help="Of this boot: its id, or 0 for the last, -1 for the one before…")
@click.option("--list-boots", is_flag=True, help="Show the boots that left a message.")
@click.option("-o", "--output", type=click.Choice(["short", "json", "export"]), default="short", show_default=True)
@click.option("-r", "--reverse", is_flag=True, help="The newest first.")
@guest_options
@json_option
def command(
    images: tuple[str, ...],
    options: GuestOptions,
    lines: int | None,
    priority: str | None,
    unit: str | None,
    boot: str | None,
    list_boots: bool,
    output: str,
    reverse: bool,
    as_json: bool,
) -> None:
    """Show what the guest logged, in the words of journalctl; times are UTC.

    With --json: the last boots and the last errors.
    """

    of_journals = priority is not None or unit is not None or boot is not None or list_boots or reverse
    of_journals = of_journals or output != "short"
    if as_json and (of_journals or lines is not None):
        raise click.UsageError("--json shows the last boots and errors; -o json the entries that options choose")

    def _show(system: System) -> Journal | Callable[[], None]:
        from guestctl.core.errors import UnsupportedFeature
        from guestctl.core.types import GuestType
        from guestctl.detectors.views import view

        if as_json or system.guest.type is GuestType.WINDOWS:
            if of_journals or lines is not None:
                raise UnsupportedFeature("only systemd's journal can be asked for a part", feature="part of event logs")
            found: Journal = view("journal", system)
            return found
        from guestctl.detectors.linux.journal import open_files

        files = open_files(system)
        if files:
            if list_boots:
                return lambda: _print_boots(files)
            return lambda: _print_entries(_selected(files, lines, priority, unit, boot, reverse), output)
        if of_journals:
            raise UnsupportedFeature(
                "there is no journal of systemd; of text logs only -n is known", feature="text logs"
            )
        return lambda: _print_syslog(system, lines)

    show_view("journal", images, options, as_json, _print_journal, view=_show)


def _selected(
    files: list[JournalFile], lines: int | None, priority: str | None, unit: str | None, boot: str | None, reverse: bool
) -> Iterator[Entry]:
    from itertools import islice

    from guestctl.detectors.linux.journal import entries as journal

    conditions: list[Condition] = []
    if priority is not None:
        number = int(priority) if priority.isdigit() else _PRIORITIES.index(priority)
        conditions.append(journal.priority_condition(number))
    if unit is not None:
        conditions.append(journal.unit_condition(unit if "." in unit else unit + ".service"))
    if boot is not None:
        conditions.append(journal.boot_condition(_boot_id(boot, journal.boots(files))))
    if lines is None:
        return journal.entries(files, conditions, reverse=reverse)
    last = islice(journal.entries(files, conditions, reverse=True), lines)
    return last if reverse else reversed(list(last))


def _boot_id(text: str, boots: list[BootRecord]) -> str:
    """A boot by its id or its place: 1 is the first, 0 the last, -1 the one before."""
    plain = text.replace("-", "").lower()
    if len(plain) == 32:
        return plain
    try:
        number = int(text)
        return boots[number - 1 if number > 0 else len(boots) - 1 + number if len(boots) > -number else len(boots)].id
    except (ValueError, IndexError):
        raise click.UsageError(f"-b {text}: no such boot") from None


def _print_entries(entries: Iterator[Entry], output: str) -> None:
    from guestctl.cli.output import name_for_output
    from guestctl.detectors.linux.journal import output as formats

    if output == "export":
        sys.stdout.flush()
        for entry in entries:
            sys.stdout.buffer.write(formats.export(entry))
    elif output == "json":
        for entry in entries:
            print(formats.as_json(entry))
    else:
        for line in formats.short_lines(entries):
            print("\n".join(map(name_for_output, line.split("\n"))))


def _print_boots(files: list[JournalFile]) -> None:
    from guestctl.cli.output import print_table, time_text
    from guestctl.detectors.linux.journal.entries import boots

    found = boots(files)
    rows = [
        (str(number - len(found) + 1), one.id, time_text(one.first_ns)[:19], time_text(one.last_ns)[:19])
        for number, one in enumerate(found)
    ]
    print_table(("Index", "Boot", "First entry (UTC)", "Last entry (UTC)"), rows, right=(0,))


def _print_syslog(system: System, lines: int | None) -> None:
    from collections import deque

    from guestctl.cli.output import printable, time_text
    from guestctl.detectors.linux.journal.syslog import syslog

    for entry in syslog(system) if lines is None else deque(syslog(system), lines):
        print(printable(f"{time_text(entry.time_ns)[:19]} {entry.identifier}: {entry.message}"))


def _print_journal(found: Journal | Callable[[], None]) -> None:
    from guestctl.cli.output import time_text

    if callable(found):
        found()
    else:
        rows = [(time_text(one.time_ns)[:19], one.identifier, one.message) for one in found.errors]
        print_found(("Time (UTC)", "From", "Message"), rows, "No errors.")
