"""Package URLs, by the specification and its list of types (github.com/package-url/purl-spec)."""

from __future__ import annotations

from typing import NamedTuple, Self

from packageurl import PackageURL

from guestctl.detectors.files import Tree, assignments, read_config
from guestctl.detectors.report import Guest
from guestctl.detectors.report.packages import Package

# package manager -> type; what is missing here is a type itself (pypi, npm, maven …) or in _GENERIC
_TYPES = {"dpkg": "deb", "rpm": "rpm", "apk": "apk", "pacman": "alpm", "portage": "ebuild", "opkg": "opkg"}
_OF_DISTRIBUTION = ("deb", "rpm", "apk", "alpm")
_LANGUAGES = ("cargo", "composer", "gem", "golang", "maven", "npm", "nuget", "pypi")
# os-release's ID -> the namespace, where it is not the same
_NAMESPACES = {
    "opensuse-leap": "opensuse",
    "opensuse-tumbleweed": "opensuse",
    "rhel": "redhat",
    "sled": "suse",
    "sles": "suse",
    "sles_sap": "suse",
}
# libguestfs's word -> os-release's, where there is no os-release
_IDS = {"alpinelinux": "alpine", "archlinux": "arch", "oraclelinux": "ol", "voidlinux": "void"}


class Distribution(NamedTuple):
    """What tells a distribution's packages from those of others: ID and VERSION_ID of os-release(5)."""

    id: str
    version: str

    @classmethod
    def of(cls, tree: Tree, guest: Guest) -> Self:
        for path in ("/etc/os-release", "/usr/lib/os-release"):
            values = dict(assignments(read_config(tree, path) or ""))
            if values.get("ID"):
                return cls(values["ID"].lower(), values.get("VERSION_ID", ""))
        version = [str(part) for part in (guest.major_version, guest.minor_version) if part is not None]
        distro = guest.distro or guest.type
        return cls(_IDS.get(distro, distro), ".".join(version))


def package_url(package: Package, distribution: Distribution) -> str:
    """The package URL of `package` in a guest of `distribution`."""
    kind = _TYPES.get(package.manager, package.manager if package.manager in _LANGUAGES else "generic")
    namespace, version, qualifiers = package.namespace, package.full_version, {"arch": package.arch}
    if kind in _OF_DISTRIBUTION:
        namespace = _NAMESPACES.get(distribution.id, distribution.id)
        qualifiers["distro"] = "-".join(part for part in distribution if part)
    if kind == "rpm" and package.epoch:
        qualifiers["epoch"] = str(package.epoch)
        version = version.partition(":")[2]
    return PackageURL(kind, namespace or None, package.name, version or None, qualifiers).to_string()
