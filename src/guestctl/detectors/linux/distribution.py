"""Which distribution: os-release(5), and the files that came before it."""

from __future__ import annotations

import re
from typing import NamedTuple

from guestctl.detectors.files import Tree, assignments, first_line, read_config
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest

# os-release's ID in libguestfs's words, where they differ.
_DISTROS = {
    "alpine": "alpinelinux",
    "alt": "altlinux",
    "altlinux": "altlinux",
    "arch": "archlinux",
    "kali": "kalilinux",
    "ol": "oraclelinux",
    "opensuse-leap": "opensuse",
    "opensuse-microos": "opensuse",
    "opensuse-tumbleweed": "opensuse",
    "pld": "pldlinux",
    "sled": "sles",
    "sles_sap": "sles",
    "void": "voidlinux",
    "scientific": "scientificlinux",
}

# Release files whose first line is "NAME release VERSION (CODENAME)", most particular first.
_RED_HAT_FILES = (
    "/etc/oracle-release",
    "/etc/centos-release",
    "/etc/rocky-release",
    "/etc/almalinux-release",
    "/etc/fedora-release",
    "/etc/altlinux-release",
    "/etc/mageia-release",
    "/etc/openmandriva-release",
    "/etc/mandriva-release",
    "/etc/meego-release",
    "/etc/openEuler-release",
    "/etc/neokylin-release",
    "/etc/kylin-release",
    "/etc/redhat-release",
    "/etc/system-release",
)
_RED_HAT_NAMES = (
    ("red hat enterprise", "rhel"),
    ("red hat linux", "redhat-based"),
    ("oracle linux", "oraclelinux"),
    ("enterprise linux", "oraclelinux"),
    ("scientific", "scientificlinux"),
    ("centos", "centos"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("fedora", "fedora"),
    ("alt ", "altlinux"),
    ("mageia", "mageia"),
    ("openmandriva", "openmandriva"),
    ("mandriva", "mandriva"),
    ("meego", "meego"),
    ("openeuler", "openeuler"),
    ("neokylin", "neokylin"),
    ("kylin", "kylin"),
)
_UPDATE = re.compile(r"release (\d{1,9}) \([^)]{1,40} Update (\d{1,9})\)")  # Red Hat's before 5
_DOTTED = re.compile(r"(?<!\d)\d{1,9}(?:\.\d{1,9})+")
_RED_HAT_FAMILY = {"rhel", "centos", "rocky", "almalinux", "oraclelinux", "scientificlinux"}


# Where NixOS keeps it until the first start makes /etc.
_OS_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release", "/nix/var/nix/profiles/system/etc/os-release")


class Release(NamedTuple):
    """What a release file says."""

    distro: str
    product_name: str
    version: str | None = None
    variant: str | None = None


def detect_distribution(tree: Tree, guest: Guest) -> None:
    """Distribution, product name and variant, version and osinfo's id."""
    release = next((found for read in _READERS if (found := read(tree))), None)
    if release is None:
        return
    guest.distro = release.distro
    guest.product_name = release.product_name
    guest.product_variant = release.variant
    guest.major_version, guest.minor_version = split_version(_full_version(tree, release))
    guest.osinfo = osinfo_id(guest.distro, guest.major_version, guest.minor_version)


def split_version(version: str | None) -> tuple[int | None, int | None]:
    """The first two numbers of a version that begins with a number."""
    match = re.match(r"\s*[vVp]?(\d{1,9})(?:\.(\d{1,9}))?", version or "")
    if not match:
        return None, None
    return int(match[1]), int(match[2]) if match[2] is not None else None


def _full_version(tree: Tree, release: Release) -> str | None:
    """os-release often has the major version alone where an older file knows more."""
    if release.version is not None and "." in release.version:
        return release.version
    more: str | None = None
    if release.distro == "debian":
        more = first_line(tree, "/etc/debian_version")
    elif release.distro in _RED_HAT_FAMILY:
        older = _red_hat(tree)
        more = older.version if older else None
    major, _ = split_version(release.version)
    if more and (release.version is None or split_version(more)[0] == major):
        return more
    return release.version


def _os_release(tree: Tree) -> Release | None:
    for path in _OS_RELEASE_FILES:
        text = read_config(tree, path)
        if text is None:
            continue
        values = dict(assignments(text))
        if not values.get("ID"):
            continue
        distro = values["ID"].lower()
        name = values.get("PRETTY_NAME") or values.get("NAME") or values["ID"]
        return Release(_DISTROS.get(distro, distro), name, values.get("VERSION_ID"), values.get("VARIANT_ID") or None)
    return None


def _lsb_release(tree: Tree) -> Release | None:
    text = read_config(tree, "/etc/lsb-release")
    values = dict(assignments(text or ""))
    name = values.get("DISTRIB_ID")
    if "CHROMEOS_RELEASE_NAME" in values:
        version = values.get("CHROMEOS_RELEASE_VERSION")
        return Release("chromeos", f"{values['CHROMEOS_RELEASE_NAME']} {version or ''}".rstrip(), version)
    if not name:
        return None
    distro = {"linuxmint": "linuxmint", "mandrivalinux": "mandriva"}.get(name.lower(), name.lower())
    description = values.get("DISTRIB_DESCRIPTION") or name
    return Release(_DISTROS.get(distro, distro), description, values.get("DISTRIB_RELEASE"))


def _red_hat(tree: Tree) -> Release | None:
    for path in _RED_HAT_FILES:
        line = first_line(tree, path)
        if line is None:
            continue
        lowered = line.lower()
        distro = next((word for start, word in _RED_HAT_NAMES if start in lowered), "redhat-based")
        match = _UPDATE.search(line)
        if match:
            return Release(distro, line, f"{match[1]}.{match[2]}")
        match = re.search(r"release\s+(\d[\d.]*)|\b(\d+(?:\.\d+)*)\b", line)
        return Release(distro, line, (match[1] or match[2]) if match else None)
    return None


def _suse(tree: Tree) -> Release | None:
    text = read_config(tree, "/etc/SuSE-release")
    if not text:
        return None
    lines = text.splitlines()
    values = {key.strip(): value for key, value in assignments(text)}
    version = values.get("VERSION")
    if version and "." not in version and values.get("PATCHLEVEL"):
        version = f"{version}.{values['PATCHLEVEL']}"
    lowered = lines[0].lower()
    distro = "opensuse" if "opensuse" in lowered else "sles" if "enterprise" in lowered else "suse-based"
    return Release(distro, lines[0].strip(), version)


# (file, distribution, what comes before the version in the product's name)
_PLAIN_FILES = (
    ("/etc/alpine-release", "alpinelinux", "Alpine Linux "),
    ("/etc/debian_version", "debian", "Debian GNU/Linux "),
    ("/etc/slackware-version", "slackware", ""),
    ("/etc/gentoo-release", "gentoo", ""),
    ("/etc/pardus-release", "pardus", ""),
    ("/etc/pld-release", "pldlinux", ""),
    ("/etc/frugalware-release", "frugalware", ""),
    ("/etc/ttylinux-target", "ttylinux", ""),
    ("/etc/cirros/version", "cirros", "CirrOS "),  # which is also a Buildroot
    ("/etc/br-version", "buildroot", "Buildroot "),
)


def _plain_files(tree: Tree) -> Release | None:
    for path, distro, prefix in _PLAIN_FILES:
        line = first_line(tree, path)
        if line is not None:
            match = _DOTTED.search(line) or re.search(r"\d+", line)
            return Release(distro, prefix + line, match[0] if match else None)
    if tree.exists("/etc/arch-release"):
        return Release("archlinux", "Arch Linux")
    return None


def _android(tree: Tree) -> Release | None:
    for path in ("/system/build.prop", "/build.prop"):
        values = dict(assignments(read_config(tree, path) or ""))
        version = values.get("ro.build.version.release")
        if version:
            return Release("android", f"Android {version}", version)
    return None


_READERS = (_os_release, _lsb_release, _red_hat, _suse, _plain_files, _android)
