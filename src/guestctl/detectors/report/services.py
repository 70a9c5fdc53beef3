"""What a guest starts: units, scripts, services and drivers."""

from __future__ import annotations

import msgspec


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. ``start`` is the guest's own word: "enabled", "masked", "boot", "automatic", "manual"…"""

    name: str
    kind: str  # "service", "timer", "socket", "driver", "script", …
    start: str
    description: str = ""
    command: str = ""
    account: str = ""  # that it runs as
    source: str = ""  # the file or key that says so
    display_name: str = ""
    schedule: str = ""  # of a timer or a job, as its file puts it
    listen: list[str] = []  # of a socket, "stream:/run/dbus/socket"
    wanted_by: list[str] = []  # targets or runlevels that start it when it is enabled
    required_by: list[str] = []
    also: list[str] = []
    aliases: list[str] = []
    drop_ins: list[str] = []
