"""The short identifiers of osinfo-db (https://libosinfo.org), made from distribution and version."""

from __future__ import annotations

# {0} is the major version, {1} the minor one, 0 where there is none.
_IDS = {
    "almalinux": "almalinux{0}",
    "alpinelinux": "alpinelinux{0}.{1}",
    "altlinux": "alt{0}.{1}",
    "asianux": "asianux{0}.{1}",
    "centos": "centos{0}.{1}",
    "debian": "debian{0}",
    "fedora": "fedora{0}",
    "freebsd": "freebsd{0}.{1}",
    "freedos": "freedos{0}.{1}",
    "mageia": "mageia{0}",
    "mandriva": "mandriva{0}.{1}",
    "msdos": "msdos{0}.{1:02d}",
    "netbsd": "netbsd{0}.{1}",
    "nixos": "nixos-{0}.{1:02d}",
    "openbsd": "openbsd{0}.{1}",
    "opensuse": "opensuse{0}.{1}",
    "oraclelinux": "ol{0}.{1}",
    "pop": "popos{0}.{1:02d}",
    "pureos": "pureos{0}",
    "rhel": "rhel{0}.{1}",
    "rocky": "rocky{0}",
    "scientificlinux": "scientificlinux{0}.{1}",
    "slackware": "slackware{0}.{1}",
    "solaris": "solaris{0}",
    "trisquel": "trisquel{0}",
    "ubuntu": "ubuntu{0}.{1:02d}",
}
_ROLLING = {
    "archlinux": "archlinux",
    "clear-linux-os": "clearlinux",
    "gentoo": "gentoo",
    "manjaro": "manjaro",
    "voidlinux": "voidlinux",
}
# The first release of these had no minor number, others had one.
_MAJOR_ONLY = {("rhel", 3), ("debian", 3), ("mandriva", 2007), ("mandriva", 2011)}
_LAST_MACOS = 7  # 10.7; osinfo-db has no later one
_FIRST_DAY = 20000000  # openSUSE Tumbleweed has the day as its version


def osinfo_id(distro: str, major: int | None, minor: int | None) -> str | None:
    """The short id that osinfo-db gives a release; None where it has none or the version is unknown."""
    if distro in _ROLLING:
        return _ROLLING[distro]
    if major is None:
        return None
    if distro == "macos":
        return f"macosx{major}.{minor or 0}" if major == 10 and (minor or 0) <= _LAST_MACOS else None
    if distro == "sles":
        return f"sles{major}" + (f"sp{minor}" if minor else "")
    if distro == "centos" and major >= 8:
        return f"centos-stream{major}" if minor is None else f"centos{major}"
    if distro == "centos" and major == 7:
        return "centos7.0"  # the only one of its releases that has an id
    if distro == "opensuse" and major >= _FIRST_DAY:
        return "opensusetumbleweed"
    if distro == "altlinux" and major < 8:
        return f"altlinux{major}.{minor or 0}"
    if distro == "debian" and major < 3:
        return f"debian{major}.{minor or 0}"
    if (distro, major) in _MAJOR_ONLY:
        return f"{distro}{major}" + (f".{minor}" if minor else "")
    pattern = _IDS.get(distro)
    return pattern.format(major, minor or 0) if pattern else None
