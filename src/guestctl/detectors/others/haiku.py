"""Haiku, by the names of the packages that it starts from: ``haiku-r1~beta4_hrev56578_59-1-x86_64.hpkg``."""

from __future__ import annotations

import re

from guestctl.detectors.files import Tree, first_line, list_directory
from guestctl.detectors.report import Guest

_PACKAGES = "/system/packages"
_NAME = re.compile(r"haiku-r(\d+)(?:~(alpha|beta)(\d+(?:\.\d+)?))?[a-z_]*(?:_(hrev\d+)(?:_(\d+))?)?-\d+-(\w+)\.hpkg")
_ARCHITECTURES = {"x86_64": "x86_64", "x86_gcc2": "i386", "x86": "i386", "arm64": "aarch64", "riscv64": "riscv64"}
_HOSTNAME = "/system/settings/network/hostname"
# What osinfo-db has
_OSINFO = ("r1alpha1", "r1alpha2", "r1alpha3", "r1alpha4.1", "r1beta1", "r1beta2", "r1beta3")


def detect_haiku(tree: Tree, guest: Guest) -> None:
    """Product, revision and architecture, of the newest where an update has left an older one; and host name."""
    guest.distro, guest.product_name = "haiku", "Haiku"
    guest.hostname = first_line(tree, _HOSTNAME)
    found = [match for name in list_directory(tree, _PACKAGES) if (match := _NAME.fullmatch(name))]
    if not found:
        return
    major, stage, number, revision, commits, arch = max(found, key=_order).groups()
    version = f"R{major}" + (f"/{stage}{number}" if stage else "")
    built = revision and f" ({revision}+{commits})" if commits else f" ({revision})" if revision else ""
    guest.product_name = f"Haiku {version}{built}"
    guest.major_version = int(major)
    guest.arch = _ARCHITECTURES.get(arch)
    short = f"r{major}{stage or ''}{number or ''}"
    guest.osinfo = f"haiku{short}" if short in _OSINFO else None


def _order(match: re.Match[str]) -> tuple[int, int]:
    return int((match[4] or "hrev0")[4:]), int(match[5] or 0)
