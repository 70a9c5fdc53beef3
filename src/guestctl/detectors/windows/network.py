"""TCP/IP settings of the network connections, by the names that the user sees.

Specification: "TCP/IP and NBT configuration parameters for Windows" of Microsoft's documentation. IPv6 addresses
that were set by hand lie in a store of the kernel's that is not documented, and are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network

from guestctl.detectors.registry import Key, Value
from guestctl.detectors.report.network import NetworkInterface
from guestctl.detectors.windows.system import WindowsSystem

_CONNECTIONS = r"Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}"  # the device class of network adapters
_REG_MULTI_SZ = 7
_NO_ADDRESS = "0.0.0.0"


def network(system: WindowsSystem) -> list[NetworkInterface]:
    """The interfaces that TCP/IP is bound to; of one with DHCP what the last lease gave it."""
    return list(_interfaces(system))


def _interfaces(system: WindowsSystem) -> Iterator[NetworkInterface]:
    names = dict(_connections(system))
    of_v6 = {
        key.name.casefold(): key for key in system.subkeys(system.control(r"Services\Tcpip6\Parameters\Interfaces"))
    }
    for key in system.subkeys(system.control(r"Services\Tcpip\Parameters\Interfaces")):
        values = system.values(key)
        if "enabledhcp" not in values and "ipaddress" not in values:
            continue  # the loopback interface
        dns_v6 = _words(system.values(of_v6.get(key.name.casefold())), "nameserver")
        yield _interface(system, key, values, names.get(key.name.casefold(), key.name), dns_v6)


def _connections(system: WindowsSystem) -> Iterator[tuple[str, str]]:
    """(GUID of the adapter in lower case, name of the connection)."""
    for key in system.subkeys(system.control(_CONNECTIONS)):
        connection = key.subkey("Connection")
        name = system.values(connection).get("name")
        if name is not None and name.text:
            yield key.name.casefold(), name.text


def _interface(
    system: WindowsSystem, key: Key, values: dict[str, Value], name: str, dns_v6: list[str]
) -> NetworkInterface:
    dynamic = bool(values["enabledhcp"].number) if "enabledhcp" in values else None
    prefix = "dhcp" if dynamic else ""
    masks = _words(values, f"{prefix}subnetmask")
    pairs = [
        (address, masks[index] if index < len(masks) else "")
        for index, address in enumerate(_words(values, f"{prefix}ipaddress"))
        if address != _NO_ADDRESS
    ]
    gateways = _words(values, "defaultgateway") or (_words(values, "dhcpdefaultgateway") if dynamic else [])
    servers = _words(values, "nameserver") or (_words(values, "dhcpnameserver") if dynamic else [])
    return NetworkInterface(
        name,
        {True: "dhcp", False: "static", None: None}[dynamic],
        [_with_prefix(*pair) for pair in pairs],
        gateways[0] if gateways else None,
        rf"HKLM\SYSTEM\{system.control_set}\Services\Tcpip\Parameters\Interfaces\{key.name}",
        [*servers, *dns_v6],
    )


def _words(values: dict[str, Value], name: str) -> list[str]:
    """What a value lists: several strings, or one with blanks or commas between."""
    value = values.get(name)
    if value is None:
        return []
    texts = value.texts if value.type == _REG_MULTI_SZ else [value.text]
    return [word for text in texts for word in re.split(r"[\s,]+", text) if word]


def _with_prefix(address: str, mask: str) -> str:
    try:
        return f"{address}/{IPv4Network(f'{_NO_ADDRESS}/{mask}').prefixlen}"
    except ValueError:
        return address
