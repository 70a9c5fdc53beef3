"""``Package``: the files of a virtual machine, in an archive or beside the descriptor; and ``OvaReader``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from guestctl.block.device import BlockDevice, Buffer, SliceDevice, zeros
from guestctl.core.errors import InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.ova.archive import BLOCK_BYTES, Member, read_members
from guestctl.disk.formats.ova.descriptor import MAX_DESCRIPTOR_BYTES, Disk, parse_descriptor
from guestctl.disk.reader import DiskReader, ImageFile, MapEntry

_MAX_MANIFEST_BYTES = 1 << 20
_MANIFEST_LINE = re.compile(r"(SHA1|SHA256|SHA512)\s*\((.+)\)\s*=\s*([0-9a-fA-F]+)", re.IGNORECASE)


class ManifestLine(NamedTuple):
    algorithm: str
    name: str
    digest: str


class Package:
    """The descriptor, and where its files are. `Package.open` leaves the image's device open."""

    def __init__(self, image: ImageFile, members: dict[str, list[Member]] | None, name: str, content: bytes) -> None:
        self.image = image
        self.disks: list[Disk] = parse_descriptor(content)
        self._members = members  # None: the files lie beside the descriptor
        self._name = name  # of the descriptor
        self._users = 0

    @classmethod
    def open(cls, image: ImageFile) -> Package:
        if image.snapshot is not None:
            raise UnsupportedFeature(f"{image.path}: an OVA has no snapshots", feature="snapshot")
        device = image.device
        start = bytes(device.read(0, min(64, device.size)))
        if start.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(b"<"):
            content = _text(device, MAX_DESCRIPTOR_BYTES, "OVF descriptor")
            return cls(image, None, os.path.basename(image.path), content)
        members: dict[str, list[Member]] = {}
        for member in read_members(device):
            members.setdefault(member.name.removeprefix("./"), []).append(member)
        descriptors = [name for name in members if name.lower().endswith(".ovf")]
        if len(descriptors) != 1:
            raise InvalidFormat(f"an archive with {len(descriptors)} OVF descriptors", structure="OVA", offset=0)
        content = _text(_slice(device, _only(members, descriptors[0])), MAX_DESCRIPTOR_BYTES, "OVF descriptor")
        return cls(image, members, descriptors[0], content)

    def open_disks(self) -> list[DiskReader]:
        """The disks, which own the archive from here on."""
        readers: list[DiskReader] = []
        try:
            for disk in self.disks:
                readers.append(self.open_disk(disk))
                readers[-1].files = self.image.opened
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        if not self._users:
            self.image.close()
        return readers

    def open_disk(self, disk: Disk) -> DiskReader:
        if disk.file is None:
            return self.image.inside(_Empty(disk.capacity)).reader(DiskFormat.RAW)
        format = "gz" if disk.file.compression == "gzip" else None
        if self._members is None:
            return self._neighbour(disk.file.href).reader(format)
        member = _only(self._members, disk.file.href)
        return self.image.inside(_Shared(self, member)).reader(format)

    def _neighbour(self, href: str) -> ImageFile:
        if re.match("[A-Za-z][A-Za-z0-9+.-]+:", href) or "\0" in href or not href:
            message = f"{self.image.path}: its disk {href[:200]!r} is not a file beside it"
            raise LocationRefused(message, location=href)
        plain = unquote(href)
        name = plain if plain != href and "\0" not in plain and not os.path.exists(self.image.resolve(href)) else href
        return self.image.open_neighbour(name, role="disk")

    def manifest(self) -> list[ManifestLine] | None:
        """The lines of the manifest, if there is one."""
        name = os.path.splitext(self._name)[0] + ".mf"
        if self._members is None:
            try:
                found = self.image.open_neighbour(name, role="manifest")
            except FileNotFoundError:
                return None
            try:
                content = _text(found.device, _MAX_MANIFEST_BYTES, "manifest")
            finally:
                found.close()
        elif name in self._members:
            content = _text(_slice(self.image.device, _only(self._members, name)), _MAX_MANIFEST_BYTES, "manifest")
        else:
            return None
        return list(_parse_manifest(content))

    def digest(self, name: str, algorithm: str) -> str | None:
        """The digest of a file of the package, or None where it is missing."""
        digest = hashlib.new(algorithm)
        if self._members is not None:
            if name not in self._members:
                return None
            _hash(digest, _slice(self.image.device, _only(self._members, name)))
            return digest.hexdigest()
        if name == self._name:
            _hash(digest, self.image.device)
            return digest.hexdigest()
        try:
            found = self._neighbour(name)
        except FileNotFoundError:
            return None
        try:
            _hash(digest, found.device)
        finally:
            found.close()
        return digest.hexdigest()

    def acquire(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            self.image.device.close()


class _Shared(SliceDevice):
    """A member of the archive, which is closed with the last of them."""

    def __init__(self, package: Package, member: Member) -> None:
        super().__init__(package.image.device, member.offset, member.size)
        self._package: Package | None = package
        package.acquire()

    def close(self) -> None:
        package, self._package = self._package, None
        if package is not None:
            package.release()


class _Empty(BlockDevice):
    """Zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> Buffer:
        self.check_range(offset, length)
        return zeros(length)

    def runs(self, offset: int, length: int) -> Iterator[Any]:
        for run in super().runs(offset, length):
            yield run._replace(source=None, source_offset=0)

    def host_offset(self, offset: int) -> None:
        return None


class OvaReader(DiskReader):
    """A package as a whole: its description and its manifest."""

    format = DiskFormat.OVA

    def __init__(self, package: Package) -> None:
        self.path = package.image.path
        self._package = package
        self.size = 0
        package.acquire()

    def read(self, offset: int, length: int) -> Buffer:
        raise UnsupportedFeature(f"{self.path}: opened for its metadata only", feature="reading")

    def map(self) -> Iterator[MapEntry]:
        raise UnsupportedFeature(f"{self.path}: opened for its metadata only", feature="map")

    def info(self) -> dict[str, Any]:
        """The sum of the disks under qemu-img's keys, each disk under ``format-specific``."""
        disks = list(self._disk_infos())
        return {
            "virtual-size": sum(disk["virtual-size"] for disk in disks),
            "filename": self.path,
            "format": self.format.value,
            "actual-size": self.measure_file(),
            "dirty-flag": False,
            "format-specific": {"type": "ova", "data": {"disks": disks}},
        }

    def _disk_infos(self) -> Iterator[dict[str, Any]]:
        for disk in self._package.disks:
            with self._package.open_disk(disk) as reader:
                yield {"filename": disk.name, "format": reader.format.value, "virtual-size": reader.size}

    def check(self) -> dict[str, Any]:
        """Compare the files with the manifest; ``damaged-files`` are those that are not as it says, or missing."""
        lines = self._package.manifest()
        if lines is None:
            raise UnsupportedFeature(f"{self.path}: there is no manifest to compare the files with", feature="check")
        damaged = [line.name for line in lines if self._package.digest(line.name, line.algorithm) != line.digest]
        result: dict[str, Any] = {"filename": self.path, "format": self.format.value, "check-errors": 0}
        if damaged:
            result |= {"corruptions": len(damaged), "damaged-files": damaged}
        return result

    def close(self) -> None:
        self._package.image.device.close()


def _parse_manifest(content: bytes) -> Iterator[ManifestLine]:
    for number, line in enumerate(content.decode("utf-8", "surrogateescape").splitlines()):
        if not line.strip():
            continue
        match = _MANIFEST_LINE.fullmatch(line.strip())
        if match is None:
            raise InvalidFormat(f"line {number + 1} is no digest", structure="manifest", offset=0)
        yield ManifestLine(match[1].lower(), match[2], match[3].lower())


def _only(members: dict[str, list[Member]], name: str) -> Member:
    """The member of that name; what could mean two things is refused."""
    found = members.get(name) or members.get(unquote(name)) or []
    if not found:
        raise InvalidFormat(f"{name[:200]!r} is not in the archive", structure="OVA", offset=0)
    if len(found) > 1:
        message = f"{name[:200]!r} is there {len(found)} times"
        raise InvalidFormat(message, structure="tar header", offset=found[1].offset - BLOCK_BYTES)
    if not found[0].is_file:
        raise UnsupportedFeature(f"the member {name[:200]!r} is no plain file", feature="links and sparse members")
    return found[0]


def _slice(device: BlockDevice, member: Member) -> SliceDevice:
    return SliceDevice(device, member.offset, member.size)


def _text(device: BlockDevice, limit: int, structure: str) -> bytes:
    if device.size > limit:
        raise InvalidFormat(f"it has {device.size} bytes, more than {limit}", structure=structure, offset=0)
    return bytes(device.read(0, device.size))


def _hash(digest: Any, device: BlockDevice) -> None:
    for buffer in device.buffers(0, device.size):
        digest.update(buffer)
