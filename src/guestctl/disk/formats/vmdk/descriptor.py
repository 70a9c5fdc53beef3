"""The descriptor: a text that names the disk's content, its parent and its extents ("The Descriptor File").

Lines may end in any way and stand in any order; keys are compared without case. Bytes that are no
text in the descriptor's encoding are kept, as file names may have them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from guestctl.core.errors import ConversionError, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vmdk.layout import NO_PARENT_CID, SECTOR_BYTES

# qemu reads no more either; 20,000 extents fit.
MAX_BYTES = 1 << 20
_MAX_LINE_BYTES = 8 << 10  # a path of PATH_MAX and what stands around it
_MAX_DISK_SECTORS = (1 << 63) // SECTOR_BYTES - 1

_IDE_HEADS = 16
_SCSI_HEADS = 255
_SECTORS_PER_TRACK = 63

_ASSIGNMENT = re.compile(r"([\w.]+)\s*=\s*(.*)")
_EXTENT = re.compile(r'(RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+(\w+)(?:\s+"([^"]*)"(?:\s+(\d{1,20})(?:\s.*)?)?)?', re.ASCII)
_ACCESS = re.compile(r"(RW|RDONLY|NOACCESS)\s", re.ASCII)
_ENCODING = re.compile(
    r"utf-?8|us-ascii|windows-\d{3,4}|iso-8859-\d{1,2}|cp\d{3,4}|gbk|gb2312|gb18030|big5|shift[-_]?jis|euc-(jp|kr)"
)
_FLAT_TYPES = ("FLAT", "VMFS")
_SPARSE_TYPES = ("SPARSE", "VMFSSPARSE", "SESPARSE")
_TYPES = (*_FLAT_TYPES, *_SPARSE_TYPES, "ZERO")
_RAW_DEVICE_TYPES = ("VMFSRDM", "VMFSRAW")
_RAW_DEVICES = frozenset(
    (
        "fulldevice",
        "partitioneddevice",
        "vmfsraw",
        "vmfsrdm",
        "vmfsrawdevicemap",
        "vmfsrdmp",
        "vmfspassthroughrawdevicemap",
    )
)


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent: ``name`` is None for ZERO, ``offset`` counts in sectors of the file."""

    sectors: int
    type: str
    name: str | None = None
    offset: int = 0

    @property
    def is_flat(self) -> bool:
        return self.type in _FLAT_TYPES


@dataclass(frozen=True, slots=True)
class Descriptor:
    cid: int
    parent_cid: int
    create_type: str
    parent_name: str | None
    extents: tuple[ExtentLine, ...]
    database: dict[str, str] = field(default_factory=dict)  # the ``ddb.`` keys


@dataclass(frozen=True, slots=True)
class NewDescriptor:
    """What the descriptor of a new image says, in qemu-img's words and order."""

    cid: int
    parent_cid: int
    parent_name: str | None
    create_type: str
    extents: tuple[ExtentLine, ...]
    sectors: int
    adapter_type: str
    hardware_version: str
    tools_version: str

    @property
    def has_parent(self) -> bool:
        return self.parent_name is not None

    def build(self) -> bytes:
        names = [line.name for line in self.extents] + [self.parent_name]
        for name in names:
            if name is not None and any(character in name for character in '"\r\n\0'):
                raise ConversionError(f"{name!r} cannot stand in a VMDK descriptor")
        heads = _IDE_HEADS if self.adapter_type == "ide" else _SCSI_HEADS
        lines = [
            "# Disk DescriptorFile",
            "version=1",
            f"CID={self.cid:08x}",
            f"parentCID={self.parent_cid:08x}",
            f'createType="{self.create_type}"',
            "" if self.parent_name is None else f'parentFileNameHint="{self.parent_name}"',
            "# Extent description",
            *(_extent_line(extent) for extent in self.extents),
            "",
            "# The Disk Data Base",
            "#DDB",
            "",
            f'ddb.virtualHWVersion = "{self.hardware_version}"',
            f'ddb.geometry.cylinders = "{self.sectors // (heads * _SECTORS_PER_TRACK)}"',
            f'ddb.geometry.heads = "{heads}"',
            f'ddb.geometry.sectors = "{_SECTORS_PER_TRACK}"',
            f'ddb.adapterType = "{self.adapter_type}"',
            f'ddb.toolsVersion = "{self.tools_version}"',
            "",
        ]
        return os.fsencode("\n".join(lines))


def _extent_line(extent: ExtentLine) -> str:
    return f'RW {extent.sectors} {extent.type} "{extent.name}"' + (" 0" if extent.is_flat else "")


def parse_descriptor(data: bytes, offset: int = 0) -> Descriptor:
    """The descriptor in `data`, which lies at `offset` of its file and ends with it or at a zero byte."""
    if len(data) > MAX_BYTES:
        raise _invalid(f"{len(data)} bytes, more than {MAX_BYTES}", offset)
    data = data.partition(b"\0")[0]
    values: dict[str, str] = {}
    extents: list[ExtentLine] = []
    total = 0
    for line in _decode(data, offset).replace("\r", "\n").split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if len(line) > _MAX_LINE_BYTES:
            raise _invalid(f"a line of {len(line)} characters", offset)
        if _ACCESS.match(line):
            extent = _parse_extent(line, offset)
            total += extent.sectors
            extents.append(extent)
        elif match := _ASSIGNMENT.fullmatch(line):
            _assign(values, match[1].lower(), match[2].strip().strip('"'), offset)
    if total > _MAX_DISK_SECTORS:
        raise _invalid(f"a disk of {total} sectors", offset)
    return _from_values(values, tuple(extents), offset)


def _from_values(values: dict[str, str], extents: tuple[ExtentLine, ...], offset: int) -> Descriptor:
    if values.get("version") not in (None, "1", "2", "3", "4"):
        raise UnsupportedFeature(
            f"descriptor version {values['version']!r}", feature=f"descriptor version {values['version']}"
        )
    create_type = values.get("createtype")
    if create_type is None:
        raise _invalid("no createType", offset)
    if create_type.lower() in _RAW_DEVICES:
        raise UnsupportedFeature(f"a disk of type {create_type} is a device, not a file", feature=create_type)
    parent_cid = _content_id(values, "parentcid", offset)
    return Descriptor(
        cid=_content_id(values, "cid", offset),
        parent_cid=parent_cid,
        create_type=create_type,
        parent_name=values.get("parentfilenamehint") if parent_cid != NO_PARENT_CID else None,
        extents=extents,
        database={key: value for key, value in values.items() if key.startswith("ddb.")},
    )


def _decode(data: bytes, offset: int) -> str:
    if data.isascii():
        return data.decode("ascii")
    match = re.search(rb'^\s*encoding\s*=\s*"?([^"\r\n]*)', data, re.MULTILINE | re.IGNORECASE)
    name = match[1].decode("latin-1").strip().lower() if match else "utf-8"
    if not _ENCODING.fullmatch(name):
        raise UnsupportedFeature(f"a descriptor in encoding {name!r}", feature=f"encoding {name}")
    try:
        return data.decode(name, "surrogateescape")
    except LookupError as error:
        raise UnsupportedFeature(f"a descriptor in encoding {name!r}", feature=f"encoding {name}") from error
    except UnicodeError as error:
        raise _invalid(f"not text in encoding {name}: {error}", offset) from error


def _assign(values: dict[str, str], key: str, value: str, offset: int) -> None:
    known = values.setdefault(key, value)
    if known != value and not key.startswith("ddb."):
        raise _invalid(f"{key} is given twice: {known!r} and {value!r}", offset)


def _parse_extent(line: str, offset: int) -> ExtentLine:
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise _invalid(f"extent {line[:120]!r}", offset)
    access, sectors, type, name, file_offset = match.groups()
    if type in _RAW_DEVICE_TYPES:
        raise UnsupportedFeature(f"an extent of type {type} is a device, not a file", feature=type)
    if type not in _TYPES:
        raise UnsupportedFeature(f"an extent of type {type!r}", feature=f"extent type {type}")
    if access == "NOACCESS":
        raise UnsupportedFeature("an extent that must not be accessed", feature="NOACCESS extent")
    extent = ExtentLine(int(sectors), type, name, int(file_offset or 0))
    if not 0 < extent.sectors <= _MAX_DISK_SECTORS or extent.offset > _MAX_DISK_SECTORS:
        raise _invalid(f"extent of {sectors} sectors at {file_offset or 0}", offset)
    if type != "ZERO" and not name:
        raise _invalid(f"extent without a file name: {line[:120]!r}", offset)
    if name is not None and "\0" in name:
        raise _invalid("a zero byte in a file name", offset)
    return extent


def _content_id(values: dict[str, str], key: str, offset: int) -> int:
    text = values.get(key)
    if text is None and key == "parentcid":
        return NO_PARENT_CID
    if text is None or not re.fullmatch(r"[0-9A-Fa-f]{1,8}", text):
        raise _invalid(f"{key}={text}: no content id" if text else f"no {key}", offset)
    return int(text, 16)


def _invalid(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="descriptor", offset=offset)
