"""The report as virt-inspector's XML (virt-inspector(1), virt-inspector.rng).

The schema has lists of words, and a version for every guest: other words are left out, an unknown version is 0, as
``guestfs_inspect_get_major_version`` has it.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from guestctl.detectors import virt_inspector
from guestctl.detectors.report import Application, Filesystem, Guest, Report

_DISTRIBUTIONS = (
    "alpinelinux altlinux archlinux buildroot centos cirros coreos debian fedora freebsd freedos frugalware gentoo "
    "kalilinux kylin linuxmint mageia mandriva meego msdos neokylin netbsd openbsd openmandriva opensuse oraclelinux "
    "pardus pldlinux redhat-based rhel scientificlinux slackware sles suse-based ttylinux ubuntu voidlinux "
    "windows"
)
_PACKAGE_FORMATS = "apk deb ebuild pacman pisi pkgsrc rpm xbps"
_PACKAGE_MANAGEMENT = "apk apt dnf pacman pisi portage up2date urpmi xbps yum zypper"

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
        ("distro", _known(guest.distro, _DISTRIBUTIONS)),
        ("product_name", virt_inspector.product_name(guest)),
        ("product_variant", guest.product_variant),
        ("major_version", guest.major_version or 0),
        ("minor_version", guest.minor_version or 0),
        ("windows_systemroot", guest.windows_systemroot),
        ("windows_current_control_set", guest.windows_current_control_set),
        ("package_format", _known(guest.package_format, _PACKAGE_FORMATS)),
        ("package_management", _known(guest.package_management, _PACKAGE_MANAGEMENT)),
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
            _application(applications, application, guest.package_format)


def _known(word: str | None, words: str) -> str | None:
    return word if word in words.split() else None


def _application(parent: ElementTree.Element, application: Application, package_format: str | None) -> None:
    application = virt_inspector.application(application, package_format)
    element = ElementTree.SubElement(parent, "application")
    for tag, value in (
        ("name", application.name),
        ("display_name", application.display_name),
        ("epoch", application.epoch or None),
        ("version", application.version),
        ("release", application.release),
        ("arch", application.arch),
        ("install_path", application.install_path),
        ("publisher", application.publisher),
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
