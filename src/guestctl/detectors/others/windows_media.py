"""Windows Setup: the description in ``install.wim`` or ``boot.wim`` (Windows Imaging File Format), or, until
Windows Server 2003, ``txtsetup.sif``."""

from __future__ import annotations

import re
from itertools import takewhile
from struct import Struct
from xml.etree import ElementTree

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.detectors.files import Tree, sections
from guestctl.detectors.report import Guest
from guestctl.detectors.windows.release import osinfo_id

_IMAGES = ("/sources/install.wim", "/sources/install.esd", "/sources/boot.wim")
_MAGIC = b"MSWIM\0\0\0"
# The header's rhXmlData: size in seven bytes and flags in one, offset, original size
_HEADER_BYTES = 208
_XML_RESOURCE = Struct("<72xQQQ")
_SIZE_MASK = (1 << 56) - 1
_COMPRESSED = 4 << 56
_MAX_XML_BYTES = 2 << 20  # each edition has some 4 KiB
_MAX_SIF_BYTES = 4 << 20
_MAX_IMAGES = 256
_ARCHITECTURES = {"0": "i386", "5": "arm", "6": "ia64", "9": "x86_64", "12": "aarch64"}  # PROCESSOR_ARCHITECTURE_…


def detect_windows_medium(tree: Tree, found: Guest) -> None:
    """Product, version, architecture and osinfo's id."""
    found.distro = "windows"
    found.live, found.netinst, found.multipart = False, False, False
    path = next((path for path in _IMAGES if tree.is_file(path)), None)
    if path is not None:
        _describe(found, read_wim_xml(tree.device(path)))
    else:
        _text_setup(tree, found)


def read_wim_xml(device: BlockDevice) -> ElementTree.Element:
    """The XML data of a WIM file. Raises `InvalidFormat`."""
    header = bytes(device.read(0, min(_HEADER_BYTES, device.size)))
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise InvalidFormat("no WIM file", structure="WIM header", offset=0)
    size, offset, _ = _XML_RESOURCE.unpack_from(header)
    if size & _COMPRESSED:
        raise UnsupportedFeature("compressed XML data of a WIM file", feature="compressed XML data")
    size &= _SIZE_MASK
    if size > _MAX_XML_BYTES or offset + size > device.size:
        raise InvalidFormat(f"{size} bytes of XML data at {offset:#x}", structure="WIM header", offset=72)
    text = bytes(device.read(offset, size)).decode("utf-16-le", "replace").removeprefix("\ufeff")
    if "<!" in text:  # no WIM declares entities, and they can be made to grow without end
        raise InvalidFormat("a declaration", structure="WIM XML data", offset=offset)
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InvalidFormat(str(error), structure="WIM XML data", offset=offset) from error


def _describe(found: Guest, xml: ElementTree.Element) -> None:
    """Of several editions what they have in common."""
    images = xml.findall("IMAGE")[:_MAX_IMAGES]
    first = next((image.find("WINDOWS") for image in images if image.find("WINDOWS") is not None), None)
    if first is None:
        return
    names = [name.split() for image in images if (name := image.findtext("DISPLAYNAME") or image.findtext("NAME"))]
    same = takewhile(lambda words: len(set(words)) == 1, zip(*names, strict=False))
    found.product_name = " ".join(words[0] for words in same) or None
    found.product_variant = first.findtext("INSTALLATIONTYPE") or None
    found.arch = _ARCHITECTURES.get(first.findtext("ARCH", ""))
    major, minor, build = (_number(first.findtext(f"VERSION/{name}")) for name in ("MAJOR", "MINOR", "BUILD"))
    found.major_version, found.minor_version = major, minor
    if major is not None and minor is not None:
        is_server = "server" in (first.findtext("PRODUCTTYPE") or found.product_variant or "").lower()
        found.osinfo = osinfo_id((major, minor), build or 0, is_server)


def _text_setup(tree: Tree, found: Guest) -> None:
    """[SetupData] of txtsetup.sif."""
    for directory, arch in (("amd64", "x86_64"), ("ia64", "ia64"), ("i386", "i386")):
        path = f"/{directory}/txtsetup.sif"
        if not tree.is_file(path):
            continue
        text = tree.read_bytes(path, limit=_MAX_SIF_BYTES).decode("cp1252", "replace")
        values = {key.lower(): value for name, key, value in sections(text) if name.lower() == "setupdata"}
        found.arch = arch
        found.major_version = _number(values.get("majorversion"))
        found.minor_version = _number(values.get("minorversion"))
        if found.major_version is not None and found.minor_version is not None:
            is_server = values.get("producttype", "0") not in ("0", "4")  # workstation, home edition
            found.osinfo = osinfo_id((found.major_version, found.minor_version), 0, is_server)
        return


def _number(text: str | None) -> int | None:
    match = re.match(r"\s*(\d{1,6})\b", text or "")
    return int(match[1]) if match else None
