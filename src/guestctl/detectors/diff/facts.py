"""What the views of two guests tell differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from guestctl.core.errors import GuestctlError, UnsupportedFeature
from guestctl.core.types import GuestType
from guestctl.detectors import report
from guestctl.detectors.system import System
from guestctl.detectors.views import view

# name -> field -> value; of a name that comes more than once the values that it has
Facts = dict[str, dict[str, Any]]

_VALUE = "value"  # the field of what has no others


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. ``before`` is None where the name was added, ``after`` where it was removed.

    ``field`` is what of it has changed, "" where it was added or removed or has but one value.
    """

    name: str
    field: str
    before: Any
    after: Any


def diff_guests(
    left: System, right: System, reports: tuple[report.Guest, report.Guest], onerror: Callable[[str], None]
) -> Iterator[tuple[str, list[Change]]]:
    """(section, what differs in it), for those that both guests have; `onerror` hears of one that cannot be read."""
    for section, facts in _SECTIONS.items():
        try:
            before, after = facts(left, reports[0]), facts(right, reports[1])
        except UnsupportedFeature:
            continue
        except (GuestctlError, OSError) as error:
            onerror(f"{section}: {error}")
            continue
        changes = list(_changes(before, after))
        if changes:
            yield section, changes


def _changes(before: Facts, after: Facts) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            first = next(iter((old or new or {}).values()))  # the one that says most
            yield Change(name=name, field="", before=first if old else None, after=first if new else None)
            continue
        for field in new:
            if old.get(field) != new[field]:
                shown = "" if field == _VALUE else field
                yield Change(name=name, field=shown, before=old.get(field), after=new[field])


def _table(records: Iterable[Any], name: str, fields: Sequence[str]) -> Facts:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(getattr(record, name), []).append(
            {field: msgspec.to_builtins(getattr(record, field)) for field in fields}
        )
    return {key: rows[0] if len(rows) == 1 else _joined(rows, fields) for key, rows in found.items()}


def _joined(rows: list[dict[str, Any]], fields: Sequence[str]) -> dict[str, Any]:
    joined = {}
    for field in fields:
        values = {str(row[field]): row[field] for row in rows}
        joined[field] = [values[key] for key in sorted(values)]
    return {field: values[0] if len(values) == 1 else values for field, values in joined.items()}


def _values(values: dict[str, Any]) -> Facts:
    """Those that say something."""
    return {name: {_VALUE: value} for name, value in values.items() if value not in (None, "", [], {})}


def _system(system: System, guest: report.Guest) -> Facts:
    version = ".".join(str(part) for part in (guest.major_version, guest.minor_version) if part is not None)
    names = (
        "product_name product_variant arch hostname init_system firmware timezone locale package_management "
        "mountpoints drive_mappings ssh_host_keys windows_systemroot windows_current_control_set"
    )
    values = {name: getattr(guest, name) for name in names.split()}
    if system.guest.type is GuestType.WINDOWS:
        values |= msgspec.to_builtins(view("windows", system))
        values.pop("user_programs", None)
    return _values({"version": version, **values})


def _kernels(system: System, guest: report.Guest) -> Facts:
    return _table(guest.kernels, "version", ("path", "initramfs", "modules"))


def _boot(system: System, guest: report.Guest) -> Facts:
    boot = view("boot", system)
    values = {"kernel": boot.kernel, "command line": boot.command_line, "virtio": boot.virtio}
    loaders = _table(boot.loaders, "path", ("name", "firmware", "label"))
    return _values(values) | loaders | _table(boot.entries, "title", ("kernel", "command_line", "initramfs", "default"))


def _packages(system: System, guest: report.Guest) -> Facts:
    if system.guest.type is GuestType.WINDOWS:
        programs = [*(guest.applications or ()), *view("windows", system).user_programs]
        return _table(programs, "name", ("version", "display_name", "publisher"))
    found: dict[str, list[dict[str, Any]]] = {}
    for one in view("packages", system):
        name = ":".join(filter(None, (one.namespace, one.name, one.arch)))
        found.setdefault(name, []).append({"version": one.full_version, "status": one.status})
    return {name: _joined(rows, ("version", "status")) for name, rows in found.items()}


def _services(system: System, guest: report.Guest) -> Facts:
    fields = ("start", "command", "account", "schedule", "listen", "wanted_by", "required_by")
    return _table(view("services", system), "name", fields)


def _users(system: System, guest: report.Guest) -> Facts:
    names = "uid gid comment full_name home shell groups password disabled flags sid authorized_keys sudo"
    return _table(view("users", system), "name", names.split())


def _network(system: System, guest: report.Guest) -> Facts:
    fields = ("addresses", "method", "gateway", "dns", "mac", "type", "members", "source")
    return _table(view("network", system), "name", fields)


def _mounts(system: System, guest: report.Guest) -> Facts:
    storage = view("storage", system)
    mounts = _table(storage.mounts, "mountpoint", ("spec", "type", "options"))
    return mounts | _table(storage.encrypted, "name", ("spec", "key_file", "options"))


def _security(system: System, guest: report.Guest) -> Facts:
    found = view("security", system)
    values = {
        name: getattr(found, name) for name in ("selinux_mode", "selinux_policy", "apparmor_disabled", "firewall")
    }
    values |= {f"sshd {keyword}": value for keyword, value in (found.sshd or {}).items()}
    rules = found.sudoers.rules if found.sudoers else ()
    values |= {f"sudo {', '.join(rule.users)} {rule}": rule.source for rule in rules}
    return _values(values)


_SECTIONS: dict[str, Callable[[System, report.Guest], Facts]] = {
    "system": _system,
    "kernels": _kernels,
    "boot": _boot,
    "packages": _packages,
    "services": _services,
    "users": _users,
    "network": _network,
    "mounts": _mounts,
    "security": _security,
}
