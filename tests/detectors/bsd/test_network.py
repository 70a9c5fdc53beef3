"""Network configuration of BSD guests, in the words of rc.conf(5), ifconfig.if(5) and hostname.if(5).

The lines are those of the manuals and of FreeBSD's libexec/rc/rc.conf; a netmask's prefix is what ipaddress has.
"""

from __future__ import annotations

import ipaddress

import pytest

from guestctl.core.types import GuestType
from guestctl.detectors.bsd.network import _interface
from guestctl.detectors.views import view
from host_system import memory_system

Files = dict[str, str | bytes | None]


def _network(files: Files, family: GuestType) -> dict[str, tuple[object, ...]]:
    system = memory_system(files, family)
    found = view("network", system)
    assert not system.warnings
    return {
        f"{one.name} {one.source.rpartition('/')[2]}" if one.name == "*" else one.name: (
            one.method,
            one.addresses or one.gateway or one.dns,
            one.type,
            one.members,
        )
        for one in found
    }


def test_freebsd() -> None:
    rc_conf = (
        'hostname="beastie.example.org"\nifconfig_em0="inet 192.0.2.5 netmask 255.255.255.0"\n'
        'ifconfig_em0_ipv6="inet6 2001:db8:1::1 prefixlen 64"\nifconfig_em0_alias0="inet6 2001:db8:2::1 prefixlen 64"\n'
        'ifconfig_em0_alias1="inet 192.0.2.254 netmask 0xffffffff"\nifconfig_lo0="inet 127.0.0.1"\n'
        'ifconfig_vtnet0="SYNCDHCP"\nifconfig_vtnet0_ipv6="inet6 accept_rtadv"\ndefaultrouter="192.0.2.1"\n'
        'cloned_interfaces="lagg0 bridge0 tap0"\n'
        'ifconfig_lagg0="laggproto lacp laggport em1 laggport em2 198.51.100.2/24"\n'
        'ifconfig_bridge0="addm em3 addm tap0 up"\nifconfig_em1="up"\nvlans_em4="101 vlan0"\n'
        'create_args_vlan0="vlan 102"\n'
        'ifconfig_em4_101="inet 10.1.0.1/24"\nipv4_addrs_em5="10.5.0.1/24 10.6.0.1-5/28"\nifconfig_em5_name="net0"\n'
        'ifconfig_em6="ether 02:0:0:A:b:1 DHCP"\nifconfig_em7_aliases="inet 10.7.0.1/24 inet6 2001:db8:7::1/64"\n'
        "ipv6_defaultrouter=fe80::1%em0\n"
    )
    found = _network(
        {"/etc/rc.conf": rc_conf, "/etc/resolv.conf": "search example.org\nnameserver 192.0.2.53\n"}, GuestType.FREEBSD
    )
    em0 = ["192.0.2.5/24", "2001:db8:1::1/64", "2001:db8:2::1/64", "192.0.2.254/32"]
    assert found["em0"] == ("static", em0, None, [])
    assert found["vtnet0"][:2] == ("dhcp", [])
    assert found["lagg0"] == ("static", ["198.51.100.2/24"], "bond", ["em1", "em2"])
    assert found["bridge0"] == (None, [], "bridge", ["em3", "tap0"])
    assert found["vlan0"] == (None, [], "vlan", ["em4"]) and found["em4.101"] == (None, [], "vlan", ["em4"])
    assert found["net0"][:2] == ("static", ["10.5.0.1/24", "10.6.0.1-5/28"])
    assert found["em7"][:2] == ("static", ["10.7.0.1/24", "2001:db8:7::1/64"])
    assert found["em6"][0] == "dhcp" and found["tap0"][:2] == (None, [])
    assert "lo0" not in found
    assert found["* resolv.conf"][1] == ["192.0.2.53"]
    gateways = [one.gateway for one in view("network", memory_system({"/etc/rc.conf": rc_conf}, GuestType.FREEBSD))]
    assert [one for one in gateways if one] == ["192.0.2.1", "fe80::1%em0"]


def test_netbsd() -> None:
    files: Files = {
        "/etc/rc.conf": 'ifconfig_wm0="inet 192.0.2.5 netmask 255.255.255.0; inet 192.0.2.6/32 alias"\n'
        'ifconfig_wm1="dhcp"\ndefaultroute="192.0.2.1"\n',
        "/etc/ifconfig.vioif0": "# the second\nup\ninet6 2001:db8::5 prefixlen 64 alias\n!dhcpcd $int\n",
        "/etc/ifconfig.bak": "inet 1.2.3.4\n",
    }
    assert _network(files, GuestType.NETBSD) == {
        "wm0": ("static", ["192.0.2.5/24", "192.0.2.6/32"], None, []),
        "wm1": ("dhcp", [], None, []),
        "vioif0": ("static", ["2001:db8::5/64"], None, []),
        "* rc.conf": (None, "192.0.2.1", None, []),
    }
    assert _network({"/etc/mygate": "192.0.2.9\n"}, GuestType.NETBSD)["* mygate"][1] == "192.0.2.9"


def test_openbsd() -> None:
    files: Files = {
        "/etc/hostname.vio0": "# first\ninet autoconf\ninet6 autoconf\n",
        "/etc/hostname.em0": "inet 10.0.1.12 255.255.255.0 10.0.1.255 description \"Uplink 9.9.9.9\"\n"
        "inet alias 10.0.1.13 255.255.255.255\ninet6 fec0::1 64\ninet6 alias 2001:db8::2 64\n!route add 1.2.3.4\n"
        "lladdr 0:1:2:3:4:5\n",
        "/etc/hostname.em1": "dhcp\n",
        "/etc/hostname.vlan7": "vnetid 7 parent em2\ninet 10.0.7.1/24\n",
        "/etc/hostname.trunk0": "trunkproto failover trunkport em3 trunkport iwn0\ninet autoconf\n",
        "/etc/hostname.lo1": "inet 127.0.0.2\n",
        "/etc/mygate": "10.0.1.1\nfec0::ff\n",
    }  # fmt: skip
    found = _network(files, GuestType.OPENBSD)
    assert found["vio0"] == found["em1"] == ("dhcp", [], None, [])
    em0 = ["10.0.1.12/24", "10.0.1.13/32", "fec0::1/64", "2001:db8::2/64"]
    assert found["em0"] == ("static", em0, None, [])
    assert found["vlan7"] == ("static", ["10.0.7.1/24"], "vlan", ["em2"])
    assert found["trunk0"] == ("dhcp", [], "bond", ["em3", "iwn0"])
    assert "lo1" not in found
    system = memory_system(files, GuestType.OPENBSD)
    assert [one.gateway for one in view("network", system) if one.gateway] == ["10.0.1.1", "fec0::ff"]
    assert [one.mac for one in view("network", system) if one.name == "em0"] == ["00:01:02:03:04:05"]


@pytest.mark.parametrize("prefix", range(33))
def test_netmasks(prefix: int) -> None:
    mask = ipaddress.IPv4Network(f"0.0.0.0/{prefix}").netmask
    hexadecimal = f"0x{int(mask):08x}"
    for line in (f"inet 10.0.0.1 netmask {mask}", f"inet 10.0.0.1 {mask}", f"inet 10.0.0.1 netmask {hexadecimal}"):
        assert _interface("em0", [line], "").addresses == [f"10.0.0.1/{prefix}"]


@pytest.mark.parametrize(
    "line", ["inet", "inet6", "inet 10.0.0.1 netmask", "inet x", "alias", "!", "#", "inet -1", "dest"]
)
def test_odd_lines(line: str) -> None:
    assert _interface("em0", [line], "").addresses in ([], ["10.0.0.1"])
