"""Linux detectors on the files that distributions ship.

The texts are those of the releases named; the words expected are libguestfs's for them.
"""

from __future__ import annotations

import struct

import pytest

from guestctl.detectors.linux.architecture import detect_architecture, elf_architecture
from guestctl.detectors.linux.distribution import detect_distribution, split_version
from guestctl.detectors.linux.kernels import detect_kernels
from guestctl.detectors.linux.network import detect_network
from guestctl.detectors.linux.services import detect_services
from guestctl.detectors.linux.settings import detect_hostname, detect_locale, detect_ssh_keys, detect_timezone
from guestctl.detectors.linux.users import detect_users
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest
from memory_filesystem import Link, MemoryFileSystem

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 22.04.3 LTS"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n'
FEDORA = (
    'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=39\nPRETTY_NAME="Fedora Linux 39 (Server Edition)"\nVARIANT_ID=server\n'
)
ALPINE = 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.18.4\nPRETTY_NAME="Alpine Linux v3.18"\n'
CENTOS7 = 'NAME="CentOS Linux"\nID="centos"\nVERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7 (Core)"\n'
ROCKY = 'NAME="Rocky Linux"\nID="rocky"\nVERSION_ID="9.2"\nPRETTY_NAME="Rocky Linux 9.2 (Blue Onyx)"\n'
SLES = 'NAME="SLES"\nVERSION_ID="15.5"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP5"\nID="sles"\n'
LEAP = 'NAME="openSUSE Leap"\nID="opensuse-leap"\nVERSION_ID="15.5"\nPRETTY_NAME="openSUSE Leap 15.5"\n'
ARCH = 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n'
ORACLE = 'NAME="Oracle Linux Server"\nID="ol"\nVERSION_ID="8.6"\nPRETTY_NAME="Oracle Linux Server 8.6"\n'


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"/usr/lib/os-release": DEBIAN, "/etc/debian_version": "12.5\n"},
            ("debian", "Debian GNU/Linux 12 (bookworm)", 12, 5, "debian12"),
        ),
        (
            {"/etc/os-release": DEBIAN, "/etc/debian_version": "trixie/sid\n"},
            ("debian", "Debian GNU/Linux 12 (bookworm)", 12, None, "debian12"),
        ),
        ({"/etc/os-release": UBUNTU}, ("ubuntu", "Ubuntu 22.04.3 LTS", 22, 4, "ubuntu22.04")),
        ({"/etc/os-release": FEDORA}, ("fedora", "Fedora Linux 39 (Server Edition)", 39, None, "fedora39")),
        ({"/etc/os-release": ALPINE}, ("alpinelinux", "Alpine Linux v3.18", 3, 18, "alpinelinux3.18")),
        (
            {"/etc/os-release": CENTOS7, "/etc/centos-release": "CentOS Linux release 7.9.2009 (Core)\n"},
            ("centos", "CentOS Linux 7 (Core)", 7, 9, "centos7.0"),
        ),
        ({"/etc/os-release": ROCKY}, ("rocky", "Rocky Linux 9.2 (Blue Onyx)", 9, 2, "rocky9")),
        ({"/etc/os-release": SLES}, ("sles", "SUSE Linux Enterprise Server 15 SP5", 15, 5, "sles15sp5")),
        ({"/etc/os-release": LEAP}, ("opensuse", "openSUSE Leap 15.5", 15, 5, "opensuse15.5")),
        ({"/etc/os-release": ARCH}, ("archlinux", "Arch Linux", None, None, "archlinux")),
        ({"/etc/os-release": ORACLE}, ("oraclelinux", "Oracle Linux Server 8.6", 8, 6, "ol8.6")),
        (
            {"/etc/redhat-release": "CentOS release 6.10 (Final)\n"},
            ("centos", "CentOS release 6.10 (Final)", 6, 10, "centos6.10"),
        ),
        (
            {"/etc/redhat-release": "Red Hat Enterprise Linux Server release 5.11 (Tikanga)\n"},
            ("rhel", "Red Hat Enterprise Linux Server release 5.11 (Tikanga)", 5, 11, "rhel5.11"),
        ),
        (
            {"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 3\n"},
            ("sles", "SUSE Linux Enterprise Server 11 (x86_64)", 11, 3, "sles11sp3"),
        ),
        (
            {
                "/etc/lsb-release": (
                    'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=8.04\nDISTRIB_DESCRIPTION="Ubuntu 8.04.4 LTS"\n'
                ),
                "/etc/debian_version": "lenny/sid\n",
            },
            ("ubuntu", "Ubuntu 8.04.4 LTS", 8, 4, "ubuntu8.04"),
        ),
        ({"/etc/debian_version": "6.0.10\n"}, ("debian", "Debian GNU/Linux 6.0.10", 6, 0, "debian6")),
        ({"/etc/alpine-release": "3.4.6\n"}, ("alpinelinux", "Alpine Linux 3.4.6", 3, 4, "alpinelinux3.4")),
        ({"/etc/arch-release": ""}, ("archlinux", "Arch Linux", None, None, "archlinux")),
        ({"/etc/slackware-version": "Slackware 14.2\n"}, ("slackware", "Slackware 14.2", 14, 2, "slackware14.2")),
        ({"/etc/hosts": ""}, (None, None, None, None, None)),
    ],
)
def test_distribution(files: dict[str, str], expected: tuple[object, ...]) -> None:
    guest = Guest(root="/dev/sda1")
    detect_distribution(MemoryFileSystem(files), guest)
    assert (guest.distro, guest.product_name, guest.major_version, guest.minor_version, guest.osinfo) == expected


def test_variant() -> None:
    guest = Guest(root="/dev/sda1")
    detect_distribution(MemoryFileSystem({"/etc/os-release": FEDORA}), guest)
    assert guest.product_variant == "server"


def test_versions() -> None:
    assert split_version("12") == (12, None)
    assert split_version("7.9.2009") == (7, 9)
    assert split_version("bookworm/sid") == (None, None)
    assert split_version("9" * 5000) == (999999999, None)
    assert osinfo_id("debian", None, None) is None


@pytest.mark.parametrize(
    ("machine", "bits", "data", "name"),
    [
        (62, 2, 1, "x86_64"),
        (3, 1, 1, "i386"),
        (183, 2, 1, "aarch64"),
        (21, 2, 1, "ppc64le"),
        (21, 2, 2, "ppc64"),
        (22, 2, 2, "s390x"),
        (40, 1, 1, "arm"),
        (243, 2, 1, "riscv64"),
        (9999, 2, 1, None),
    ],
)
def test_architecture(machine: int, bits: int, data: int, name: str | None) -> None:
    header = b"\x7fELF" + bytes([bits, data]) + bytes(12) + struct.pack(">H" if data == 2 else "<H", machine)
    assert elf_architecture(header) == name
    assert elf_architecture(header[:19]) is None
    guest = Guest(root="/dev/sda1")
    detect_architecture(MemoryFileSystem({"/bin/sh": "#!/script", "/usr/bin/env": header}), guest)
    assert guest.arch == name


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/etc/hostname": "\nguest.example.org\n"}, "guest.example.org"),
        ({"/etc/HOSTNAME": "suse\n"}, "suse"),
        ({"/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=old.example.org\n"}, "old.example.org"),
        ({"/etc/conf.d/hostname": 'hostname="gentoo"\n'}, "gentoo"),
        ({"/etc/hostname": ""}, None),
        ({}, None),
    ],
)
def test_hostname(files: dict[str, str], name: str | None) -> None:
    guest = Guest(root="/dev/sda1")
    detect_hostname(MemoryFileSystem(files), guest)
    assert guest.hostname == name


@pytest.mark.parametrize(
    ("files", "zone"),
    [
        ({"/etc/localtime": Link("/usr/share/zoneinfo/Europe/Paris")}, "Europe/Paris"),
        ({"/etc/localtime": Link("../usr/share/zoneinfo/UTC"), "/etc/timezone": "Asia/Tokyo\n"}, "UTC"),
        ({"/etc/localtime": "TZif", "/etc/timezone": "Asia/Tokyo\n"}, "Asia/Tokyo"),
        ({"/etc/sysconfig/clock": 'ZONE="America/New_York"\n'}, "America/New_York"),
        ({}, None),
    ],
)
def test_timezone(files: dict[str, str], zone: str | None) -> None:
    guest = Guest(root="/dev/sda1")
    detect_timezone(MemoryFileSystem(files), guest)
    assert guest.timezone == zone


def test_locale_and_ssh_keys() -> None:
    guest = Guest(root="/dev/sda1")
    tree = MemoryFileSystem(
        {
            "/etc/default/locale": 'LANG="en_GB.UTF-8"\n',
            "/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA root@guest\n",
            "/etc/ssh/ssh_host_rsa_key.pub": "ssh-rsa AAAA root@guest\n",
            "/etc/ssh/ssh_host_rsa_key": "secret",
            "/etc/ssh/ssh_host_dsa_key.pub": "",
        }
    )
    detect_locale(tree, guest)
    detect_ssh_keys(tree, guest)
    assert guest.locale == "en_GB.UTF-8"
    assert guest.ssh_host_keys == ["ssh-ed25519", "ssh-rsa"]


def test_users() -> None:
    guest = Guest(root="/dev/sda1")
    passwd = (
        "root:x:0:0:root:/root:/bin/bash\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "sync:x:4:65534:sync:/bin:/bin/sync\n"
        "ada:x:1000:1000:Ada Lovelace,,,:/home/ada:/bin/zsh\n"
        "empty:x:1001:1001::/home/empty:\n"
        "broken:x:many:1:::/bin/sh\n"
        "short\n"
    )
    detect_users(MemoryFileSystem({"/etc/passwd": passwd}), guest)
    assert [(user.name, user.uid, user.comment, user.shell) for user in guest.users] == [
        ("root", 0, "root", "/bin/bash"),
        ("ada", 1000, "Ada Lovelace", "/bin/zsh"),
        ("empty", 1001, "", "/bin/sh"),
    ]


@pytest.mark.parametrize(
    ("files", "init", "services"),
    [
        (
            {
                "/sbin": Link("usr/sbin"),
                "/usr/sbin/init": Link("../lib/systemd/systemd"),
                "/usr/lib/systemd/systemd": "ELF",
                "/etc/systemd/system/multi-user.target.wants/ssh.service": Link("/lib/systemd/system/ssh.service"),
                "/etc/systemd/system/sockets.target.wants/dbus.socket": Link("/lib/systemd/system/dbus.socket"),
                "/etc/systemd/system/getty.target.requires/getty@tty1.service": Link("/lib/x"),
                "/etc/systemd/system/local.service": "[Unit]\n",
            },
            "systemd",
            ["dbus.socket", "getty@tty1.service", "ssh.service"],
        ),
        (
            {
                "/sbin/init": Link("/bin/busybox"),
                "/bin/busybox": "ELF",
                "/sbin/openrc": "ELF",
                "/etc/runlevels/default/sshd": Link("/etc/init.d/sshd"),
                "/etc/runlevels/boot/hostname": Link("/etc/init.d/hostname"),
            },
            "openrc",
            ["hostname", "sshd"],
        ),
        ({"/sbin/init": "ELF", "/etc/inittab": "id:5:initdefault:\n"}, "sysvinit", []),
        ({"/sbin/init": "ELF", "/etc/init/rc-sysinit.conf": ""}, "upstart", []),
        ({"/sbin/init": Link("/bin/busybox"), "/bin/busybox": "ELF"}, "busybox", []),
        ({}, None, []),
    ],
)
def test_services(files: dict[str, str], init: str | None, services: list[str]) -> None:
    guest = Guest(root="/dev/sda1")
    detect_services(MemoryFileSystem(files), guest)
    assert (guest.init_system, guest.services) == (init, services)


def test_kernels() -> None:
    guest = Guest(root="/dev/sda1")
    detect_kernels(
        MemoryFileSystem(
            {
                "/boot/vmlinuz-6.1.0-10-amd64": "kernel",
                "/boot/initrd.img-6.1.0-10-amd64": "initramfs",
                "/boot/vmlinuz-6.1.0-9-amd64": "kernel",
                "/boot/config-6.1.0-9-amd64": "",
                "/lib/modules/6.1.0-9-amd64/modules.dep": "",
                "/lib/modules/6.1.0-10-amd64/modules.dep": "",
                "/lib/modules/6.5.6-300.fc39.x86_64/vmlinuz": "kernel",
            }
        ),
        guest,
    )
    assert [(kernel.version, kernel.path, kernel.initramfs, kernel.modules) for kernel in guest.kernels] == [
        ("6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64", None, True),
        ("6.1.0-10-amd64", "/boot/vmlinuz-6.1.0-10-amd64", "/boot/initrd.img-6.1.0-10-amd64", True),
        ("6.5.6-300.fc39.x86_64", "/lib/modules/6.5.6-300.fc39.x86_64/vmlinuz", None, True),
    ]


def test_kernel_of_alpine() -> None:
    guest = Guest(root="/dev/sda1")
    detect_kernels(
        MemoryFileSystem(
            {
                "/boot/vmlinuz-virt": "kernel",
                "/boot/initramfs-virt": "initramfs",
                "/lib/modules/6.1.55-0-virt/modules.dep": "",
            }
        ),
        guest,
    )
    assert [(kernel.version, kernel.path, kernel.initramfs) for kernel in guest.kernels] == [
        ("6.1.55-0-virt", "/boot/vmlinuz-virt", "/boot/initramfs-virt")
    ]


def test_network() -> None:
    guest = Guest(root="/dev/sda1")
    files = {
        "/etc/network/interfaces": (
            "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n\n"
            "iface eth0 inet static\n  address 192.0.2.10/24\n  gateway 192.0.2.1\n"
            "iface eth0 inet6 auto\n"
        ),
        "/etc/netplan/50-cloud-init.yaml": (
            "network:\n  version: 2\n  ethernets:\n    ens3:\n      dhcp4: true\n"
            "    ens4:\n      addresses: [198.51.100.5/24, '2001:db8::5/64']\n"
            "      routes: [{to: default, via: 198.51.100.1}]\n"
        ),
        "/etc/NetworkManager/system-connections/wired.nmconnection": (
            "[connection]\nid=wired\ninterface-name=enp1s0\n[ipv4]\nmethod=manual\naddress1=203.0.113.7/24,203.0.113.1\n"
        ),
        "/etc/systemd/network/10-lan.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
        "/etc/sysconfig/network-scripts/ifcfg-eth1": "DEVICE=eth1\nBOOTPROTO=none\nIPADDR=192.0.2.20\nPREFIX=24\n",
        "/etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n",
    }
    detect_network(MemoryFileSystem(files), guest)
    assert [(item.name, item.method, item.addresses, item.gateway) for item in guest.network] == [
        ("eth0", "static", ["192.0.2.10/24"], "192.0.2.1"),
        ("eth0", "auto", [], None),
        ("ens3", "dhcp", [], None),
        ("ens4", "static", ["198.51.100.5/24", "2001:db8::5/64"], "198.51.100.1"),
        ("enp1s0", "static", ["203.0.113.7/24"], "203.0.113.1"),
        ("en*", "dhcp", [], None),
        ("eth1", "none", ["192.0.2.20/24"], None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "network: [not, a, mapping]",
        "network: {ethernets: {eth0: 7}}",
        "a: &a [1]\nnetwork: {ethernets: {eth0: {addresses: [*a, *a]}}}",
        "\t\x00",
        "network: {ethernets: {? [x] : {}}}",
    ],
)
def test_hostile_netplan(text: str) -> None:
    guest = Guest(root="/dev/sda1")
    detect_network(MemoryFileSystem({"/etc/netplan/x.yaml": text}), guest)
    assert all(not item.addresses for item in guest.network)
