"""What the report says as facts and tables, for a terminal and for HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guestctl.cli.output import size_text
from guestctl.cli.storage_tree import tree_lines
from guestctl.detectors.report import Guest, Report


class Table(NamedTuple):
    """`right` are the columns of numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[int, ...] = ()


class Page(NamedTuple):
    """A heading, facts as (name, value), tables."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]


def storage_page(report: Report) -> Page:
    """Disks, and what is on them."""
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
    return Page(
        "Storage",
        [],
        [
            Table("Disks", ("Device", "Image", "Format", "Size", "Partitions"), disks, (3,)),
            Table("Filesystems", ("Device", "Type", "Label", "Size", "Used", "Mounted on"), filesystems, (3, 4)),
        ],
    )


def guest_page(guest: Guest) -> Page:
    """One guest, without what views tell of it."""
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
        for item in (guest.network if guest.details is None else ())
    ]
    tables = [
        Table("Kernels", ("Version", "Image", "Initramfs"), kernels),
        Table("Users with a shell", ("Name", "UID", "Comment", "Home", "Shell"), users, (1,)),
        Table("Network", ("Interface", "Method", "Addresses", "Gateway", "Configured in"), network),
    ]
    title = guest.product_name or guest.distro or guest.type
    return Page(title, [fact for fact in facts if fact[1]], [table for table in tables if table.rows])
