"""``Machine``: disks in order become ``/dev/sda``, ``/dev/sdb``…, and what lies on them gets libguestfs's names."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from guestctl.block import BlockDevice
from guestctl.core.errors import DetectionError, GuestctlError, InvalidFormat
from guestctl.disk.filesystem import FileSystem, Identity, Options, Usage
from guestctl.disk.partition import Partition, PartitionTable
from guestctl.disk.reader import DiskReader
from guestctl.disk.volumes import ROOMS, Assembly, Member, Volume
from guestctl.disk.volumes.keys import Keys
from guestctl.machine.fstab import FstabEntry, parse_fstab
from guestctl.machine.tree import MountTree

_MAX_VOLUME_LEVELS = 16  # one on the other
_MAX_FSTAB_BYTES = 1 << 20
# Each line may mount the whole root once more, and a walk visits every mount.
_MAX_FSTAB_ENTRIES = 1000


class Disk(NamedTuple):
    """A disk of the machine. ``table`` is None where it has no partition table."""

    name: str
    reader: DiskReader
    table: PartitionTable | None


class FoundFilesystem(NamedTuple):
    """What one device holds; ``identity`` is None where nothing known is there."""

    device: str
    size: int
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class Guest:
    """One operating system: the device of its root, and its whole tree."""

    root: str
    mountpoints: dict[str, str]  # path -> device
    tree: FileSystem[Any]


class Machine:
    """The disks of one virtual machine. Filesystems open when they are asked for."""

    def __init__(self, disks: Sequence[DiskReader], *, options: Options = Options(), keys: Keys | None = None) -> None:
        self.options = options
        self.keys = keys or Keys()
        self.warnings: list[str] = []
        self.disks: list[Disk] = []
        self._devices: dict[str, BlockDevice] = {}
        self._partitions: dict[str, Partition] = {}
        self._volumes: dict[str, Volume] = {}
        self._identities: dict[str, Identity | None] = {}
        self._filesystems: dict[str, FileSystem[Any]] = {}
        self._failures: dict[str, GuestctlError] = {}
        for index, reader in enumerate(disks):
            self._add_disk(f"/dev/sd{_letters(index)}", reader)
        self._assemble_volumes()

    @classmethod
    def open(
        cls,
        *images: str | os.PathLike[str],
        format: str | None = None,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        options: Options = Options(),
        keys: Keys | None = None,
    ) -> Self:
        """Open the images as the disks of one machine, in order; an OVA may hold several.

        Arguments are those of `DiskReader.open`.
        """
        readers: list[DiskReader] = []
        try:
            for image in images:
                readers += DiskReader.open_all(image, format=format, allow_dirs=allow_dirs)
            return cls(readers, options=options, keys=keys)
        except BaseException:
            for reader in readers:
                reader.close()
            raise

    def _add_disk(self, name: str, reader: DiskReader) -> None:
        self.warnings.extend(f"{name}: {warning}" for warning in reader.warnings)
        table: PartitionTable | None = None
        try:
            table = PartitionTable.detect(reader)
        except InvalidFormat as error:
            self.warnings.append(f"{name}: partition table: {error}")
        self.disks.append(Disk(name, reader, table))
        if table is None or not table.partitions:
            self._devices[name] = reader
            return
        self.warnings.extend(f"{name}: {warning}" for warning in table.warnings)
        for partition in table.partitions:
            if not partition.extended:
                device = f"{name}{partition.number}"
                self._devices[device] = partition.device(reader)
                self._partitions[device] = partition

    def _assemble_volumes(self) -> None:
        """Volumes lie on disks, partitions and other volumes: look again until there is nothing new."""
        assembled: dict[str, list[Member]] = {}
        warnings: dict[str, Sequence[str]] = {}
        for _ in range(_MAX_VOLUME_LEVELS):
            before = len(self._devices)
            for type_, room in ROOMS.items():
                members = [Member(name, device) for name, device in self._devices.items() if self._holds(name, type_)]
                if not members or members == assembled.get(type_):
                    continue
                assembled[type_] = members
                assembly = _assemble(room, members, self.keys)
                warnings[type_] = assembly.warnings
                for volume in assembly.volumes:
                    self._volumes[volume.name] = volume
                    self._devices[volume.name] = volume.device
            if len(self._devices) == before:
                break
        for messages in warnings.values():
            self.warnings.extend(messages)

    def _holds(self, device: str, type_: str) -> bool:
        identity = self.identity(device)
        return identity is not None and identity.type == type_

    def parents(self, device: str) -> tuple[str, ...]:
        """The devices that `device` lies on: those of a volume, the disk of a partition."""
        if device in self._volumes:
            return self._volumes[device].parents
        if device in self._partitions:
            return (device.rstrip("0123456789"),)
        return ()

    @property
    def devices(self) -> dict[str, BlockDevice]:
        """Every device that may hold a filesystem, by name: disks and partitions in their order, then volumes."""
        return dict(self._devices)

    def partition(self, device: str) -> Partition | None:
        """The partition that `device` is, or None for a whole disk."""
        return self._partitions.get(device)

    def found(self) -> Iterator[FoundFilesystem]:
        """What each device holds, without opening it."""
        for name, device in self._devices.items():
            yield FoundFilesystem(name, device.size, self.identity(name))

    def identity(self, device: str) -> Identity | None:
        """What `device` holds; a device that cannot be identified is a warning and None."""
        if device not in self._identities:
            try:
                self._identities[device] = FileSystem.identify(self._devices[device])
            except GuestctlError as error:
                self._identities[device] = None
                self.warnings.append(f"{device}: {error}")
        return self._identities[device]

    def filesystem(self, device: str) -> FileSystem[Any]:
        """The filesystem on `device`, opened once. Raises as `FileSystem.detect`."""
        if device not in self._devices:
            known = ", ".join(self._devices)
            raise DetectionError(f"no device {device} in this machine (there are: {known})")
        if device in self._failures:
            raise self._failures[device]
        if device not in self._filesystems:
            try:
                self._filesystems[device] = FileSystem.detect(self._devices[device], options=self.options)
            except GuestctlError as error:
                self._failures[device] = error
                raise
        return self._filesystems[device]

    def usage(self, device: str) -> Usage | None:
        """Bytes used on `device`, or None where its filesystem cannot be read."""
        filesystem = self._try_filesystem(device)
        if filesystem is None:
            return None
        try:
            return filesystem.usage()
        except GuestctlError as error:
            self.warnings.append(f"{device}: {error}")
            return None

    def guests(self) -> list[Guest]:
        """Each root filesystem with its mount points assembled into one tree."""
        guests = []
        for device in self._devices:
            identity = self.identity(device)
            if identity is not None and identity.usage in ("raid", "crypto"):
                continue
            filesystem = self._try_filesystem(device)
            if filesystem is not None and self._guarded(device, filesystem, _is_linux_root):
                guests.append(self._assemble(device, filesystem))
        return guests

    def image_files(self) -> list[str]:
        """The host files that the disks are read from, backing files included."""
        files = []
        for disk in self.disks:
            reader: DiskReader | None = disk.reader
            while reader is not None:
                files.append(reader.path)
                reader = reader.backing
        return files

    def all_warnings(self) -> list[str]:
        """Those of the machine and of every filesystem opened so far."""
        return self.warnings + [
            f"{device}: {warning}"
            for device, filesystem in self._filesystems.items()
            for warning in filesystem.warnings
        ]

    def find_device(self, spec: str) -> str | None:
        """The device that an fstab or kernel command line names: ``UUID=…``, ``/dev/vda1``, ``/dev/disk/by-…``."""
        key, equals, value = spec.partition("=")
        value = value.strip('"')
        if equals and key in _TAGS:
            return self._find_by(key, value)
        if spec.startswith("/dev/disk/by-"):
            kind, _, value = spec.removeprefix("/dev/disk/by-").partition("/")
            if kind.upper() in _TAGS:
                return self._find_by(kind.upper(), _unescape_udev(value))
            # by-id and by-path name a disk in ways that the image does not record.
            number = value.rpartition("-part")[2]
            return f"/dev/sda{number}" if len(self.disks) == 1 and f"/dev/sda{number}" in self._devices else None
        if spec in self._devices:
            return spec
        if spec.startswith("/dev/mapper/"):
            return self._find_mapped(spec.removeprefix("/dev/mapper/"))
        name = _as_sd_name(spec)
        return name if name in self._devices else None

    def _find_mapped(self, name: str) -> str | None:
        """A logical volume by the name the device mapper gives it: ``VG-LV``, hyphens inside doubled."""
        for device in self._volumes:
            group, slash, volume = device.removeprefix("/dev/").partition("/")
            if slash and f"{group.replace('-', '--')}-{volume.replace('-', '--')}" == name:
                return device
        return None

    def _find_by(self, tag: str, value: str) -> str | None:
        for name in self._devices:
            partition = self._partitions.get(name)
            if tag == "PARTUUID":
                found = partition.uuid if partition else None
            elif tag == "PARTLABEL":
                found = partition.name if partition else None
            else:
                identity = self.identity(name)
                found = (identity.label if tag == "LABEL" else identity.uuid) if identity else None
            if found == value or (tag.endswith("UUID") and found and found.lower() == value.lower()):
                return name
        return None

    def _try_filesystem(self, device: str) -> FileSystem[Any] | None:
        known_failure = device in self._failures
        try:
            return self.filesystem(device)
        except DetectionError:
            return None
        except GuestctlError as error:
            if not known_failure:
                self.warnings.append(f"{device}: {error}")
            return None

    def _guarded(self, device: str, filesystem: FileSystem[Any], question: Any) -> bool:
        try:
            return bool(question(filesystem))
        except (GuestctlError, OSError) as error:
            self.warnings.append(f"{device}: {error}")
            return False

    def _assemble(self, root: str, filesystem: FileSystem[Any]) -> Guest:
        tree = MountTree(filesystem)
        mountpoints = {"/": root}
        for entry in self._fstab(root, filesystem):
            device = self.find_device(entry.spec)
            if device is None or entry.mountpoint == "/":
                continue
            mounted = self._try_filesystem(device)
            if mounted is None:
                continue
            try:
                tree.mount(entry.mountpoint, mounted)
            except (OSError, GuestctlError) as error:
                self.warnings.append(f"{root}: cannot mount {device} on {entry.mountpoint}: {error}")
            else:
                mountpoints[entry.mountpoint] = device
        return Guest(root, mountpoints, tree if len(mountpoints) > 1 else filesystem)

    def _fstab(self, root: str, filesystem: FileSystem[Any]) -> list[FstabEntry]:
        try:
            text = filesystem.read_text("/etc/fstab", limit=_MAX_FSTAB_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, GuestctlError) as error:
            self.warnings.append(f"{root}: /etc/fstab: {error}")
            return []
        entries = list(islice(parse_fstab(text), _MAX_FSTAB_ENTRIES + 1))
        if len(entries) > _MAX_FSTAB_ENTRIES:
            self.warnings.append(f"{root}: /etc/fstab: only the first {_MAX_FSTAB_ENTRIES} entries are mounted")
            del entries[_MAX_FSTAB_ENTRIES:]
        # Parents before children, whatever order the file has them in.
        return sorted(entries, key=lambda entry: entry.mountpoint.count("/") if entry.mountpoint != "/" else 0)

    def close(self) -> None:
        """Close the filesystems and the disks."""
        for filesystem in self._filesystems.values():
            filesystem.close()
        for disk in self.disks:
            disk.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _assemble(room: str, members: Sequence[Member], keys: Keys) -> Assembly:
    try:
        module = importlib.import_module(f"guestctl.disk.volumes.{room}")
    except ModuleNotFoundError as error:
        if error.name != f"guestctl.disk.volumes.{room}":
            raise
        return Assembly((), [f"{member.name}: cannot be assembled yet" for member in members])
    assembly: Assembly = module.assemble(members, keys)
    return assembly


_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")


def _is_linux_root(filesystem: FileSystem[Any]) -> bool:
    if not filesystem.is_dir("/etc"):
        return False
    if not (filesystem.is_dir("/bin") or filesystem.is_symlink("/bin") or filesystem.is_dir("/usr/bin")):
        return False
    return any(
        filesystem.exists(path)
        for path in ("/etc/fstab", "/etc/os-release", "/usr/lib/os-release", "/etc/passwd", "/etc/hosts")
    )


def _letters(index: int) -> str:
    letters = ""
    index += 1
    while index:
        index, remainder = divmod(index - 1, 26)
        letters = chr(ord("a") + remainder) + letters
    return letters


def _as_sd_name(spec: str) -> str | None:
    """``/dev/vda1``, ``/dev/xvda1``, ``/dev/hda1``, ``/dev/nvme0n1p1`` and ``/dev/mmcblk0p1`` as ``/dev/sda1``."""
    import re

    match = re.fullmatch(r"/dev/(?:vd|xvd|hd|sd)([a-z]{1,3})(\d*)", spec)
    if match:
        return f"/dev/sd{match[1]}{match[2]}"
    match = re.fullmatch(r"/dev/(?:nvme(\d{1,3})n1|mmcblk(\d{1,3}))(?:p(\d+))?", spec)
    if match:
        return f"/dev/sd{_letters(int(match[1] or match[2]))}{match[3] or ''}"
    return None


def _unescape_udev(name: str) -> str:
    """udev writes characters of a label that are not plain as ``\\x20``."""
    import re

    raw = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), name)
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name
