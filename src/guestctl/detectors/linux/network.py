"""Network configuration: ifupdown, netplan, NetworkManager, systemd-networkd, Red Hat's ifcfg files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.files import Tree, assignments, list_directory, read_config, sections
from guestctl.detectors.report import Guest
from guestctl.detectors.report.network import NetworkInterface
from guestctl.detectors.system import System

# The loader takes some 5 µs a character.
_MAX_YAML_CHARACTERS = 64 << 10
_MAX_VALUES = 256  # of a list
_TRUE = ("true", "on", "yes", "y")  # netplan's words


def detect_network(tree: Tree, guest: Guest) -> None:
    """The interfaces that the guest's configuration files name."""
    guest.network = _interfaces(tree)


def network(system: System) -> list[NetworkInterface]:
    """The interfaces that the guest's configuration files name, and as ``*`` the servers that all of them ask."""
    return [*_interfaces(system.tree), *resolvers(system.tree)]


def resolvers(tree: Tree) -> Iterator[NetworkInterface]:
    """The servers of resolv.conf(5), systemd-resolved's own file, and SUSE's netconfig."""
    servers: dict[str, list[str]] = {}
    for line in (read_config(tree, "/etc/resolv.conf") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            servers.setdefault("/etc/resolv.conf", []).append(words[1])
    for path, wanted in (
        ("/etc/systemd/resolved.conf", "DNS"),
        ("/etc/sysconfig/network/config", "NETCONFIG_DNS_STATIC_SERVERS"),
    ):
        for key, value in assignments(read_config(tree, path) or ""):
            if key == wanted and value:
                servers.setdefault(path, []).extend(value.split())
    for path, dns in servers.items():
        yield NetworkInterface("*", None, [], None, path, dns)


def _interfaces(tree: Tree) -> list[NetworkInterface]:
    return [
        *_ifupdown(tree),
        *_netplan(tree),
        *_network_manager(tree),
        *_networkd(tree),
        *_ifcfg(tree),
    ]


def _files(tree: Tree, directory: str, suffix: str = "") -> Iterator[tuple[str, str]]:
    for name in list_directory(tree, directory):
        path = f"{directory}/{name}"
        text = read_config(tree, path) if name.endswith(suffix) and not name.startswith(".") else None
        if text is not None:
            yield path, text


def _ifupdown(tree: Tree) -> Iterator[NetworkInterface]:
    """interfaces(5)."""
    main = read_config(tree, "/etc/network/interfaces")
    files = [] if main is None else [("/etc/network/interfaces", main)]
    files.extend(_files(tree, "/etc/network/interfaces.d"))
    for path, text in files:
        yield from parse_interfaces(text, path)


def parse_interfaces(text: str, source: str) -> Iterator[NetworkInterface]:
    """The ``iface`` stanzas of an interfaces(5) file, the loopback interface left out."""
    stanza: tuple[str, str] | None = None
    options: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("iface", "auto", "mapping", "source", "source-directory") or words[0].startswith("allow-"):
            if stanza is not None:
                yield _from_stanza(*stanza, options, source)
            is_wanted = words[0] == "iface" and len(words) >= 4 and words[3] != "loopback"
            stanza, options = (words[1], words[3]) if is_wanted else None, {}
        else:
            options.setdefault(words[0].replace("_", "-"), []).extend(words[1:])
    if stanza is not None:
        yield _from_stanza(*stanza, options, source)


def _from_stanza(name: str, method: str, options: dict[str, list[str]], source: str) -> NetworkInterface:
    members = {kind: options.get(key) for kind, key in _STANZA_MEMBERS.items()}
    kind = next((kind for kind, found in members.items() if found), None)
    hardware = options.get("hwaddress", [])
    return NetworkInterface(
        name,
        method,
        options.get("address", []),
        next(iter(options.get("gateway", [])), None),
        source,
        dns=options.get("dns-nameservers", []) + options.get("dns-nameserver", []),
        mac=_mac(hardware[-1] if hardware else None),
        type=kind,
        members=[member for member in members.get(kind or "") or [] if member != "none"],
    )


# The options of ifenslave, bridge-utils and vlan.
_STANZA_MEMBERS = {"bond": "bond-slaves", "bridge": "bridge-ports", "vlan": "vlan-raw-device"}
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


def _mac(value: object) -> str | None:
    """A MAC address in lower case with colons; None for a word such as "random"."""
    if isinstance(value, str) and _MAC.fullmatch(value):
        return value.lower().replace("-", ":")
    return None


def _netplan(tree: Tree) -> Iterator[NetworkInterface]:
    texts = [
        (path, text)
        for base in ("/etc/netplan", "/run/netplan", "/lib/netplan")
        for path, text in _files(tree, base, ".yaml")
        if len(text) <= _MAX_YAML_CHARACTERS
    ]
    if not texts:
        return
    import yaml

    for path, text in texts:
        try:
            # The C loader nests on the C stack, which a hostile file can exhaust.
            # netplan itself takes all values for texts; here numbers and dates would only be more to go wrong.
            document = yaml.load(text, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            yield NetworkInterface("?", None, [], None, path)
            continue
        network = document.get("network") if isinstance(document, dict) else None
        for kind in ("ethernets", "wifis", "bonds", "bridges", "vlans"):
            group = network.get(kind) if isinstance(network, dict) else None
            for name, settings in group.items() if isinstance(group, dict) else ():
                if isinstance(name, str) and isinstance(settings, dict):
                    yield _from_netplan(name, kind, settings, path)


def _from_netplan(name: str, kind: str, settings: dict[str, object], path: str) -> NetworkInterface:
    addresses = settings.get("addresses")
    # An address is a string, or a mapping from one string to its options.
    plain = [next(iter(item), None) if isinstance(item, dict) else item for item in _list(addresses)]
    listed = [item for item in plain if isinstance(item, str)]
    gateway = settings.get("gateway4") or settings.get("gateway6")
    for route in _list(settings.get("routes")):
        if gateway is None and isinstance(route, dict) and route.get("to") in ("default", "0.0.0.0/0", "::/0"):
            gateway = route.get("via")
    dynamic = any(str(settings.get(key)).lower() in _TRUE for key in ("dhcp4", "dhcp6"))
    method = "dhcp" if dynamic else "static" if listed else None
    match, servers, renamed = settings.get("match"), settings.get("nameservers"), settings.get("set-name")
    dns = _list(servers.get("addresses")) if isinstance(servers, dict) else []
    members = [settings["link"]] if "link" in settings else _list(settings.get("interfaces"))
    return NetworkInterface(
        renamed if isinstance(renamed, str) else name,
        method,
        listed,
        gateway if isinstance(gateway, str) else None,
        path,
        dns=[server for server in dns if isinstance(server, str)],
        mac=_mac(match.get("macaddress") if isinstance(match, dict) else None) or _mac(settings.get("macaddress")),
        type=kind.removesuffix("s"),
        members=[member for member in members if isinstance(member, str)],
    )


def _list(value: object) -> list[object]:
    # An alias may name one list again and again.
    return value[:_MAX_VALUES] if isinstance(value, list) else []


def _network_manager(tree: Tree) -> Iterator[NetworkInterface]:
    """nm-settings-keyfile(5)."""
    for base in ("/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"):
        for path, text in _files(tree, base):
            values = {f"{section}.{key}": value for section, key, value in sections(text)}
            name = values.get("connection.interface-name") or values.get("connection.id")
            if not name:
                continue
            addresses, gateway = [], values.get("ipv4.gateway") or values.get("ipv6.gateway")
            for number in range(1, 100):
                for family in ("ipv4", "ipv6"):
                    entry = values.get(f"{family}.address{number}")
                    if entry:
                        address, _, via = entry.partition(",")
                        addresses.append(address)
                        gateway = gateway or via or None
            method = {"auto": "dhcp", "manual": "static"}.get(values.get("ipv4.method", ""), values.get("ipv4.method"))
            dns = [one for family in ("ipv4", "ipv6") for one in values.get(f"{family}.dns", "").split(";") if one]
            kind = values.get("connection.type", "").removeprefix("802-3-") or None
            hardware = values.get("ethernet.mac-address") or values.get("802-3-ethernet.mac-address")
            parent = values.get("vlan.parent")
            yield NetworkInterface(
                name, method, addresses, gateway, path, dns, _mac(hardware), kind, [parent] if parent else []
            )


def _networkd(tree: Tree) -> Iterator[NetworkInterface]:
    """systemd.network(5)."""
    for path, text in _files(tree, "/etc/systemd/network", ".network"):
        settings = list(sections(text))
        matches = [f"{key}={value}" for section, key, value in settings if section == "Match"]
        names = [value for section, key, value in settings if section == "Match" and key == "Name"]
        addresses = [
            value for section, key, value in settings if section in ("Network", "Address") and key == "Address"
        ]
        gateway = next((value for _, key, value in settings if key == "Gateway"), None)
        dynamic = any(key == "DHCP" and value.lower() not in ("no", "false") for _, key, value in settings)
        method = "dhcp" if dynamic else "static" if addresses else None
        dns = [one for section, key, value in settings if (section, key) == ("Network", "DNS") for one in value.split()]
        hardware = next((value for _, key, value in settings if key in ("MACAddress", "PermanentMACAddress")), None)
        name = names[0] if names else ",".join(matches) or "*"
        yield NetworkInterface(name, method, addresses, gateway, path, dns, _mac(hardware))


_LEFTOVERS = (".bak", ".orig", ".rpmsave", ".rpmnew", ".rpmorig", "~")


def _ifcfg(tree: Tree) -> Iterator[NetworkInterface]:
    for base in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        for path, text in _files(tree, base):
            name = path.rpartition("/")[2]
            if not name.startswith("ifcfg-") or name == "ifcfg-lo" or name.endswith(_LEFTOVERS):
                continue
            yield _from_ifcfg(name.removeprefix("ifcfg-"), dict(assignments(text)), path)


def _from_ifcfg(name: str, values: dict[str, str], path: str) -> NetworkInterface:
    """Red Hat's keys (ifcfg(5) of initscripts), and SUSE's (ifcfg(5) of wicked)."""
    addresses = []
    for key, address in values.items():
        number = key.removeprefix("IPADDR")
        if key.startswith("IPADDR") and address and not number.strip("_0123456789"):
            prefix = values.get(f"PREFIX{number}") or values.get(f"PREFIXLEN{number}")
            prefix = prefix or prefix_of(values.get(f"NETMASK{number}", ""))
            addresses.append(f"{address}/{prefix}" if prefix and "/" not in address else address)
    addresses += [value for key, value in values.items() if key == "IPV6ADDR" and value]
    bond = [value for key, value in values.items() if key.startswith("BONDING_SLAVE") and key[13:14] in ("_", "")]
    bridge = values.get("BRIDGE_PORTS", "").split()
    vlan = [value for key in ("PHYSDEV", "ETHERDEVICE") if (value := values.get(key))]
    kind = "bond" if bond or values.get("BONDING_MASTER", "").lower() == "yes" else None
    kind = kind or ("bridge" if bridge or values.get("BRIDGE", "").lower() == "yes" else None)
    kind = kind or ("vlan" if vlan or values.get("VLAN", "").lower() == "yes" else None)
    return NetworkInterface(
        values.get("DEVICE") or name,
        values.get("BOOTPROTO") or None,
        addresses,
        values.get("GATEWAY") or values.get("GATEWAY0"),
        path,
        dns=[value for key, value in values.items() if key[:3] == "DNS" and key[3:].isdigit() and value],
        mac=_mac(values.get("HWADDR")) or _mac(values.get("LLADDR")) or _mac(values.get("MACADDR")),
        type=kind or values.get("TYPE", "").lower() or None,
        members=bond or bridge or vlan,
    )


def prefix_of(mask: str) -> str | None:
    """``24`` of ``255.255.255.0``."""
    parts = mask.split(".")
    if len(parts) != 4 or not all(part.isdecimal() and len(part) < 4 for part in parts):
        return None
    bits = "".join(f"{int(part):08b}" for part in parts)
    return str(bits.count("1")) if len(bits) == 32 and "01" not in bits else None
