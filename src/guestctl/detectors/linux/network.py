"""Network configuration: ifupdown, netplan, NetworkManager, systemd-networkd, Red Hat's ifcfg files."""

from __future__ import annotations

from collections.abc import Iterator

from guestctl.detectors.files import Tree, assignments, list_directory, read_config, sections
from guestctl.detectors.report import Guest
from guestctl.detectors.report.network import NetworkInterface
from guestctl.detectors.system import System

# The loader takes some 5 µs a character.
_MAX_YAML_CHARACTERS = 64 << 10


def detect_network(tree: Tree, guest: Guest) -> None:
    """The interfaces that the guest's configuration files name."""
    guest.network = _interfaces(tree)


def network(system: System) -> list[NetworkInterface]:
    """The interfaces that the guest's configuration files name."""
    return _interfaces(system.tree)


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
    current: NetworkInterface | None = None
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "iface" and len(words) >= 4:
            if current is not None:
                yield current
            current = NetworkInterface(words[1], words[3], [], None, source) if words[3] != "loopback" else None
        elif words[0] in ("auto", "mapping", "source", "source-directory") or words[0].startswith("allow-"):
            if current is not None:
                yield current
            current = None
        elif current is not None and len(words) >= 2:
            if words[0] == "address":
                current.addresses.append(words[1])
            elif words[0] == "gateway":
                current = NetworkInterface(current.name, current.method, current.addresses, words[1], source)
    if current is not None:
        yield current


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
            document = yaml.load(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            yield NetworkInterface("?", None, [], None, path)
            continue
        network = document.get("network") if isinstance(document, dict) else None
        for kind in ("ethernets", "wifis", "bonds", "bridges", "vlans"):
            group = network.get(kind) if isinstance(network, dict) else None
            for name, settings in group.items() if isinstance(group, dict) else ():
                if isinstance(settings, dict):
                    yield _from_netplan(str(name), settings, path)


def _from_netplan(name: str, settings: dict[str, object], path: str) -> NetworkInterface:
    addresses = settings.get("addresses")
    # An address is a string, or a mapping from one string to its options.
    plain = [next(iter(item), None) if isinstance(item, dict) else item for item in _list(addresses)]
    listed = [item for item in plain if isinstance(item, str)]
    gateway = settings.get("gateway4") or settings.get("gateway6")
    for route in _list(settings.get("routes")):
        if gateway is None and isinstance(route, dict) and route.get("to") in ("default", "0.0.0.0/0", "::/0"):
            gateway = route.get("via")
    dynamic = settings.get("dhcp4") is True or settings.get("dhcp6") is True
    method = "dhcp" if dynamic else "static" if listed else None
    return NetworkInterface(name, method, listed, gateway if isinstance(gateway, str) else None, path)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


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
            yield NetworkInterface(name, method, addresses, gateway, path)


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
        yield NetworkInterface(names[0] if names else ",".join(matches) or "*", method, addresses, gateway, path)


_LEFTOVERS = (".bak", ".orig", ".rpmsave", ".rpmnew", ".rpmorig", "~")


def _ifcfg(tree: Tree) -> Iterator[NetworkInterface]:
    for base in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        for path, text in _files(tree, base):
            name = path.rpartition("/")[2]
            if not name.startswith("ifcfg-") or name == "ifcfg-lo" or name.endswith(_LEFTOVERS):
                continue
            values = dict(assignments(text))
            address, prefix = values.get("IPADDR"), values.get("PREFIX") or values.get("PREFIXLEN")
            addresses = [] if not address else [f"{address}/{prefix}" if prefix and "/" not in address else address]
            device = values.get("DEVICE") or name.removeprefix("ifcfg-")
            yield NetworkInterface(device, values.get("BOOTPROTO") or None, addresses, values.get("GATEWAY"), path)
