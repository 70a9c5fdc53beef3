"""The report as a page to read: with colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from guestctl.cli.output import printable, size_text, table_lines
from guestctl.cli.storage_tree import tree_lines
from guestctl.detectors.report import Guest, Report


class _Table(NamedTuple):
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class _Page(NamedTuple):
    """A heading, facts as (name, value), tables."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[_Table]


def print_page(report: Report) -> None:
    """One page for the machine's storage and one for each guest."""
    pages = [_storage(report), *(_guest(report, guest) for guest in report.guests)]
    if not report.guests:
        pages[0].facts.append(("Guests", "no operating system found"))
    if sys.stdout.isatty():
        _print_rich(pages, report.warnings)
    else:
        _print_plain(pages, report.warnings)


def _storage(report: Report) -> _Page:
    mounted = {device: path for guest in report.guests for path, device in guest.mountpoints.items()}
    disks = [
        (image.device, image.path, image.format, size_text(image.virtual_size), image.partition_table or "none")
        for image in report.images
    ]
    known = {filesystem.device: filesystem for filesystem in report.filesystems}
    whole: dict[str, Sequence[str]] = {image.device: () for image in report.images}
    parents = whole | {name: filesystem.parents for name, filesystem in known.items()}
    filesystems = [
        (
            drawn + name,
            found.type,
            found.label or "",
            size_text(found.size),
            "" if found.used is None else f"{100 * found.used // max(found.size, 1)}%",
            mounted.get(name, ""),
        )
        if (found := known.get(name))
        else (drawn + name, "", "", "", "", "")
        for drawn, name in tree_lines(parents)
    ]
    return _Page(
        "Storage",
        [],
        [
            _Table("Disks", ("Device", "Image", "Format", "Size", "Partitions"), disks),
            _Table("Filesystems", ("Device", "Type", "Label", "Size", "Used", "Mounted on"), filesystems),
        ],
    )


def _guest(report: Report, guest: Guest) -> _Page:
    version = ".".join(str(part) for part in (guest.major_version, guest.minor_version) if part is not None)
    packages = "" if guest.applications is None else f"{len(guest.applications)} installed"
    manager = guest.package_management or guest.package_format or ""
    facts = [
        ("Root", guest.root),
        ("Distribution", f"{guest.distro or 'unknown'} {version}".strip()),
        ("Variant", guest.product_variant or ""),
        ("Drives", ", ".join(f"{letter}: {device}" for letter, device in guest.drive_mappings.items())),
        ("Host name", guest.hostname or ""),
        ("Architecture", guest.arch or ""),
        ("Firmware", guest.firmware or ""),
        ("Init system", guest.init_system or ""),
        ("Packages", f"{packages} ({manager})" if packages and manager else packages or manager),
        ("Time zone", guest.timezone or ""),
        ("Locale", guest.locale or ""),
        ("SSH host keys", ", ".join(guest.ssh_host_keys)),
        ("Services", ", ".join(guest.services)),
    ]
    kernels = [(kernel.version, kernel.path or "", kernel.initramfs or "") for kernel in guest.kernels]
    users = [(user.name, str(user.uid), user.comment, user.home, user.shell) for user in guest.users]
    network = [
        (item.name, item.method or "", " ".join(item.addresses), item.gateway or "", item.source)
        for item in guest.network
    ]
    tables = [
        _Table("Kernels", ("Version", "Image", "Initramfs"), kernels),
        _Table("Users with a shell", ("Name", "UID", "Comment", "Home", "Shell"), users),
        _Table("Network", ("Interface", "Method", "Addresses", "Gateway", "Configured in"), network),
    ]
    title = guest.product_name or guest.distro or guest.type
    return _Page(title, [fact for fact in facts if fact[1]], [table for table in tables if table.rows])


def _print_plain(pages: list[_Page], warnings: list[str]) -> None:
    for number, page in enumerate(pages):
        print(("\n" if number else "") + printable(page.title))
        print("=" * len(page.title))
        width = max((len(name) for name, _ in page.facts), default=0)
        for name, value in page.facts:
            print(f"{name.ljust(width)}  {printable(value)}")
        for table in page.tables:
            print(f"\n{table.title}")
            for line in table_lines(table.header, table.rows):
                print(f"  {line}")
    for warning in warnings:
        print(f"Warning: {printable(warning)}")


def _print_rich(pages: list[_Page], warnings: list[str]) -> None:
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
                view.add_column(name, overflow="fold", style="bold" if column == 0 else None)
            for row in table.rows:
                view.add_row(*(Text(printable(cell)) for cell in row))
            parts.append(view)
        console.print(Panel(Group(*parts), title=Text(printable(page.title), style="bold green"), title_align="left"))
    for warning in warnings:
        console.print(Text("Warning: ", style="yellow") + Text(printable(warning)))
