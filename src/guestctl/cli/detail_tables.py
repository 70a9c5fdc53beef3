"""What the views tell of a guest (``inspect --all``) as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from guestctl.cli.inspect_tables import Table
from guestctl.cli.output import size_text, time_text
from guestctl.detectors.report.details import Details

# field of `Details` -> (title, field of the view or "" for the view itself, columns: heading -> field)
_RECORDS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "boot": (
        ("Boot loaders", "loaders", {"Loader": "name", "Firmware": "firmware", "Path": "path", "Label": "label"}),
        (
            "Boot menu",
            "entries",
            {"Entry": "title", "Default": "default", "Kernel": "kernel", "Command line": "command_line"},
        ),
        ("Boot drivers", "drivers", {"Driver": "name", "Where": "where", "Ready": "ready"}),
    ),
    "kernels": (("Kernel modules", "kernels", {"Kernel": "version", "Modules": "modules", "Built in": "built_in"}),),
    "storage": (
        (
            "Mounts",
            "mounts",
            {"Mounted on": "mountpoint", "What": "spec", "Device": "device", "Type": "type", "Options": "options"},
        ),
        ("Encrypted volumes", "encrypted", {"Name": "name", "What": "spec", "Device": "device", "Options": "options"}),
        ("Arrays", "arrays", {"Name": "name", "Device": "device", "UUID": "uuid"}),
    ),
    "network": (
        (
            "Network interfaces",
            "",
            {
                "Interface": "name",
                "Type": "type",
                "Method": "method",
                "Addresses": "addresses",
                "Gateway": "gateway",
                "DNS": "dns",
                "MAC": "mac",
                "Configured in": "source",
            },
        ),
    ),
    "services": (
        (
            "Services",
            "",
            {
                "Name": "name",
                "Kind": "kind",
                "Start": "start",
                "When": "schedule",
                "As": "account",
                "Description": "description",
            },
        ),
    ),
    "users": (
        (
            "Accounts",
            "",
            {
                "Name": "name",
                "Id": "uid",
                "Password": "password",
                "Groups": "groups",
                "Home": "home",
                "Shell": "shell",
                "Comment": "comment",
                "sudo": "sudo",
            },
        ),
    ),
    "journal": (
        ("Boots", "boots", {"First message": "first_ns", "Last message": "last_ns", "Id": "id"}),
        ("Errors", "errors", {"Time": "time_ns", "From": "identifier", "Priority": "priority", "Message": "message"}),
    ),
    "windows": (
        ("BitLocker volumes", "bitlocker", {"Device": "device", "UUID": "uuid", "Unlocked": "unlocked"}),
        (
            "Programs of users",
            "user_programs",
            {"User": "user", "Program": "display_name", "Version": "version", "Publisher": "publisher"},
        ),
    ),
    "containers": (
        (
            "Container images",
            "images",
            {"Names": "names", "Engine": "engine", "Id": "id", "Created": "created", "Size": "size"},
        ),
        (
            "Containers",
            "containers",
            {"Name": "name", "Engine": "engine", "Image": "image", "State": "state", "Created": "created"},
        ),
    ),
    "packages": (
        (
            "Packages",
            "",
            {
                "Package": "name",
                "Version": "full_version",
                "Architecture": "arch",
                "Size": "size",
                "Status": "status",
                "Manager": "manager",
                "Summary": "summary",
            },
        ),
    ),
}
# Views whose own fields are worth a table; those that hold records are left out.
_SETTINGS = {
    "boot": "Boot",
    "kernels": "Modules that are loaded early, or kept out",
    "windows": "Windows",
    "security": "Security",
    "cloud_init": "cloud-init",
}
_SIZES = ("size",)


def detail_tables(details: Details) -> Iterator[Table]:
    """The tables that have rows."""
    for view in details.__struct_fields__:
        found = getattr(details, view)
        if found is None:
            continue
        if view in _SETTINGS:
            rows = list(_settings(found))
            if rows:
                yield Table(_SETTINGS[view], ("What", "Setting"), rows)
        for title, field, columns in _RECORDS.get(view, ()):
            records = getattr(found, field) if field else found
            if records:
                yield _table(title, records, columns)


def _table(title: str, records: Iterable[Any], columns: dict[str, str]) -> Table:
    rows = [tuple(_cell(field, getattr(record, field)) for field in columns.values()) for record in records]
    kept = [column for column in range(len(columns)) if column == 0 or any(row[column] for row in rows)]
    names = list(columns.items())
    right = tuple(at for at, column in enumerate(kept) if names[column][1] in ("uid", "modules", "built_in", *_SIZES))
    header = tuple(names[column][0] for column in kept)
    return Table(title, header, [tuple(row[column] for column in kept) for row in rows], right)


def _settings(view: msgspec.Struct) -> Iterator[tuple[str, str]]:
    for field in view.__struct_fields__:
        value = getattr(view, field)
        if field == "sshd":
            yield from ((f"sshd {keyword}", setting) for keyword, setting in sorted((value or {}).items()))
        elif field == "sudoers":
            yield from ((f"sudo {', '.join(rule.users)}", str(rule)) for rule in (value.rules if value else ()))
        elif field == "install_time" and value is not None:
            yield "install time", time_text(value * 10**9)[:19]
        elif value not in (None, "", [], {}) and not (isinstance(value, list) and isinstance(value[0], msgspec.Struct)):
            yield field.replace("_", " "), _cell(field, value)


def _cell(field: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field.endswith("_ns"):
        return time_text(value)[:19]
    if field in _SIZES:
        return size_text(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return str(value)
