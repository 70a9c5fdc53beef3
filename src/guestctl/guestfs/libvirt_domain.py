"""The disks of a libvirt domain, from its XML (libvirt's "Domain XML format", Hard drives)."""

from __future__ import annotations

from typing import NamedTuple
from xml.etree import ElementTree

from guestctl.core.errors import DetectionError


class DomainDisk(NamedTuple):
    """A disk that is a file or a block device of this host."""

    path: str
    format: str | None
    read_only: bool


def domain_disks(xml: str) -> list[DomainDisk]:
    """The disks in a domain's XML, in order; those that no file or device of this host backs are left out."""
    disks = []
    try:
        domain = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise DetectionError(f"the domain's XML: {error}") from error
    for disk in domain.iterfind("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        path = source.get("file") or source.get("dev") if source is not None else None
        if path and disk.get("device", "disk") in ("disk", "lun"):
            format = driver.get("type") if driver is not None else None
            disks.append(DomainDisk(path, format, disk.find("readonly") is not None))
    return disks
