"""The report as a page to read: with colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import sys

from guestctl.cli.inspect_tables import Page, Table, guest_page, storage_page
from guestctl.cli.output import printable, table_lines
from guestctl.detectors.report import Guest, Report

# Of what views tell, rows of a table on a terminal.
_MAX_ROWS = 15


def print_page(report: Report) -> None:
    """One page for the machine's storage and one for each guest."""
    pages = [storage_page(report), *map(_guest, report.guests)]
    if not report.guests:
        pages[0].facts.append(("Guests", "no operating system found"))
    if sys.stdout.isatty():
        _print_rich(pages, report.warnings)
    else:
        _print_plain(pages, report.warnings)


def _guest(guest: Guest) -> Page:
    page = guest_page(guest)
    if guest.details is not None:
        from guestctl.cli.detail_tables import detail_tables

        page.tables.extend(map(_cut, detail_tables(guest.details)))
    return page


def _cut(table: Table) -> Table:
    if len(table.rows) <= _MAX_ROWS:
        return table
    title = f"{table.title}, the first {_MAX_ROWS} of {len(table.rows)}"
    return table._replace(title=title, rows=table.rows[:_MAX_ROWS])


def _print_plain(pages: list[Page], warnings: list[str]) -> None:
    for number, page in enumerate(pages):
        print(("\n" if number else "") + printable(page.title))
        print("=" * len(page.title))
        width = max((len(name) for name, _ in page.facts), default=0)
        for name, value in page.facts:
            print(f"{name.ljust(width)}  {printable(value)}")
        for table in page.tables:
            print(f"\n{table.title}")
            for line in table_lines(table.header, table.rows, right=table.right):
                print(f"  {line}")
    for warning in warnings:
        print(f"Warning: {printable(warning)}")


def _print_rich(pages: list[Page], warnings: list[str]) -> None:
    from rich import box
    from rich.console import Console, Group, RenderableType
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for page in pages:
        parts: list[RenderableType] = []
        if page.facts:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column()
            for name, value in page.facts:
                grid.add_row(name, Text(printable(value)))
            parts.append(grid)
        for table in page.tables:
            view = Table(
                title=table.title, title_justify="left", title_style="bold cyan", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for column, name in enumerate(table.header):
                view.add_column(
                    name,
                    overflow="fold",
                    style="bold" if column == 0 else None,
                    justify="right" if column in table.right else "left",
                )
            for row in table.rows:
                view.add_row(*(Text(printable(cell)) for cell in row))
            parts.append(view)
        console.print(Panel(Group(*parts), title=Text(printable(page.title), style="bold green"), title_align="left"))
    for warning in warnings:
        console.print(Text("Warning: ", style="yellow") + Text(printable(warning)))
