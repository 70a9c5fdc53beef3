"""Installation media and live systems, by the files that those who make them put beside what is installed.

Read: Debian's and Ubuntu's ``.disk/info``, ``.treeinfo`` and ``.discinfo`` of Fedora and Red Hat, ``media.1`` and
``content`` of SUSE, Arch's and Alpine's versions, Windows's images and ``txtsetup.sif``, and the roots that BSDs
have on theirs. What only the volume's identifiers tell is read there (ECMA-119, 8.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct

from guestctl.detectors.files import Tree, list_directory, read_config, sections
from guestctl.detectors.linux.distribution import split_version
from guestctl.detectors.osinfo import osinfo_id
from guestctl.detectors.report import Guest
from guestctl.machine import Guest as MachineGuest
from guestctl.machine import Machine

# Volume Identifier of the Primary Volume Descriptor
_DESCRIPTOR_OFFSET = 16 * 2048
_VOLUME_IDENTIFIER = Struct("<40x32s")

# How .disk/info and .treeinfo call a distribution.
_NAMES = (
    ("red hat enterprise", "rhel"),
    ("rhel", "rhel"),
    ("centos", "centos"),
    ("rocky", "rocky"),
    ("almalinux", "almalinux"),
    ("oracle", "oraclelinux"),
    ("scientific", "scientificlinux"),
    ("fedora", "fedora"),
    ("linux mint", "linuxmint"),
    ("ubuntu", "ubuntu"),  # Kubuntu, Ubuntu-Server …
    ("kali", "kalilinux"),
    ("debian", "debian"),
    ("opensuse", "opensuse"),
    ("suse linux enterprise", "sles"),
    ("sles", "sles"),
    ("sled", "sles"),
)
_ARCHITECTURES = {
    "amd64": "x86_64",
    "x86_64": "x86_64",
    "i386": "i386",
    "i586": "i386",
    "i686": "i386",
    "arm64": "aarch64",
    "aarch64": "aarch64",
    "armhf": "arm",
    "ppc64el": "ppc64le",
    "ppc64le": "ppc64le",
    "ppc64": "ppc64",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
_WORD = re.compile(r"[a-z0-9_]+", re.IGNORECASE)
_REPOSITORIES = ("/repodata", "/Packages", "/BaseOS", "/Server", "/Fedora", "/CentOS", "/RedHat")
_FEDORA_LABEL = re.compile(r"^Fedora\b.*?-(\d{1,3})\b")


def detect_medium(machine: Machine, guest: MachineGuest, found: Guest) -> None:
    """Distribution, version, architecture and the kind of the medium."""
    tree = guest.tree
    if found.type == "windows":
        from guestctl.detectors.others.windows_media import detect_windows_medium

        detect_windows_medium(tree, found)
        return
    if found.type == "macos":
        from guestctl.detectors.others.macos import detect_macos

        detect_macos(tree, found)
        return
    if found.type != "linux":
        _bsd(tree, found)
        return
    for path, detect in _DETECTORS.items():
        text = read_config(tree, path)
        if text:
            detect(tree, found, text)
            if found.distro is not None:
                break
    else:
        _by_label(machine, guest.root, tree, found)
    if found.distro is not None:
        found.osinfo = osinfo_id(found.distro, found.major_version, found.minor_version)


def _disk_info(tree: Tree, found: Guest, text: str) -> None:
    """``Debian GNU/Linux 12.5.0 "Bookworm" - Official amd64 NETINST with firmware 20240210-11:27``."""
    line = text.strip().partition("\n")[0]
    match = re.match(r"(?:Official )?(\D+?)(?: Live)? ?(\d+(?:\.\d+)*(?: LTS)?)", line)
    if match is None:
        return
    name = match[1].strip()
    _name(found, name, match[2], f"{name} {match[2]}")
    words = {word.lower() for word in _WORD.findall(line)}
    found.arch = next((known for word, known in _ARCHITECTURES.items() if word in words), None)
    found.live = "live" in words or tree.is_dir("/casper") or tree.is_dir("/live")
    found.netinst = "netinst" in words or "businesscard" in words
    found.multipart = re.search(r"Binary-\d", line) is not None


def _treeinfo(tree: Tree, found: Guest, text: str) -> None:
    """[general] of Anaconda's and productmd's .treeinfo."""
    values = {key.lower(): value for section, key, value in sections(text) if section == "general"}
    family, version = values.get("family", ""), values.get("version", "")
    _name(found, family, version, f"{family} {version}")
    found.product_variant = values.get("variant") or None
    found.arch = _ARCHITECTURES.get(values.get("arch", ""))
    found.live = tree.is_file("/LiveOS/squashfs.img") and not tree.is_file("/images/install.img")
    found.netinst = not any(tree.is_dir(path) for path in _REPOSITORIES)
    found.multipart = values.get("totaldiscs", "1") != "1"


def _discinfo(tree: Tree, found: Guest, text: str) -> None:
    """Anaconda's .discinfo: time, name and version, architecture, the numbers of the discs that are here."""
    _, name, arch, discs = (*(line.strip() for line in text.splitlines()), "", "", "", "")[:4]
    match = re.match(r"(\D+?) ?(\d+(?:\.\d+)*)", name)
    if match is None:
        return
    _name(found, match[1], match[2], name)
    found.arch = _ARCHITECTURES.get(arch)
    found.multipart = discs.isdecimal() and int(discs[:9]) > 1


def _products(tree: Tree, found: Guest, text: str) -> None:
    """``/ openSUSE-Leap 15.5-1``, ``/ SLES15-SP5 15.5-0``."""
    match = re.match(r"/ (\S+) (\d[\d.]*)", text)
    if match:
        _name(found, match[1], match[2], f"{match[1].replace('-', ' ')} {match[2]}")
        _suse_medium(tree, found)


def _content(tree: Tree, found: Guest, text: str) -> None:
    """SUSE's: ``DISTRO cpe:/o:suse:sles:12:sp3,SUSE Linux Enterprise Server 12 SP3``; before it ``LABEL``."""
    values = dict(line.partition(" ")[::2] for line in text.splitlines())
    match = re.match(r"\s*cpe:/o:[^:]+:[^:]+:(\d[\d.]*)(?::sp(\d+))?[^,]*,(.+)", values.get("DISTRO", ""))
    if match:
        _name(found, match[3], f"{match[1]}.{match[2]}" if match[2] else match[1], match[3].strip())
    else:
        name = values.get("LABEL", "").strip() or f"{values.get('NAME', '')} {values.get('VERSION', '')}".strip()
        version = re.search(r"(\d+(?:\.\d+)?)(?: SP(\d+))?", name)
        if version:
            _name(found, name, f"{version[1]}.{version[2]}" if version[2] else version[1], name)
    if found.distro:
        _suse_medium(tree, found)


def _suse_medium(tree: Tree, found: Guest) -> None:
    """media(5) of libzypp: the third line counts the media of the set."""
    lines = [line.strip() for line in (read_config(tree, "/media.1/media") or "").splitlines()]
    found.multipart = len(lines) > 2 and lines[2].isdecimal() and int(lines[2][:9]) > 1
    words = {word for line in lines for word in _WORD.findall(line)}
    directories = set(list_directory(tree, "/boot"))
    found.arch = next((known for word, known in _ARCHITECTURES.items() if word in words | directories), None)
    found.live = False
    found.netinst = bool({"NET", "NetInstall"} & words)


def _arch(tree: Tree, found: Guest, text: str) -> None:
    found.distro, found.product_name = "archlinux", f"Arch Linux {text.strip()}"
    found.arch = next((name for name in ("x86_64", "i686") if tree.is_dir(f"/arch/{name}")), None)
    found.arch = _ARCHITECTURES.get(found.arch or "")
    found.live, found.netinst, found.multipart = True, True, False


def _alpine(tree: Tree, found: Guest, text: str) -> None:
    """``alpine-standard-3.18.4 230928``."""
    match = re.match(r"alpine-(?:([a-z]+)-)?v?(\d+\.\d+(?:\.\d+)?)", text)
    if match:
        _name(found, "", match[2], f"Alpine Linux {match[2]}")
        found.distro = "alpinelinux"
        found.product_variant = match[1]
        found.arch = next((known for name in list_directory(tree, "/apks") if (known := _alpine_arch(name))), None)
        found.live, found.netinst, found.multipart = True, match[1] == "netboot", False


def _alpine_arch(name: str) -> str | None:
    return {"x86": "i386", "armv7": "arm"}.get(name) or _ARCHITECTURES.get(name)


def _by_label(machine: Machine, device: str, tree: Tree, found: Guest) -> None:
    """What is only told by the volume: Fedora's live systems."""
    label = bytes(machine.devices[device].read(_DESCRIPTOR_OFFSET, _VOLUME_IDENTIFIER.size))
    text = _VOLUME_IDENTIFIER.unpack(label)[0].decode("ascii", "replace").strip(" \0")
    match = _FEDORA_LABEL.match(text)
    if match:
        _name(found, "Fedora", match[1], f"Fedora {match[1]}")
    found.live = tree.is_file("/LiveOS/squashfs.img")


def _bsd(tree: Tree, found: Guest) -> None:
    """Their media hold a root; OpenBSD's only a directory for its sets, named by the release."""
    from guestctl.detectors.bsd import detect_release
    from guestctl.detectors.linux.architecture import detect_architecture

    detect_release(tree, found)
    detect_architecture(tree, found)
    for name in list_directory(tree, "/") if found.type == "openbsd" else ():
        if re.fullmatch(r"\d{1,2}\.\d", name):
            _name(found, "", name, f"OpenBSD {name}")
            found.distro = "openbsd"
            machines = set(list_directory(tree, f"/{name}"))
            found.arch = next((known for word, known in _ARCHITECTURES.items() if word in machines), None)
            found.osinfo = osinfo_id("openbsd", found.major_version, found.minor_version)


def _name(found: Guest, name: str, version: str, product: str) -> None:
    lowered = name.lower()
    found.distro = next((word for start, word in _NAMES if start in lowered), None)
    found.product_name = product.strip() or None
    found.major_version, found.minor_version = split_version(version)


_DETECTORS: dict[str, Callable[[Tree, Guest, str], None]] = {
    "/.disk/info": _disk_info,
    "/.treeinfo": _treeinfo,
    "/.discinfo": _discinfo,
    "/media.1/products": _products,
    "/content": _content,
    "/arch/version": _arch,
    "/.alpine-release": _alpine,
}
