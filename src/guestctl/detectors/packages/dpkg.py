"""dpkg's database, as deb-control(5) and dpkg-query(1) describe it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.files import Tree, list_directory, read_config
from guestctl.detectors.report import Application

# A desktop with 5,000 packages has 8 MiB.
_MAX_STATUS_BYTES = 128 << 20
_FIELD = re.compile(r"^(Status|Version|Architecture|Description|Homepage|Maintainer|Source): *(.*)$", re.MULTILINE)


def applications(tree: Tree) -> Iterator[Application]:
    """Installed packages. Images without dpkg itself have one file a package in status.d."""
    status = read_config(tree, "/var/lib/dpkg/status", limit=_MAX_STATUS_BYTES)
    if status is not None:
        yield from parse_status(status)
    for name in list_directory(tree, "/var/lib/dpkg/status.d"):
        if not name.endswith(".md5sums"):
            text = read_config(tree, f"/var/lib/dpkg/status.d/{name}")
            yield from parse_status(text or "", default_state="installed")


def parse_status(text: str, *, default_state: str = "") -> Iterator[Application]:
    """The installed packages of a status file; `default_state` is that of a paragraph without one."""
    for paragraph in re.split(r"^Package: *", text, flags=re.MULTILINE)[1:]:
        name, _, rest = paragraph.partition("\n")
        fields = dict(_FIELD.findall(rest))
        # "want flag state": removed packages whose configuration is left are "config-files".
        if fields.get("Status", default_state).rpartition(" ")[2] != "installed" or not fields.get("Version"):
            continue
        epoch, version, release = split_version(fields["Version"])
        yield Application(
            name=name.strip(),
            epoch=epoch,
            version=version,
            release=release,
            arch=fields.get("Architecture", ""),
            summary=fields.get("Description", ""),
            url=fields.get("Homepage", ""),
            publisher=fields.get("Maintainer", ""),
            source=fields.get("Source", "").partition(" ")[0],
        )


def split_version(version: str) -> tuple[int, str, str]:
    """``[epoch:]upstream[-revision]``, deb-version(7)."""
    epoch, colon, rest = version.partition(":")
    if not (colon and epoch.isdecimal() and len(epoch) < 10):
        epoch, rest = "0", version
    upstream, hyphen, revision = rest.rpartition("-")
    return int(epoch), upstream if hyphen else revision, revision if hyphen else ""
