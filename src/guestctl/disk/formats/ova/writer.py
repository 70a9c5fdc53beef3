"""``OvaWriter``: a tar archive of the descriptor, the manifest and one streamOptimized VMDK, in this order.

The sizes and digests of the first two, and the tar header of the disk, are known when everything is
written. Their places are reserved; the descriptor is filled up with white space.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from guestctl.block.device import CHUNK_BYTES, Buffer
from guestctl.block.output import Output, OutputFile
from guestctl.core.errors import ConversionError
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.ova.archive import BLOCK_BYTES
from guestctl.disk.writer import ImageWriter, Options, Placement, create_writer

_DESCRIPTOR_BYTES = 16 << 10
_MAX_NAME_BYTES = 80  # of the files in the archive, which tar's headers have room for
# Values of CIM_OperatingSystem's OsType.
_SYSTEMS = {"unknown": 0, "other": 1, "linux": 101}
_MAX_OS_ID = 65535
_MEBIBYTE = 1 << 20

_DESCRIPTOR = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" \
xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" \
xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:id="file1" ovf:href={disk} ovf:size="{disk_bytes}"/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" \
ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id={name_attribute}>
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="{system}">
      <Info>The guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
{items}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


def create(output: Output, size: int, options: Options) -> OvaWriter:
    """``cpus``, ``memory`` (a size) and ``os``: a CIM number or one of `_SYSTEMS`."""
    root = os.path.splitext(os.path.basename(output.path))[0] or "disk"
    encoded = root.encode("utf-8", "replace")[:_MAX_NAME_BYTES]
    return OvaWriter(
        output,
        size,
        encoded.decode("utf-8", "ignore"),
        cpus=_number(options, "cpus", 1, 1024),
        memory=max(1, options.size("memory", 1024 * _MEBIBYTE) // _MEBIBYTE),
        system=_system(options),
    )


def _system(options: Options) -> int:
    value = options.text("os") or "other"
    if value in _SYSTEMS:
        return _SYSTEMS[value]
    if value.isascii() and value.isdigit() and int(value) <= _MAX_OS_ID:
        return int(value)
    raise ConversionError(f"ova: os={value}: expected a CIM OsType number or one of {', '.join(_SYSTEMS)}")


def _number(options: Options, name: str, default: int, largest: int) -> int:
    value = options.text(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 9 and 1 <= int(value) <= largest):
        raise ConversionError(f"ova: {name}={value}: expected a number from 1 to {largest}")
    return int(value)


class OvaWriter(ImageWriter):
    """Hands the disk to the writer of its image, whose file is a window of the archive."""

    format = DiskFormat.OVA

    def __init__(self, output: Output, size: int, name: str, *, cpus: int, memory: int, system: int) -> None:
        self._file = output.main
        self._name = name
        self._cpus, self._memory, self._system = cpus, memory, system
        self._descriptor_name, self._disk_name = f"{name}.ovf", f"{name}-disk1.vmdk"
        self._manifest_bytes = len(self._manifest("0" * 64, "0" * 64))
        self._manifest_offset = BLOCK_BYTES + _DESCRIPTOR_BYTES
        manifest_blocks = -(-self._manifest_bytes // BLOCK_BYTES)
        self._disk_header_offset = self._manifest_offset + (1 + manifest_blocks) * BLOCK_BYTES
        self._disk_offset = self._disk_header_offset + BLOCK_BYTES
        inner = _WindowOutput(output, self._disk_name, self._disk_offset)
        self._window = inner.window
        self._disk = create_writer(DiskFormat.VMDK, inner, size, {"subformat": "streamOptimized"})
        self.size, self.unit = self._disk.size, self._disk.unit

    @property
    def packs(self) -> bool:
        return self._disk.packs

    def pack(self, start: int, data: Buffer) -> bytes | None:
        return self._disk.pack(start, data)

    def place(self, start: int, length: int) -> Iterable[Placement]:
        for placed in self._disk.place(start, length):
            yield placed._replace(file=self._file, offset=placed.offset + self._disk_offset)

    def place_packed(self, start: int, sizes: Sequence[int]) -> tuple[OutputFile, int]:
        _, offset = self._disk.place_packed(start, sizes)
        return self._file, offset + self._disk_offset

    def zero(self, start: int, length: int) -> None:
        self._disk.zero(start, length)

    def finish(self) -> None:
        self._disk.finish()
        disk_bytes = self._window.size
        end = self._disk_offset + -(-disk_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._file.truncate(end + 2 * BLOCK_BYTES)
        descriptor = self._descriptor(disk_bytes)
        digests = hashlib.sha256(descriptor).hexdigest(), self._digest(disk_bytes)
        for offset, name, content in (
            (0, self._descriptor_name, descriptor),
            (self._manifest_offset, f"{self._name}.mf", self._manifest(*digests)),
        ):
            self._file.write_at(offset, _header(name, len(content)) + content)
        self._file.write_at(self._disk_header_offset, _header(self._disk_name, disk_bytes))

    def _manifest(self, descriptor: str, disk: str) -> bytes:
        return f"SHA256({self._descriptor_name})= {descriptor}\nSHA256({self._disk_name})= {disk}\n".encode()

    def _digest(self, length: int) -> str:
        """The SHA-256 of the disk's image, which is read back: its header was written last."""
        digest = hashlib.sha256()
        for done in range(0, length, CHUNK_BYTES):
            digest.update(self._file.read_at(self._disk_offset + done, min(CHUNK_BYTES, length - done)))
        return digest.hexdigest()

    def _descriptor(self, disk_bytes: int) -> bytes:
        text = _DESCRIPTOR.format(
            disk=quoteattr(self._disk_name),
            disk_bytes=disk_bytes,
            capacity=self.size,
            name_attribute=quoteattr(self._name),
            name=escape(self._name),
            system=self._system,
            items="".join(self._items()),
        )
        return text.encode().ljust(_DESCRIPTOR_BYTES - 1) + b"\n"

    def _items(self) -> Iterator[str]:
        """The elements of each item in the alphabetical order that the schema wants."""
        yield _item(
            AllocationUnits="hertz * 10^6", ElementName="CPU", InstanceID=1, ResourceType=3, VirtualQuantity=self._cpus
        )
        yield _item(
            AllocationUnits="byte * 2^20",
            ElementName="Memory",
            InstanceID=2,
            ResourceType=4,
            VirtualQuantity=self._memory,
        )
        yield _item(
            Address=0, ElementName="SCSI controller 0", InstanceID=3, ResourceSubType="lsilogic", ResourceType=6
        )
        yield _item(
            AddressOnParent=0,
            ElementName="Disk 1",
            HostResource="ovf:/disk/vmdisk1",
            InstanceID=4,
            Parent=3,
            ResourceType=17,
        )


def _item(**elements: str | int) -> str:
    lines = "".join(f"        <rasd:{name}>{value}</rasd:{name}>\n" for name, value in elements.items())
    return f"      <Item>\n{lines}      </Item>\n"


def _header(name: str, size: int) -> bytes:
    """A tar header; GNU's form only where POSIX's has no room for the size."""
    info = tarfile.TarInfo(name)
    info.size = size
    if size < 1 << 33:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


class _Window(OutputFile):
    """The rest of a file from `start` on, as a file."""

    def __init__(self, file: OutputFile, start: int, path: str) -> None:
        super().__init__(file.fd, path)
        self._file = file
        self._start = start
        self.size = 0  # once it was truncated

    def write_at(self, offset: int, data: Buffer) -> None:
        self._file.write_at(self._start + offset, data)

    def write_all_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._file.write_all_at(self._start + offset, buffers)

    def fill(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._file.fill(self._start + offset, buffers)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._file.read_at(self._start + offset, length)

    def truncate(self, size: int) -> None:
        self.size = size
        self._file.truncate(self._start + size)

    def reserve(self, offset: int, length: int) -> None:
        self._file.reserve(self._start + offset, length)


class _WindowOutput(Output):
    """What the writer of the disk's image takes for its own file."""

    def __init__(self, outer: Output, name: str, start: int) -> None:
        self.path = os.path.join(os.path.dirname(outer.path), name)
        self.is_device = False
        self.window = _Window(outer.main, start, self.path)
        self.main = self.window
        self.files = [self.window]

    def create(self, name: str) -> OutputFile:
        raise ConversionError("ova: the disk is one file")
