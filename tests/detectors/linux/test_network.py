"""Bonds, bridges, VLANs, MAC addresses and DNS servers, in the examples of the tools' own documents."""

from __future__ import annotations

import ipaddress

import pytest

from guestctl.detectors.linux.network import network, prefix_of
from guestctl.detectors.report.network import NetworkInterface
from host_system import memory_system


def _named(files: dict[str, str | bytes | None]) -> dict[str, NetworkInterface]:
    return {one.name: one for one in network(memory_system(files))}


def test_ifupdown() -> None:
    """interfaces(5), ifenslave's and bridge-utils' examples."""
    found = _named(
        {
            "/etc/network/interfaces": (
                "auto lo\niface lo inet loopback\n\nauto bond0\niface bond0 inet static\n\taddress 192.0.2.7/24\n"
                "\tgateway 192.0.2.254\n\tdns-nameservers 192.0.2.254 192.0.2.253\n\tbond-slaves eth0 eth1\n"
                "\tbond_mode 4\niface br0 inet dhcp\n\tbridge_ports eth2\n\thwaddress ether 52:54:00:AA:bb:cc\n"
                "iface eth0.5 inet manual\n\tvlan-raw-device eth0\niface br1 inet manual\n\tbridge-ports none\n"
            ),
            "/etc/resolv.conf": "# by hand\ndomain example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n",
        }
    )
    assert found["bond0"].dns == ["192.0.2.254", "192.0.2.253"]
    assert (found["bond0"].type, found["bond0"].members) == ("bond", ["eth0", "eth1"])
    assert (found["br0"].mac, found["br0"].members) == ("52:54:00:aa:bb:cc", ["eth2"])
    assert (found["eth0.5"].type, found["eth0.5"].members) == ("vlan", ["eth0"])
    assert (found["br1"].type, found["br1"].members) == ("bridge", [])
    assert found["*"].dns == ["192.0.2.1", "2001:db8::1"]
    assert "lo" not in found


def test_netplan() -> None:
    found = _named(
        {
            "/etc/netplan/01-netcfg.yaml": (
                "network:\n  version: 2\n  ethernets:\n    id0:\n      match:\n        macaddress: 00:11:22:33:44:55\n"
                "      set-name: lan0\n      addresses: [192.168.14.2/24]\n      nameservers:\n        search: [lab]\n"
                "        addresses: [8.8.8.8, '2001:4860:4860::8888']\n"
                "  bonds:\n    bond0:\n      interfaces: [lan0, lan1]\n"
                "      dhcp4: true\n  vlans:\n    vlan15:\n      id: 15\n      link: bond0\n      macaddress: random\n"
            )
        }
    )
    assert found["lan0"].mac == "00:11:22:33:44:55"
    assert found["lan0"].dns == ["8.8.8.8", "2001:4860:4860::8888"]
    assert (found["bond0"].type, found["bond0"].members, found["bond0"].method) == ("bond", ["lan0", "lan1"], "dhcp")
    assert (found["vlan15"].type, found["vlan15"].members, found["vlan15"].mac) == ("vlan", ["bond0"], None)


def test_network_manager_and_networkd() -> None:
    found = _named(
        {
            "/etc/NetworkManager/system-connections/office.nmconnection": (
                "[connection]\nid=office\ntype=ethernet\ninterface-name=eth0\n[ethernet]\nmac-address=00:11:22:33:44:55\n"
                "[ipv4]\nmethod=manual\naddress1=10.0.0.2/24,10.0.0.1\ndns=10.0.0.53;10.0.0.54;\n"
            ),
            "/etc/NetworkManager/system-connections/vlan.nmconnection": (
                "[connection]\nid=v\ntype=vlan\ninterface-name=eth0.5\n[vlan]\nid=5\nparent=eth0\n[ipv4]\nmethod=auto\n"
            ),
            "/etc/systemd/network/10-lan.network": (
                "[Match]\nName=enp1s0\nMACAddress=52-54-00-12-34-56\n[Network]\nAddress=10.1.0.2/24\nDNS=10.1.0.1\nDNS=10.1.0.3\n"
            ),
            "/etc/systemd/resolved.conf": "[Resolve]\n#DNS=\nDNS=9.9.9.9 149.112.112.112\n",
        }
    )
    assert (found["eth0"].dns, found["eth0"].mac) == (["10.0.0.53", "10.0.0.54"], "00:11:22:33:44:55")
    assert (found["eth0.5"].type, found["eth0.5"].members) == ("vlan", ["eth0"])
    assert (found["enp1s0"].dns, found["enp1s0"].mac) == (["10.1.0.1", "10.1.0.3"], "52:54:00:12:34:56")
    assert found["*"].dns == ["9.9.9.9", "149.112.112.112"]


def test_ifcfg() -> None:
    """Red Hat Enterprise Linux 7's Networking Guide, and wicked's ifcfg-bonding(5), ifcfg-vlan(5)."""
    found = _named(
        {
            "/etc/sysconfig/network-scripts/ifcfg-eth0": (
                "TYPE=Ethernet\nDEVICE=eth0\nBOOTPROTO=none\nIPADDR0=10.0.1.27\nNETMASK0=255.255.255.192\n"
                "IPADDR1=10.0.2.27\nPREFIX1=24\nGATEWAY0=10.0.1.1\nDNS1=10.0.1.53\nDNS2=10.0.1.54\n"
                'HWADDR="00:16:3E:AA:BB:01"\n'
            ),
            "/etc/sysconfig/network-scripts/ifcfg-bond0": "DEVICE=bond0\nTYPE=Bond\nBONDING_MASTER=yes\n",
            "/etc/sysconfig/network/ifcfg-bond1": (
                "STARTMODE='auto'\nBOOTPROTO='static'\nIPADDR='192.168.0.1/24'\nIPADDR_2='192.168.9.1/24'\n"
                "BONDING_MASTER='yes'\nBONDING_SLAVE_0='eth1'\nBONDING_SLAVE_1='eth2'\n"
                "BONDING_MODULE_OPTS='mode=active-backup'\n"
            ),
            "/etc/sysconfig/network/ifcfg-vlan3": "ETHERDEVICE='eth0'\nVLAN_ID='3'\nLLADDR='02:00:00:00:00:03'\n",
            "/etc/sysconfig/network/ifcfg-br0": "BRIDGE='yes'\nBRIDGE_PORTS='eth3 eth4'\nBOOTPROTO='dhcp'\n",
            "/etc/sysconfig/network/config": 'NETCONFIG_DNS_STATIC_SERVERS="1.1.1.1 1.0.0.1"\n',
        }
    )
    assert found["eth0"].addresses == ["10.0.1.27/26", "10.0.2.27/24"]
    assert (found["eth0"].gateway, found["eth0"].mac) == ("10.0.1.1", "00:16:3e:aa:bb:01")
    assert (found["eth0"].dns, found["eth0"].type) == (["10.0.1.53", "10.0.1.54"], "ethernet")
    assert found["bond0"].type == "bond"
    assert (found["bond1"].type, found["bond1"].members) == ("bond", ["eth1", "eth2"])
    assert found["bond1"].addresses == ["192.168.0.1/24", "192.168.9.1/24"]
    assert (found["vlan3"].type, found["vlan3"].members, found["vlan3"].mac) == ("vlan", ["eth0"], "02:00:00:00:00:03")
    assert (found["br0"].type, found["br0"].members) == ("bridge", ["eth3", "eth4"])
    assert found["*"].dns == ["1.1.1.1", "1.0.0.1"]


@pytest.mark.parametrize("mask", ["255.255.255.0", "255.255.255.192", "128.0.0.0", "0.0.0.0", "255.255.255.255"])
def test_masks(mask: str) -> None:
    assert prefix_of(mask) == str(ipaddress.ip_network(f"0.0.0.0/{mask}").prefixlen)
    assert prefix_of("255.0.255.0") is None and prefix_of("999.0.0.0") is None and prefix_of("") is None
