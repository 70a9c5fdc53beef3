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
    mac: str | None = None  # that it is found by, or is given
    type: str | None = None  # "ethernet", "bond", "bridge", "vlan", "wifi", where a file says so
    members: list[str] = []  # what a bond or bridge is made of, what a VLAN lies on
