"""The report as virt-inspector's XML (virt-inspector(1), virt-inspector.rng)."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from guestctl.detectors.report import Application, Filesystem, Guest, Report

# XML 1.0 has no place for control characters and surrogates.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_xml(report: Report) -> str:
    """The guests as ``<operatingsystems>``; what is not known is left out, as virt-inspector does."""
    root = ElementTree.Element("operatingsystems")
    filesystems = {filesystem.device: filesystem for filesystem in report.filesystems}
    for guest in report.guests:
        _guest(root, guest, filesystems)
    ElementTree.indent(root)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _guest(parent: ElementTree.Element, guest: Guest, filesystems: dict[str, Filesystem]) -> None:
    element = ElementTree.SubElement(parent, "operatingsystem")
    for tag, value in (
        ("root", guest.root),
        ("name", guest.type),
        ("arch", guest.arch),
        ("distro", guest.distro),
        ("product_name", guest.product_name),
        ("product_variant", guest.product_variant),
        ("major_version", guest.major_version),
        ("minor_version", guest.minor_version),
        ("windows_systemroot", guest.windows_systemroot),
        ("windows_current_control_set", guest.windows_current_control_set),
        ("package_format", guest.package_format),
        ("package_management", guest.package_management),
        ("hostname", guest.hostname),
        ("osinfo", guest.osinfo),
    ):
        _text(element, tag, value)
    mountpoints = ElementTree.SubElement(element, "mountpoints")
    for path, device in sorted(guest.mountpoints.items()):
        ElementTree.SubElement(mountpoints, "mountpoint", dev=device).text = _clean(path)
    listed = ElementTree.SubElement(element, "filesystems")
    for device in guest.filesystems:
        entry = ElementTree.SubElement(listed, "filesystem", dev=device)
        filesystem = filesystems.get(device)
        if filesystem is not None:
            _text(entry, "type", filesystem.type)
            _text(entry, "label", filesystem.label)
            _text(entry, "uuid", filesystem.uuid)
    if guest.drive_mappings:
        mappings = ElementTree.SubElement(element, "drive_mappings")
        for letter, device in sorted(guest.drive_mappings.items()):
            ElementTree.SubElement(mappings, "drive_mapping", name=letter).text = device
    if guest.applications:
        applications = ElementTree.SubElement(element, "applications")
        for application in guest.applications:
            _application(applications, application)


def _application(parent: ElementTree.Element, application: Application) -> None:
    element = ElementTree.SubElement(parent, "application")
    for tag, value in (
        ("name", application.name),
        ("display_name", application.display_name),
        ("epoch", application.epoch or None),
        ("version", application.version),
        ("release", application.release),
        ("arch", application.arch),
        ("install_path", application.install_path),
        ("publisher", application.publisher if application.display_name else None),
        ("url", application.url),
        ("source_package", application.source),
        ("summary", application.summary),
        ("description", application.description),
    ):
        _text(element, tag, value)


def _text(parent: ElementTree.Element, tag: str, value: str | int | None) -> None:
    if value is not None and value != "":
        ElementTree.SubElement(parent, tag).text = _clean(str(value))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
