"""Network connections of a real SYSTEM hive, read with hivexget, and of a made-up one."""

from __future__ import annotations

from pathlib import Path

from conftest import Run
from detectors.windows.conftest import Load, MakeHive, system_of
from guestctl.detectors.windows.network import network

_CLASS = r"ControlSet001\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}"
_TCPIP = r"ControlSet001\Services\Tcpip\Parameters\Interfaces"
_WIFI = "{4b0ae068-b350-4bd4-85ab-77e00e581863}"


def test_as_hivex_says(load: Load, run: Run, tmp_path: Path) -> None:
    hive = load("SYSTEM_B")
    (tmp_path / "hive").write_bytes(hive)

    def ask(key: str, name: str) -> str:
        return run("hivexget", tmp_path / "hive", f"\\{key}", name).strip()

    found = network(system_of({"system": hive}))
    assert all(one.method == "dhcp" for one in found)
    (wifi,) = (one for one in found if one.source.endswith(_WIFI))
    assert wifi.name == ask(rf"{_CLASS}\{_WIFI}\Connection", "Name") == "Wi-Fi"
    assert wifi.addresses == [ask(rf"{_TCPIP}\{_WIFI}", "DhcpIPAddress") + "/24"]
    assert ask(rf"{_TCPIP}\{_WIFI}", "DhcpSubnetMask") == "255.255.255.0"
    assert wifi.gateway == ask(rf"{_TCPIP}\{_WIFI}", "DhcpDefaultGateway")
    assert wifi.dns == ask(rf"{_TCPIP}\{_WIFI}", "DhcpNameServer").split()
    assert {"Ethernet", "Bluetooth Network Connection"} <= {one.name for one in found}
    assert len(found) == len(run("hivexsh", "-f", *_listing(tmp_path)).split()) - 1  # without the loopback interface


def _listing(directory: Path) -> tuple[Path, Path]:
    script = directory / "script"
    script.write_text("cd " + _TCPIP.replace("\\", "\\\\") + "\nls\n")
    return script, directory / "hive"


def _multi(*texts: str) -> str:
    return "hex(7):" + ",".join(f"{byte:02x}" for byte in ("\0".join((*texts, "")) + "\0").encode("utf-16-le"))


def test_static(make_hive: MakeHive) -> None:
    hive = make_hive(
        f'[{_TCPIP}\\{{A}}]\n"EnableDHCP"=dword:00000000\n"NameServer"="192.0.2.1,192.0.2.2"\n'
        f'"IPAddress"={_multi("192.0.2.10", "198.51.100.7", "203.0.113.1")}\n'
        f'"SubnetMask"={_multi("255.255.255.128", "255.0.255.0")}\n"DefaultGateway"={_multi("192.0.2.126")}\n'
        f'[{_TCPIP}\\{{B}}]\n"EnableDHCP"=dword:00000001\n"DhcpIPAddress"="0.0.0.0"\n'
        f'[{_CLASS}\\{{a}}\\Connection]\n"Name"="Office"\n'
        '[ControlSet001\\Services\\Tcpip6\\Parameters\\Interfaces\\{a}]\n"NameServer"="2001:db8::1"\n'
    )
    office, other = network(system_of({"system": hive}))
    assert (office.name, office.method, office.gateway) == ("Office", "static", "192.0.2.126")
    assert office.addresses == ["192.0.2.10/25", "198.51.100.7", "203.0.113.1"]
    assert office.dns == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert (other.name, other.method, other.addresses, other.gateway, other.dns) == ("{B}", "dhcp", [], None, [])
