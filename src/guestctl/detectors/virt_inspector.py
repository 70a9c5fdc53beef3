"""What libguestfs takes otherwise than guestctl's own report does: for those who promise libguestfs's answers."""

from __future__ import annotations

import msgspec

from guestctl.detectors.report import Application, Guest


def product_name(guest: Guest) -> str | None:
    """Of Debian what /etc/debian_version says."""
    if guest.distro == "debian" and guest.major_version is not None and guest.minor_version is not None:
        return f"{guest.major_version}.{guest.minor_version}"
    return guest.product_name


def application(found: Application, package_format: str | None) -> Application:
    """The version of a Debian package ends at the first hyphen, and only programs of Windows have a publisher."""
    version, release = found.version, found.release
    if package_format == "deb" and release:
        version, _, release = f"{version}-{release}".partition("-")
    publisher = found.publisher if found.display_name else ""
    return msgspec.structs.replace(found, version=version, release=release, publisher=publisher)
