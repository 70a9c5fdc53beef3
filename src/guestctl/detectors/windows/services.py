"""Services and drivers of the current control set, in the words of the Service Control Manager.

Specification: Microsoft's documentation of the registry tree ``HKLM\\SYSTEM\\CurrentControlSet\\Services``, and of
``CreateService`` for the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.registry import Key, Value
from guestctl.detectors.report.services import Service
from guestctl.detectors.windows.system import WindowsSystem

_KINDS = {
    0x01: "driver",
    0x02: "file system driver",
    0x04: "adapter",
    0x08: "recognizer driver",
    0x10: "own process",
    0x20: "shared process",
    0x50: "user service in an own process",
    0x60: "user service in a shared process",
}
_KIND_MASK = 0x7F  # above it: an instance of a user service, interactive, of a package
STARTS = {0: "boot", 1: "system", 2: "automatic", 3: "manual", 4: "disabled"}
_NAME_LIMIT = 1 << 10  # characters of a text that is shown


def services(system: WindowsSystem) -> list[Service]:
    """Every key of Services that has a type: the others configure something for one of these."""
    return list(_services(system))


def _services(system: WindowsSystem) -> Iterator[Service]:
    for key in system.subkeys(system.control("Services")):
        values = system.values(key)
        if "type" in values:
            yield _service(system, key, values)


def _service(system: WindowsSystem, key: Key, values: dict[str, Value]) -> Service:
    kind = values["type"].number
    return Service(
        name=key.name,
        kind=_KINDS.get(kind & _KIND_MASK, f"type {kind:#x}"),
        start=_start(values),
        description=_text(values, "description"),
        command=_text(values, "imagepath"),
        account=_text(values, "objectname"),
        source=rf"HKLM\SYSTEM\{system.control_set}\Services\{key.name}",
        display_name=_text(values, "displayname"),
    )


def _start(values: dict[str, Value]) -> str:
    if "start" not in values:
        return "unknown"
    number = values["start"].number
    delayed = number == 2 and "delayedautostart" in values and values["delayedautostart"].number == 1
    return "automatic (delayed)" if delayed else STARTS.get(number, f"start {number:#x}")


def _text(values: dict[str, Value], name: str) -> str:
    """The text of a value. Of a string in a resource, ``@file,-id;text``, the text that stands there for it."""
    text = values[name].text[:_NAME_LIMIT] if name in values else ""
    return text.partition(";")[2] or text if text.startswith("@") else text
