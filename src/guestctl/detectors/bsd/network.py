"""Network configuration of BSD systems: rc.conf(5) of FreeBSD, DragonFly and NetBSD, NetBSD's ifconfig.if(5),
OpenBSD's hostname.if(5), mygate(5), resolv.conf(5).

Addresses have the prefix of their netmask, where there is one. Ranges and commands are left as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from guestctl.core.types import GuestType
from guestctl.detectors.bsd.rc_conf import is_true, rc_conf
from guestctl.detectors.bsd.shell_words import Values
from guestctl.detectors.linux.network import prefix_of, resolvers
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.network import NetworkInterface
from guestctl.detectors.system import System

_IFCONFIG = re.compile(r"ifconfig_([A-Za-z]\w*?\d+)(?:_(\w+))?")
_IPV4_ADDRESSES = re.compile(r"ipv4_addrs_([A-Za-z]\w*?\d+)")
_FAMILIES = ("inet", "inet6")
_KINDS = {
    **dict.fromkeys(("lagg", "trunk", "agr", "aggr"), "bond"),
    **dict.fromkeys(("bridge", "veb", "vether"), "bridge"),
    **dict.fromkeys(("vlan", "svlan"), "vlan"),
    "wlan": "wifi",
}
_MEMBERS = ("laggport", "trunkport", "addm", "add", "vlandev", "parent", "vlanif")
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){5}")
_ADDRESS = re.compile(r"(?=.*[.:])[0-9A-Fa-f.:]+(%\w+)?(-\d+)?(/\d+)?")
_BEFORE_OTHERS = ("netmask", "broadcast", "tunnel", "lladdr", "ether", "link", "dest", "description", "authkey")
_DYNAMIC = ("dhcp", "syncdhcp", "nosyncdhcp", "autoconf", "rtsol", "accept_rtadv")
_MAX_INTERFACES = 4096


def network(system: System) -> list[NetworkInterface]:
    """The interfaces that the configuration names, and as ``*`` the servers and the gateways that all of them have."""
    if system.guest.type is GuestType.OPENBSD:
        found = _files(system, "/etc/hostname.")
        gateways, source = _lines(text_of(system, "/etc/mygate")), "/etc/mygate"
    else:
        values = rc_conf(system)
        found = [*_rc_conf(values), *_files(system, "/etc/ifconfig.")]
        names = ("defaultrouter", "defaultroute", "ipv6_defaultrouter", "defaultroute6")
        gateways = [value for name in names if (value := values.get(name)) and value.upper() not in ("NO", "AUTO")]
        source = "/etc/rc.conf"
        if not gateways and system.guest.type is GuestType.NETBSD:
            gateways, source = _lines(text_of(system, "/etc/mygate")), "/etc/mygate"
    found += [NetworkInterface("*", None, [], gateway, source) for gateway in gateways]
    if len(found) > _MAX_INTERFACES:
        system.warnings.append(f"network: more than {_MAX_INTERFACES} interfaces")
    return [*found[:_MAX_INTERFACES], *resolvers(system.tree)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _rc_conf(values: Values) -> Iterator[NetworkInterface]:
    """``ifconfig_em0``, with ``_ipv6``, ``_alias0``…; ``ipv4_addrs_em0``, ``vlans_em0``, cloned_interfaces."""
    lines: dict[str, list[str]] = {name: [] for name in (values.get("cloned_interfaces") or "").split()}
    for key, value in values.items():
        match = _IFCONFIG.fullmatch(key)
        kind = match[2] if match else None
        if match and value and (kind in (None, "ipv6", "aliases") or re.fullmatch(r"alias\d+", kind or "")):
            # NetBSD divides by semicolons what would be lines of ifconfig.if(5).
            lines.setdefault(match[1], []).extend(value.split(";") if kind != "aliases" else _aliases(value))
        match = _IPV4_ADDRESSES.fullmatch(key)
        if match and value:
            lines.setdefault(match[1], []).extend(f"inet {address}" for address in value.split())
        if key.startswith("vlans_") and value:
            for tag in value.split():
                name = f"{key[6:]}.{tag}" if tag.isdecimal() else tag
                lines.setdefault(name, []).append(f"vlandev {key[6:]}")
    loopbacks = re.compile(r"lo\d+")
    for name, found in lines.items():
        renamed = values.get(f"ifconfig_{name}_name")
        dhclient = values.get("dhclient") or "NO"  # NetBSD's, of all interfaces or of those of its flags
        if not loopbacks.fullmatch(name):
            if not found and is_true(dhclient) and name in (values.get("dhclient_flags") or name):
                found = ["dhcp"]
            yield _interface(renamed or name, found, "/etc/rc.conf")


def _aliases(value: str) -> list[str]:
    """``inet 10.0.0.2/24 inet6 ::1/64``: each address has its family before it."""
    return [f"{family} {rest.strip()}" for family, rest in re.findall(r"\b(inet6?)\s+((?:(?!\binet6?\b).)+)", value)]


def _files(system: System, prefix: str) -> list[NetworkInterface]:
    """A file for each interface."""
    directory, _, start = prefix.rpartition("/")
    found = []
    for name in names_in(system, directory):
        interface = name.removeprefix(start)
        if (
            name.startswith(start)
            and re.fullmatch(r"[A-Za-z]+\d+", interface)
            and not re.fullmatch(r"lo\d+", interface)
        ):
            path = f"{directory}/{name}"
            found.append(_interface(interface, _lines(text_of(system, path)), path))
    return found


def _interface(name: str, lines: Iterable[str], source: str) -> NetworkInterface:
    """An interface by lines of ifconfig(8)'s words, as hostname.if(5) and rc.conf(5) have them."""
    addresses: list[str] = []
    members: list[str] = []
    method = mac = None
    for line in lines:
        if line.lstrip().startswith("!"):
            continue
        words = line.partition("#")[0].split()
        lower = [word.lower() for word in words]
        dynamic = any(word in _DYNAMIC for word in lower)
        method = "dhcp" if dynamic or method == "dhcp" else method
        addresses += [] if dynamic and len(words) < 3 else _addresses(words)
        for word, value in zip(lower, words[1:], strict=False):
            if word in _MEMBERS and value not in members:
                members.append(value)
            if word in ("lladdr", "ether", "link") and _MAC.fullmatch(value):
                mac = ":".join(part.zfill(2) for part in value.lower().split(":"))
    kind = _KINDS.get(name.rstrip("0123456789")) or ("vlan" if "." in name else None)
    method = method or ("static" if addresses else None)
    return NetworkInterface(name, method, addresses, None, source, mac=mac, type=kind, members=members)


def _addresses(words: list[str]) -> list[str]:
    """``inet 10.0.0.1 netmask 255.255.255.0``, ``inet alias 10.0.0.1 255.255.255.0``, ``10.0.0.1/24``…"""
    words = [word for word in words if word.lower() not in ("alias", "up")]
    family = next((number for number, word in enumerate(words, 1) if word in _FAMILIES), None)
    if family is None:  # it may come after other settings, and without its family
        places = (number for number, word in enumerate(words) if _ADDRESS.fullmatch(word))
        family = next(
            (number for number in places if not number or words[number - 1] not in _BEFORE_OTHERS), len(words)
        )
    words = words[family:]
    if not words or not _ADDRESS.fullmatch(words[0]):
        return []
    address = words[0]
    after = dict(pairwise(words))
    prefix = after.get("prefixlen") or prefix_of(_dotted(after.get("netmask", "")))
    if prefix is None and len(words) > 1:
        prefix = words[1] if ":" in address and words[1].isdecimal() else prefix_of(_dotted(words[1]))
    return [f"{address}/{prefix}" if prefix and "/" not in address else address]


def _dotted(mask: str) -> str:
    """``255.255.255.0`` of ``0xffffff00``."""
    if not re.fullmatch(r"0[xX][0-9A-Fa-f]{8}", mask):
        return mask
    return ".".join(str(byte) for byte in bytes.fromhex(mask[2:]))
