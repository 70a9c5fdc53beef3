"""Network configuration."""

from __future__ import annotations

import msgspec


class NetworkInterface(msgspec.Struct, frozen=True):
    """An interface that a configuration file names, and where it says so."""

    name: str
    method: str | None  # "dhcp", "static", … as the file puts it
    addresses: list[str]
    gateway: str | None
    source: str
    dns: list[str] = []
