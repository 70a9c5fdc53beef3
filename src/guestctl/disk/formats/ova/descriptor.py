"""The OVF descriptor: which files there are, which disks they hold, and where these are attached.

Namespaces differ between versions and are left out; the names of elements and attributes do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from guestctl.core.errors import InvalidFormat, UnsupportedFeature

MAX_DESCRIPTOR_BYTES = 4 << 20
_MAX_DISKS = 256
_DISK = "17"  # of CIM_ResourceAllocationSettingData's ResourceType
_UNIT = re.compile(r"byte(?:s)?(?:\s*\*\s*(\d{1,4})\s*\^\s*(\d{1,3}))?", re.ASCII)
_OLD_UNITS = {"kilobytes": 1 << 10, "megabytes": 1 << 20, "gigabytes": 1 << 30, "terabytes": 1 << 40}


class File(NamedTuple):
    """An element ``File`` of the ``References``."""

    href: str
    compression: str


class Disk(NamedTuple):
    """A disk of the machine. ``file`` is None for an empty one."""

    name: str
    capacity: int  # bytes; what the image says counts where there is one
    file: File | None


@dataclass(slots=True)
class Element:
    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def find_all(self, name: str) -> Iterator[Element]:
        """Elements of that name below this one."""
        stack = self.children[::-1]
        while stack:
            element = stack.pop()
            if element.name == name:
                yield element
            stack += element.children[::-1]

    def child_text(self, name: str) -> str:
        return next((child.text.strip() for child in self.children if child.name.lower() == name.lower()), "")


def parse_descriptor(content: bytes) -> list[Disk]:
    """The disks of the only virtual system, in the order of their controllers and of their places there."""
    envelope = parse_xml(content)
    if envelope.name != "Envelope":
        raise _invalid(f"the root element is {envelope.name[:40]!r}, no Envelope")
    systems = list(envelope.find_all("VirtualSystem"))
    if len(systems) > 1:
        feature = f"collection of {len(systems)} virtual systems"
        raise UnsupportedFeature(f"a {feature}", feature=feature)
    files = {
        element.attributes.get("id", ""): _file(element)
        for references in envelope.find_all("References")
        for element in references.children
        if element.name == "File"
    }
    disks = {
        element.attributes.get("diskId", ""): _disk(element, files)
        for section in envelope.find_all("DiskSection")
        for element in section.children
        if element.name == "Disk"
    }
    hardware = [section for system in systems for section in system.find_all("VirtualHardwareSection")]
    attached = list(_attached(hardware[0], disks, files)) if hardware else []
    found = attached or list(disks.values())
    if len(found) > _MAX_DISKS:
        raise _invalid(f"{len(found)} disks")
    return found


def _file(element: Element) -> File:
    if element.attributes.get("chunkSize"):
        raise UnsupportedFeature("an OVF file in chunks", feature="chunkSize")
    compression = element.attributes.get("compression", "")
    if compression not in ("", "identity", "gzip"):
        raise UnsupportedFeature(f"OVF compression {compression!r}", feature=f"compression {compression}")
    return File(element.attributes.get("href", ""), compression)


def _disk(element: Element, files: dict[str, File]) -> Disk:
    name = element.attributes.get("diskId", "")
    if element.attributes.get("parentRef"):
        raise UnsupportedFeature(f"OVF disk {name!r} with a parent", feature="parentRef")
    reference = element.attributes.get("fileRef")
    if reference is not None and reference not in files:
        raise _invalid(f"disk {name!r} is in file {reference!r}, which is not among the references")
    file = None if reference is None else files[reference]
    return Disk(name if file is None else file.href, 0 if file is not None else _capacity(element), file)


def _capacity(element: Element) -> int:
    text = element.attributes.get("capacity", "")
    unit = element.attributes.get("capacityAllocationUnits", "byte").strip().lower()
    match = _UNIT.fullmatch(unit)
    if match is None and unit not in _OLD_UNITS:
        raise UnsupportedFeature(f"OVF capacity in {unit[:40]!r}", feature="capacityAllocationUnits")
    factor = _OLD_UNITS[unit] if match is None else int(match[1] or 1) ** int(match[2] or 1)
    if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or not int(text) * factor < 1 << 60:
        raise _invalid(f"a capacity of {text[:40]!r} {unit[:40]}")
    return int(text) * factor


class _Item(NamedTuple):
    number: int
    kind: str
    element: Element


def _attached(hardware: Element, disks: dict[str, Disk], files: dict[str, File]) -> Iterator[Disk]:
    items = [
        _Item(number, item.child_text("ResourceType"), item)
        for number, item in enumerate(hardware.children)
        if item.name in ("Item", "StorageItem")
    ]
    by_id = {item.element.child_text("InstanceID"): item for item in items}
    first_of_kind: dict[str, int] = {}
    for item in items:
        first_of_kind.setdefault(item.kind, item.number)

    def order(item: _Item) -> tuple[int, int, int, int, int]:
        """Kinds of controllers as they appear, controllers by their address, disks by their place, then as listed."""
        place = _integer(item.element.child_text("AddressOnParent"))
        controller = by_id.get(item.element.child_text("Parent"))
        if controller is None:
            return len(hardware.children), 0, 0, place, item.number
        address = _integer(controller.element.child_text("Address"))
        return first_of_kind[controller.kind], address, controller.number, place, item.number

    for item in sorted((item for item in items if item.kind == _DISK), key=order):
        resource = item.element.child_text("HostResource")
        match = re.fullmatch(r"(?:ovf:)?/{1,2}(disk|file)/(.*)", resource, re.DOTALL)
        if match is None:
            raise _invalid(f"a disk with the resource {resource[:100]!r}")
        kind, name = match.groups()
        if name not in (disks if kind == "disk" else files):
            raise _invalid(f"a disk with the resource {resource[:100]!r}, which is not described")
        yield disks[name] if kind == "disk" else Disk(files[name].href, 0, files[name])


def _integer(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,9}", text, re.ASCII) else 0


def parse_xml(content: bytes) -> Element:
    """The root element; a document type declaration, which could define entities, is refused."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    root = Element("", {})
    stack = [root]

    def start(name: str, attributes: dict[str, str]) -> None:
        element = Element(_local(name), {_local(key): value for key, value in attributes.items()})
        stack[-1].children.append(element)
        stack.append(element)

    def end(name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def doctype(*_: object) -> None:
        raise UnsupportedFeature("an OVF descriptor with a document type declaration", feature="DTD")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        offset = max(0, parser.ErrorByteIndex)
        raise InvalidFormat(f"no XML: {error}", structure="OVF descriptor", offset=offset) from error
    return root.children[0]


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _invalid(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="OVF descriptor", offset=0)
