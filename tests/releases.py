"""Release files that systems ship, one tree a system.

The texts have the form that the releases of the names ship; of details that nothing here looks at, not every word.
"""

from __future__ import annotations

_DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
    'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
)

LINUX: dict[str, dict[str, str]] = {
    "almalinux-9.3": {
        "/etc/os-release": 'NAME="AlmaLinux"\nVERSION="9.3 (Shamrock Pampas Cat)"\nID="almalinux"\n'
        'ID_LIKE="rhel centos fedora"\nVERSION_ID="9.3"\nPRETTY_NAME="AlmaLinux 9.3 (Shamrock Pampas Cat)"\n',
        "/etc/almalinux-release": "AlmaLinux release 9.3 (Shamrock Pampas Cat)\n",
        "/etc/redhat-release": "AlmaLinux release 9.3 (Shamrock Pampas Cat)\n",
        "/usr/bin/dnf": "",
    },
    "alpine-3.18": {
        "/etc/os-release": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.18.4\nPRETTY_NAME="Alpine Linux v3.18"\n',
        "/etc/alpine-release": "3.18.4\n",
    },
    "alpine-2.7": {"/etc/alpine-release": "2.7.9\n"},
    "alt-p10": {
        "/etc/os-release": 'NAME="starter kit"\nVERSION="p10 (Hypericum)"\nID=altlinux\nVERSION_ID=p10\n'
        'PRETTY_NAME="ALT Starterkit (Hypericum)"\n',
        "/etc/altlinux-release": "ALT Starterkit (Hypericum)\n",
    },
    "alt-workstation-9.1": {
        "/etc/os-release": 'NAME="ALT"\nVERSION="9.1"\nID=altlinux\nVERSION_ID=9.1\n'
        'PRETTY_NAME="ALT Workstation 9.1 (Autolycus)"\n',
        "/etc/altlinux-release": "ALT Workstation 9.1 (Autolycus)\n",
        "/etc/redhat-release": "ALT Workstation 9.1 (Autolycus)\n",
    },
    "alt-5.0": {"/etc/altlinux-release": "ALT Linux 5.0.0 Ark (Ark)\n"},
    "amazon-2": {
        "/etc/os-release": 'NAME="Amazon Linux"\nVERSION="2"\nID="amzn"\nID_LIKE="centos rhel fedora"\n'
        'VERSION_ID="2"\nPRETTY_NAME="Amazon Linux 2"\n',
        "/etc/system-release": "Amazon Linux release 2 (Karoo)\n",
    },
    "arch": {
        "/etc/os-release": 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n',
        "/etc/arch-release": "",
    },
    "arch-old": {"/etc/arch-release": ""},
    "asianux-7.2": {
        "/etc/os-release": 'NAME="Asianux Server"\nVERSION="7 (Lotus)"\nID="asianux"\nID_LIKE="fedora"\n'
        'VERSION_ID="7.2"\nPRETTY_NAME="Asianux Server 7 (Lotus)"\n',
        "/etc/redhat-release": "Asianux Server release 7.2 (Lotus)\n",
    },
    "buildroot-2021.02": {
        "/etc/os-release": "NAME=Buildroot\nVERSION=2021.02.1\nID=buildroot\nVERSION_ID=2021.02.1\n"
        'PRETTY_NAME="Buildroot 2021.02.1"\n',
    },
    "buildroot-2012.05": {"/etc/br-version": "2012.05\n"},
    "centos-8.5": {
        "/etc/os-release": 'NAME="CentOS Linux"\nVERSION="8"\nID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="8"\n'
        'PRETTY_NAME="CentOS Linux 8"\n',
        "/etc/centos-release": "CentOS Linux release 8.5.2111\n",
        "/etc/redhat-release": "CentOS Linux release 8.5.2111\n",
    },
    "centos-stream-9": {
        "/etc/os-release": 'NAME="CentOS Stream"\nVERSION="9"\nID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="9"\n'
        'PRETTY_NAME="CentOS Stream 9"\n',
        "/etc/centos-release": "CentOS Stream release 9\n",
        "/etc/redhat-release": "CentOS Stream release 9\n",
    },
    "centos-7.9": {
        "/etc/os-release": 'NAME="CentOS Linux"\nVERSION="7 (Core)"\nID="centos"\nID_LIKE="rhel fedora"\n'
        'VERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7 (Core)"\n',
        "/etc/centos-release": "CentOS Linux release 7.9.2009 (Core)\n",
        "/etc/redhat-release": "CentOS Linux release 7.9.2009 (Core)\n",
    },
    "centos-6.10": {
        "/etc/centos-release": "CentOS release 6.10 (Final)\n",
        "/etc/redhat-release": "CentOS release 6.10 (Final)\n",
    },
    "centos-4.9": {"/etc/redhat-release": "CentOS release 4.9 (Final)\n"},
    "cirros-0.5.2": {"/etc/br-version": "2019.02.1\n", "/etc/cirros/version": "0.5.2\n"},
    "cirros-0.6": {
        "/etc/os-release": 'PRETTY_NAME="CirrOS 0.6.2"\nNAME="CirrOS"\nVERSION_ID="0.6.2"\nID=cirros\n',
        "/etc/cirros/version": "0.6.2\n",
    },
    "coreos-1855": {
        "/etc/os-release": 'NAME="Container Linux by CoreOS"\nID=coreos\nVERSION=1855.4.0\nVERSION_ID=1855.4.0\n'
        'PRETTY_NAME="Container Linux by CoreOS 1855.4.0 (Rhyolite)"\n',
        "/etc/lsb-release": 'DISTRIB_ID="Container Linux by CoreOS"\nDISTRIB_RELEASE=1855.4.0\n',
    },
    "coreos-607": {
        "/etc/lsb-release": 'DISTRIB_ID=CoreOS\nDISTRIB_RELEASE=607.0.0\nDISTRIB_CODENAME="Red Dog"\n'
        'DISTRIB_DESCRIPTION="CoreOS 607.0.0"\n',
    },
    "debian-12": {"/etc/os-release": _DEBIAN, "/etc/debian_version": "12.5\n"},
    "debian-sid": {
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux trixie/sid"\nNAME="Debian GNU/Linux"\nID=debian\n',
        "/etc/debian_version": "trixie/sid\n",
    },
    "debian-6": {"/etc/debian_version": "6.0.10\n"},
    "debian-7": {
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 7 (wheezy)"\nNAME="Debian GNU/Linux"\nVERSION_ID="7"\n'
        'VERSION="7 (wheezy)"\nID=debian\n',
        "/etc/debian_version": "7.11\n",
    },
    "fedora-39": {
        "/etc/os-release": 'NAME="Fedora Linux"\nVERSION="39 (Server Edition)"\nID=fedora\nVERSION_ID=39\n'
        'PRETTY_NAME="Fedora Linux 39 (Server Edition)"\nVARIANT="Server Edition"\nVARIANT_ID=server\n',
        "/etc/fedora-release": "Fedora release 39 (Thirty Nine)\n",
        "/etc/redhat-release": "Fedora release 39 (Thirty Nine)\n",
    },
    "fedora-21": {
        "/etc/os-release": 'NAME=Fedora\nVERSION="21 (Twenty One)"\nID=fedora\nVERSION_ID=21\n'
        'PRETTY_NAME="Fedora 21 (Twenty One)"\n',
        "/etc/fedora-release": "Fedora release 21 (Twenty One)\n",
        "/etc/redhat-release": "Fedora release 21 (Twenty One)\n",
    },
    "fedora-14": {
        "/etc/fedora-release": "Fedora release 14 (Laughlin)\n",
        "/etc/redhat-release": "Fedora release 14 (Laughlin)\n",
    },
    "frugalware-1.9": {"/etc/frugalware-release": "Frugalware 1.9 (Arcturus)\n"},
    "gentoo": {
        "/etc/os-release": 'NAME=Gentoo\nID=gentoo\nPRETTY_NAME="Gentoo Linux"\n',
        "/etc/gentoo-release": "Gentoo Base System release 2.14\n",
    },
    "gentoo-old": {"/etc/gentoo-release": "Gentoo Base System release 2.2\n"},
    "kali-2022.4": {
        "/etc/os-release": 'PRETTY_NAME="Kali GNU/Linux Rolling"\nNAME="Kali GNU/Linux"\nID=kali\nVERSION="2022.4"\n'
        'VERSION_ID="2022.4"\nID_LIKE=debian\n',
        "/etc/debian_version": "kali-rolling\n",
    },
    "kylin-v10": {
        "/etc/os-release": 'NAME="Kylin Linux Advanced Server"\nVERSION="V10 (Sword)"\nID="kylin"\n'
        'VERSION_ID="V10"\nPRETTY_NAME="Kylin Linux Advanced Server V10 (Sword)"\n',
        "/etc/kylin-release": "Kylin Linux Advanced Server release V10 (Sword)\n",
    },
    "linuxmint-21": {
        "/etc/os-release": 'NAME="Linux Mint"\nVERSION="21 (Vanessa)"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
        'PRETTY_NAME="Linux Mint 21"\nVERSION_ID="21"\n',
        "/etc/lsb-release": "DISTRIB_ID=LinuxMint\nDISTRIB_RELEASE=21\nDISTRIB_CODENAME=vanessa\n"
        'DISTRIB_DESCRIPTION="Linux Mint 21 Vanessa"\n',
        "/etc/linuxmint/info": "RELEASE=21\n",
        "/etc/debian_version": "bookworm/sid\n",
    },
    "linuxmint-13": {
        "/etc/lsb-release": "DISTRIB_ID=LinuxMint\nDISTRIB_RELEASE=13\nDISTRIB_CODENAME=maya\n"
        'DISTRIB_DESCRIPTION="Linux Mint 13 Maya"\n',
        "/etc/debian_version": "wheezy/sid\n",
    },
    "mageia-8": {
        "/etc/os-release": 'NAME="Mageia"\nVERSION="8"\nID=mageia\nVERSION_ID=8\nID_LIKE="mandriva fedora"\n'
        'PRETTY_NAME="Mageia 8"\n',
        "/etc/lsb-release": 'LSB_VERSION=\nDISTRIB_ID="Mageia"\nDISTRIB_RELEASE=8\nDISTRIB_CODENAME=thornicroft\n'
        'DISTRIB_DESCRIPTION="Mageia 8"\n',
        "/etc/mageia-release": "Mageia release 8 (Official) for x86_64\n",
        "/etc/redhat-release": "Mageia release 8 (Official) for x86_64\n",
    },
    "mageia-1": {
        "/etc/mageia-release": "Mageia release 1 (Official) for i586\n",
        "/etc/redhat-release": "Mageia release 1 (Official) for i586\n",
    },
    "mandriva-2010.2": {
        "/etc/lsb-release": "LSB_VERSION=lsb-4.0-amd64:lsb-4.0-noarch:\nDISTRIB_ID=MandrivaLinux\n"
        "DISTRIB_RELEASE=2010.2\nDISTRIB_CODENAME=Farman\n"
        'DISTRIB_DESCRIPTION="Mandriva Linux 2010.2"\n',
        "/etc/mandriva-release": "Mandriva Linux release 2010.2 (Official) for x86_64\n",
        "/etc/redhat-release": "Mandriva Linux release 2010.2 (Official) for x86_64\n",
    },
    "meego-1.1": {"/etc/meego-release": "MeeGo release 1.1 (MeeGo)\n"},
    "neokylin-7": {
        "/etc/os-release": 'NAME="NeoKylin Linux Desktop"\nVERSION="V7Update6"\nID="neokylin"\nVERSION_ID="V7"\n'
        'PRETTY_NAME="NeoKylin Linux Desktop V7Update6"\n',
        "/etc/neokylin-release": "NeoKylin Linux Desktop release V7Update6\n",
    },
    "nixos-22.11": {
        "/etc/os-release": 'ID=nixos\nNAME=NixOS\nPRETTY_NAME="NixOS 22.11 (Raccoon)"\n'
        'VERSION="22.11 (Raccoon)"\nVERSION_CODENAME=raccoon\nVERSION_ID="22.11"\n',
    },
    "openeuler-22.03": {
        "/etc/os-release": 'NAME="openEuler"\nVERSION="22.03 LTS"\nID="openEuler"\nVERSION_ID="22.03"\n'
        'PRETTY_NAME="openEuler 22.03 LTS"\n',
        "/etc/openEuler-release": "openEuler release 22.03 LTS\n",
        "/usr/bin/dnf": "",
    },
    "openmandriva-4.2": {
        "/etc/os-release": 'NAME="OpenMandriva Lx"\nVERSION="4.2 (Argon) Release"\nID="openmandriva"\n'
        'VERSION_ID="4.2"\nPRETTY_NAME="OpenMandriva Lx 4.2 (Argon) Release"\n',
        "/etc/openmandriva-release": "OpenMandriva Lx release 4.2 (Argon) Release for x86_64\n",
        "/etc/redhat-release": "OpenMandriva Lx release 4.2 (Argon) Release for x86_64\n",
        "/usr/bin/dnf": "",
    },
    "opensuse-leap-15.5": {
        "/etc/os-release": 'NAME="openSUSE Leap"\nVERSION="15.5"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
        'VERSION_ID="15.5"\nPRETTY_NAME="openSUSE Leap 15.5"\n',
    },
    "opensuse-tumbleweed": {
        "/etc/os-release": 'NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
        'VERSION_ID="20231111"\nPRETTY_NAME="openSUSE Tumbleweed"\n',
    },
    "opensuse-13.2": {
        "/etc/os-release": 'NAME=openSUSE\nVERSION="13.2 (Harlequin)"\nVERSION_ID="13.2"\n'
        'PRETTY_NAME="openSUSE 13.2 (Harlequin) (x86_64)"\nID=opensuse\n',
        "/etc/SuSE-release": "openSUSE 13.2 (x86_64)\nVERSION = 13.2\nCODENAME = Harlequin\n",
    },
    "opensuse-11.4": {"/etc/SuSE-release": "openSUSE 11.4 (x86_64)\nVERSION = 11.4\nCODENAME = Celadon\n"},
    "suse-10.0": {"/etc/SuSE-release": "SUSE LINUX 10.0 (X86-64) OSS\nVERSION = 10.0\n"},
    "oracle-8.6": {
        "/etc/os-release": 'NAME="Oracle Linux Server"\nVERSION="8.6"\nID="ol"\nID_LIKE="fedora"\n'
        'VARIANT="Server"\nVARIANT_ID="server"\nVERSION_ID="8.6"\nPRETTY_NAME="Oracle Linux Server 8.6"\n',
        "/etc/oracle-release": "Oracle Linux Server release 8.6\n",
        "/etc/redhat-release": "Red Hat Enterprise Linux release 8.6 (Ootpa)\n",
    },
    "oracle-6.9": {
        "/etc/oracle-release": "Oracle Linux Server release 6.9\n",
        "/etc/redhat-release": "Red Hat Enterprise Linux Server release 6.9 (Santiago)\n",
    },
    "pardus-2011": {"/etc/pardus-release": "Pardus 2011.2\n"},
    "pardus-21": {
        "/etc/os-release": 'PRETTY_NAME="Pardus GNU/Linux Ondokuz"\nNAME="Pardus GNU/Linux"\nVERSION_ID="21.0"\n'
        'VERSION="21.0 (yirmibir)"\nID=pardus\nID_LIKE=debian\n',
        "/etc/pardus-release": "Pardus 21.0\n",
    },
    "pld-3.0": {"/etc/pld-release": "3.0 PLD Linux (Th)\n"},
    "pld-th": {
        "/etc/os-release": 'NAME="PLD Linux"\nVERSION="3.0 (Th)"\nID="pld"\nVERSION_ID="3.0"\n'
        'PRETTY_NAME="3.0 PLD Linux (Th)"\n',
        "/etc/pld-release": "3.0 PLD Linux (Th)\n",
    },
    "rhel-9.3": {
        "/etc/os-release": 'NAME="Red Hat Enterprise Linux"\nVERSION="9.3 (Plow)"\nID="rhel"\nID_LIKE="fedora"\n'
        'VERSION_ID="9.3"\nPRETTY_NAME="Red Hat Enterprise Linux 9.3 (Plow)"\n',
        "/etc/redhat-release": "Red Hat Enterprise Linux release 9.3 (Plow)\n",
        "/usr/bin/dnf": "",
    },
    "rhel-7.9": {
        "/etc/os-release": 'NAME="Red Hat Enterprise Linux Server"\nVERSION="7.9 (Maipo)"\nID="rhel"\n'
        'VARIANT="Server"\nVARIANT_ID="server"\nVERSION_ID="7.9"\n'
        'PRETTY_NAME="Red Hat Enterprise Linux Server 7.9 (Maipo)"\n',
        "/etc/redhat-release": "Red Hat Enterprise Linux Server release 7.9 (Maipo)\n",
    },
    "rhel-5.11": {"/etc/redhat-release": "Red Hat Enterprise Linux Server release 5.11 (Tikanga)\n"},
    "rhel-4": {"/etc/redhat-release": "Red Hat Enterprise Linux AS release 4 (Nahant Update 8)\n"},
    "red-hat-9": {"/etc/redhat-release": "Red Hat Linux release 9 (Shrike)\n"},
    "rocky-9.2": {
        "/etc/os-release": 'NAME="Rocky Linux"\nVERSION="9.2 (Blue Onyx)"\nID="rocky"\n'
        'ID_LIKE="rhel centos fedora"\nVERSION_ID="9.2"\nPRETTY_NAME="Rocky Linux 9.2 (Blue Onyx)"\n',
        "/etc/rocky-release": "Rocky Linux release 9.2 (Blue Onyx)\n",
        "/etc/redhat-release": "Rocky Linux release 9.2 (Blue Onyx)\n",
    },
    "scientific-7.9": {
        "/etc/os-release": 'NAME="Scientific Linux"\nVERSION="7.9 (Nitrogen)"\nID="scientific"\n'
        'ID_LIKE="rhel centos fedora"\nVERSION_ID="7.9"\nPRETTY_NAME="Scientific Linux 7.9 (Nitrogen)"\n',
        "/etc/redhat-release": "Scientific Linux release 7.9 (Nitrogen)\n",
    },
    "scientific-6.10": {"/etc/redhat-release": "Scientific Linux release 6.10 (Carbon)\n"},
    "slackware-15": {
        "/etc/os-release": 'NAME=Slackware\nVERSION="15.0"\nID=slackware\nVERSION_ID=15.0\n'
        'PRETTY_NAME="Slackware 15.0 x86_64"\n',
        "/etc/slackware-version": "Slackware 15.0\n",
    },
    "slackware-13.37": {"/etc/slackware-version": "Slackware 13.37.0\n"},
    "sles-15.5": {
        "/etc/os-release": 'NAME="SLES"\nVERSION="15-SP5"\nVERSION_ID="15.5"\n'
        'PRETTY_NAME="SUSE Linux Enterprise Server 15 SP5"\nID="sles"\nID_LIKE="suse"\n',
    },
    "sled-12.3": {
        "/etc/os-release": 'NAME="SLED"\nVERSION="12-SP3"\nVERSION_ID="12.3"\n'
        'PRETTY_NAME="SUSE Linux Enterprise Desktop 12 SP3"\nID="sled"\n',
        "/etc/SuSE-release": "SUSE Linux Enterprise Desktop 12 (x86_64)\nVERSION = 12\nPATCHLEVEL = 3\n",
    },
    "sles-11.3": {
        "/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 3\n",
    },
    "sles-15": {
        "/etc/os-release": 'NAME="SLES"\nVERSION="15"\nVERSION_ID="15"\n'
        'PRETTY_NAME="SUSE Linux Enterprise Server 15"\nID="sles"\nID_LIKE="suse"\n',
    },
    "ttylinux-12": {"/etc/ttylinux-target": "ttylinux pc_i486 12.5\n"},
    "ubuntu-22.04": {
        "/etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\n'
        'VERSION="22.04.3 LTS (Jammy Jellyfish)"\nID=ubuntu\nID_LIKE=debian\n',
        "/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=22.04\nDISTRIB_CODENAME=jammy\n"
        'DISTRIB_DESCRIPTION="Ubuntu 22.04.3 LTS"\n',
        "/etc/debian_version": "bookworm/sid\n",
    },
    "ubuntu-8.04": {
        "/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=8.04\nDISTRIB_CODENAME=hardy\n"
        'DISTRIB_DESCRIPTION="Ubuntu 8.04.4 LTS"\n',
        "/etc/debian_version": "lenny/sid\n",
    },
    "void": {
        "/etc/os-release": 'NAME="Void"\nID="void"\nPRETTY_NAME="Void Linux"\n',
    },
    "flatcar-3510": {
        "/etc/os-release": 'NAME="Flatcar Container Linux by Kinvolk"\nID=flatcar\nID_LIKE=coreos\nVERSION=3510.2.0\n'
        'VERSION_ID=3510.2.0\nPRETTY_NAME="Flatcar Container Linux by Kinvolk 3510.2.0 (Oklo)"\n',
    },
    "fedora-coreos-38": {
        "/etc/os-release": 'NAME="Fedora Linux"\nVERSION="38.20230709.3.0 (CoreOS)"\nID=fedora\nVERSION_ID=38\n'
        'PRETTY_NAME="Fedora CoreOS 38.20230709.3.0"\nVARIANT="CoreOS"\nVARIANT_ID=coreos\n',
        "/etc/fedora-release": "Fedora release 38 (Thirty Eight)\n",
    },
}

_FREEBSD_FSTAB = "# Device\tMountpoint\tFStype\tOptions\tDump\tPass#\n/dev/ada0p2\t/\tufs\trw\t1\t1\n"

OTHERS: dict[str, dict[str, str]] = {
    "freebsd-13.2": {
        "/bin/freebsd-version": '#!/bin/sh\nset -e\nUSERLAND_VERSION="13.2-RELEASE-p3"\n: ${LOADER_DIR:=/boot}\n',
        "/COPYRIGHT": "",
        "/etc/fstab": _FREEBSD_FSTAB,
        "/etc/freebsd-update.conf": "# $FreeBSD$\n",
        "/etc/motd": "FreeBSD 13.2-RELEASE-p3 GENERIC\n\nWelcome to FreeBSD!\n",
        "/etc/rc.conf": 'hostname="beastie.example.org"\nifconfig_vtnet0="DHCP"\nsshd_enable="YES"\n',
        "/boot/kernel/kernel": "",
        "/libexec/ld-elf.so.1": "",
    },
    "freebsd-9.1": {
        "/etc/fstab": "/dev/ad0s1a / ufs rw 1 1\n",
        "/etc/freebsd-update.conf": "# $FreeBSD$\n",
        "/etc/motd": "FreeBSD 9.1-RELEASE (GENERIC) #0 r243825: Tue Dec  4 09:23:10 UTC 2012\n\nWelcome to FreeBSD!\n",
        "/etc/rc.conf": 'hostname="old.example.org"\n',
    },
    "netbsd-9.3": {
        "/etc/fstab": "# NetBSD /etc/fstab\n/dev/wd0a\t/\tffs\trw\t\t 1 1\n",
        "/etc/release": "NetBSD 9.3/amd64\nBuild settings:\n",
        "/etc/motd": "NetBSD 9.3 (GENERIC) #0: Thu Aug  4 15:30:37 UTC 2022\n\nWelcome to NetBSD!\n",
        "/etc/rc.conf": "rc_configured=YES\nhostname=orange.example.org\n",
        "/netbsd": "",
    },
    "netbsd-5.1": {
        "/etc/fstab": "/dev/wd0a / ffs rw 1 1\n",
        "/etc/release": "NetBSD 5.1/i386\n",
        "/etc/rc.conf": "rc_configured=YES\nhostname=orange.example.org\n",
        "/netbsd": "",
    },
    "openbsd-7.2": {
        "/bsd": "",
        "/etc/fstab": "1c2d3e4f5a6b7c8d.a / ffs rw 1 1\n",
        "/etc/motd": "OpenBSD 7.2 (GENERIC.MP) #758: Tue Sep 27 11:57:54 MDT 2022\n\nWelcome to OpenBSD!\n",
        "/etc/myname": "puffy.example.org\n",
    },
    "openbsd-5.4": {
        "/bsd": "",
        "/etc/fstab": "/dev/wd0a / ffs rw 1 1\n",
        "/etc/motd": "OpenBSD 5.4 (GENERIC) #37: Tue Jul 30 15:24:05 MDT 2013\n\nWelcome to OpenBSD!\n",
        "/etc/myname": "puffy.example.org\n",
    },
    "hurd-debian": {
        "/hurd/console": "",
        "/hurd/hello": "",
        "/hurd/null": "",
        "/etc/fstab": "",
        "/etc/debian_version": "8.0\n",
        "/etc/hostname": "gnu\n",
    },
    "minix-3.3": {
        "/service/vm": "",
        "/etc/fstab": "/dev/c0d0p0s0 / mfs rw 0 1\n",
        "/etc/version": "3.3.0\n",
        "/etc/hostname.file": "minix\n",
    },
}

DOS: dict[str, dict[str, str]] = {
    "freedos-1.2": {
        "/KERNEL.SYS": "",
        "/COMMAND.COM": "",
        "/FDOS/FREEDOS.SS": "",
        "/FDOS/CPI/EGA.CPX": "",
        "/FDCONFIG.SYS": "SET DOSDIR=C:\\FDOS\n",
        "/AUTOEXEC.BAT": "@ECHO OFF\n",
    },
    "freedos-1.3": {"/KERNEL.SYS": "", "/COMMAND.COM": "", "/FREEDOS/BIN/FDAPM.COM": "", "/FDCONFIG.SYS": ""},
    "msdos-6.22": {
        "/IO.SYS": "",
        "/MSDOS.SYS": "",
        "/COMMAND.COM": "",
        "/CONFIG.SYS": "",
        "/AUTOEXEC.BAT": "",
        "/DOS/FDISK.EXE": "",
    },
    "windows-98": {"/IO.SYS": "", "/MSDOS.SYS": "", "/COMMAND.COM": "", "/WINDOWS/COMMAND/FDISK.EXE": ""},
}
