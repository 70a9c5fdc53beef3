"""``NtfsFileSystem``: an NTFS volume that is read.

Files look as on an ntfs-3g mount with its default options: root owns all, everything is allowed,
metafiles are not listed (and found by name), named streams are extended attributes ``user.NAME``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from guestctl.block import BlockDevice
from guestctl.block.bitmap import BitRuns
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Options, Usage
from guestctl.disk.filesystems.ntfs import layout as L
from guestctl.disk.filesystems.ntfs.attributes import decode_name, encode_name, units
from guestctl.disk.filesystems.ntfs.boot_sector import BootSector, read_boot_sector
from guestctl.disk.filesystems.ntfs.index import Entries, Index
from guestctl.disk.filesystems.ntfs.logfile import is_clean
from guestctl.disk.filesystems.ntfs.mft import Located, MasterFileTable
from guestctl.disk.filesystems.ntfs.reparse import Reparse, parse_extended_attributes, parse_reparse, parse_target
from guestctl.disk.filesystems.ntfs.stat import DIRECTORY_MODE, REGULAR_MODE, NtfsStat

_MAX_XATTR_BYTES = 64 << 10  # Linux gives no more
_BITMAP_CHUNK_BYTES = 1 << 20
_HIBERNATED = (b"hibr", b"HIBR", b"RSTR")
_ELSEWHERE = ".NTFS-3G"  # ntfs-3g's name for what lies on other drives


class NtfsFileSystem(FileSystem[int]):
    """An open volume; nodes are references to file records, or just their numbers. `open_filesystem` makes it."""

    type = "ntfs"
    root = L.ROOT

    def __init__(self, device: BlockDevice, boot: BootSector) -> None:
        self.warnings = []
        self.block_size = boot.cluster_size
        self.size = boot.size
        self.uuid = boot.uuid
        self.record_size = boot.record_size
        self._mft = MasterFileTable(device, boot, self.warnings)
        self._boot = boot
        self._stat = self._stat_reader()
        self.node_stat = self._stat  # type: ignore[assignment, method-assign]  # a walk asks for every file's
        self._upcase_table: Sequence[int] | None = None
        self.volume_version: tuple[int, int] | None = None
        if self.size > device.size:
            self.warnings.append(f"the volume has {self.size} bytes, its device {device.size}")
        self._read_volume()
        self._look_for_hibernation()

    # The volume

    def _read_volume(self) -> None:
        try:
            self.label = read_label(self._mft)
            located = self._mft.locate(L.VOLUME, L.VOLUME_INFORMATION)
            value = located.attribute.value if located else None
            if value is None or len(value) < L.VOLUME_FIELDS.size:
                self.warnings.append("$Volume does not tell the version")
                return
            major, minor, flags = L.VOLUME_FIELDS.unpack_from(value)
        except InvalidFormat as error:
            self.warnings.append(f"$Volume cannot be read: {error}")
            return
        self.volume_version = (major, minor)
        if (major, minor) > (3, 1):
            raise UnsupportedFeature(f"NTFS {major}.{minor}", feature="NTFS version")
        if flags & L.VOLUME_DIRTY:
            self.warnings.append("the volume is dirty: Windows is to check it")
        try:
            clean = is_clean(self._mft)
        except InvalidFormat as error:
            self.warnings.append(f"$LogFile cannot be read: {error}")
        else:
            if not clean:
                self.warnings.append("the volume is dirty: its log holds changes that are not replayed")

    def _look_for_hibernation(self) -> None:
        try:
            node = self.node_lookup(L.ROOT, "hiberfil.sys")
            head = b""
            if node is not None:
                data = self.node_data(node)
                head = bytes(data.read(0, min(4, data.size)))
        except (GuestctlError, OSError):
            return  # whoever lists the root will see what is wrong
        if head in _HIBERNATED:
            self.warnings.append("Windows is hibernated: hiberfil.sys holds what the volume does not have yet")

    def usage(self) -> Usage:
        free = self._clear_bits(L.BITMAP, L.DATA, self._boot.clusters)
        located = self._mft.locate(L.MFT, L.BITMAP_ATTRIBUTE)
        # A table grows as long as clusters are free, which ntfs-3g counts in.
        records = located.attribute.allocated * 8 if located is not None else self._mft.count
        free_records = self._clear_bits(L.MFT, L.BITMAP_ATTRIBUTE, records)
        return Usage(
            size=self._boot.clusters * self.block_size,
            used=(self._boot.clusters - free) * self.block_size,
            available=free * self.block_size,
            inodes=records + free * self.block_size // self.record_size,
            inodes_used=records - free_records,
        )

    def _bitmap(self, node: int, kind: int) -> BlockDevice:
        located = self._mft.locate(node, kind)
        if located is None:
            raise self._mft.bad(node, "has no bitmap")
        return self._mft.open(node, located)

    def _clear_bits(self, node: int, kind: int, count: int) -> int:
        bitmap = self._bitmap(node, kind)
        length = min(bitmap.size, (count + 7) // 8)
        used = 0
        for start in range(0, length, _BITMAP_CHUNK_BYTES):
            bits = int.from_bytes(bitmap.read(start, min(_BITMAP_CHUNK_BYTES, length - start)), "little")
            used += (
                (bits & ((1 << (count - start * 8)) - 1)).bit_count()
                if count - start * 8 < 8 << 20
                else bits.bit_count()
            )
        return max(0, count - used)

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        if any("dirty" in warning for warning in self.warnings):
            raise UnsupportedFeature("the free clusters of a volume that is dirty", feature="free blocks")
        return self._free_ranges()

    def _free_ranges(self) -> Iterator[tuple[int, int]]:
        bitmap = self._bitmap(L.BITMAP, L.DATA)
        unit = self.block_size
        length = min(bitmap.size, self._boot.clusters // 8)
        for start in range(0, length, _BITMAP_CHUNK_BYTES):
            part = bitmap.read(start, min(_BITMAP_CHUNK_BYTES, length - start))
            runs = BitRuns(part, len(part) * 8, "little")
            at = 0
            while at < len(part) * 8:
                run = runs.at(at)
                if not run.is_set:
                    yield (start * 8 + run.start) * unit, (run.end - run.start) * unit
                at = run.end

    # Attributes of files

    def node_stat(self, node: int) -> NtfsStat:
        return self._stat(node)

    def _stat_reader(self) -> Callable[[int], NtfsStat]:
        """`node_stat`, with what it looks at for every file at hand."""
        chunks, shift, record_size = self._mft.chunks, self._mft.shift, self.record_size
        index_mask, number_mask, reference_bits = (1 << shift) - 1, L.RECORD_NUMBER_MASK, L.REFERENCE_BITS
        unpack, special, unusual = L.USUAL_RECORD.unpack_from, L.ATTR_SYSTEM | L.ATTR_REPARSE, self._unusual_stat
        mode_of = {L.IN_USE: REGULAR_MODE, L.IN_USE | L.IS_DIRECTORY: DIRECTORY_MODE}.get
        times_offset = L.USUAL_FIRST_ATTRIBUTE + L.USUAL_VALUE_OFFSET
        load, count = self._mft.load, self._mft.count

        def node_stat(node: int) -> NtfsStat:
            number = node & number_mask
            if number >= count:
                return unusual(node)
            chunk = chunks.get(number >> shift) or load(number >> shift)
            if not chunk[2]:
                return unusual(node)
            data = chunk[0]
            at = (number & index_mask) * record_size
            sequence, flags, attributes = unpack(data, at)
            mode = mode_of(flags)
            expected = node >> reference_bits
            if not mode or attributes & special or (expected != sequence and expected):
                return unusual(node)
            return NtfsStat(self, number, mode, data, at, at + times_offset)

        return node_stat

    def _unusual_stat(self, node: int) -> NtfsStat:
        data, at = self._mft.place(node)
        flags, base = L.RECORD.unpack_from(data, at)[6], L.RECORD.unpack_from(data, at)[8]
        if base:
            raise self._mft.bad(node, "an extension of another record")
        located = self._mft.locate(node, L.STANDARD_INFORMATION)
        value = located.attribute.value if located is not None else None
        if located is None or value is None or len(value) < L.FILE_ATTRIBUTES_OFFSET + 4:
            raise self._mft.bad(node, "has no $STANDARD_INFORMATION")
        attributes = int.from_bytes(value[L.FILE_ATTRIBUTES_OFFSET : L.FILE_ATTRIBUTES_OFFSET + 4], "little")
        mode = DIRECTORY_MODE if flags & L.IS_DIRECTORY else REGULAR_MODE
        if attributes & L.ATTR_REPARSE:
            reparse = self._reparse(node)
            if reparse is not None and reparse.kind:
                # ntfs-3g gives special files of WSL no permissions.
                mode = reparse.kind | 0o777 if reparse.kind == stat.S_IFLNK else reparse.kind
        elif attributes & L.ATTR_SYSTEM and not flags & L.IS_DIRECTORY:
            mode = self._interix_kind(node) | 0o777
        return self._stat_at(node, mode, data, at, value)

    def _stat_at(self, node: int, mode: int, data: bytes, at: int, value: bytes) -> NtfsStat:
        """The attributes of a record whose times are not in their usual place: they are put behind it."""
        record = data[at : at + self.record_size] + value
        return NtfsStat(self, node & L.RECORD_NUMBER_MASK, mode, record, 0, self.record_size)

    def sizes(self, node: int, mode: int) -> tuple[int, int]:
        """Bytes of a file and of its clusters, where `NtfsStat` does not find them by itself."""
        if mode >> 12 == 0xA:
            located = self._mft.locate(node, L.DATA)
            size = len(os.fsencode(self.node_target(node)))
        elif mode >> 12 == 0x4:
            located = self._mft.locate(node, L.INDEX_ALLOCATION, "$I30")
            size = located.attribute.size if located is not None else 0
        else:
            located = self._mft.locate(node, L.DATA)
            size = located.attribute.size if located is not None else 0
        return size, located.attribute.allocated if located is not None else 0

    def _reparse(self, node: int) -> Reparse | None:
        located = self._mft.locate(node, L.REPARSE_POINT)
        if located is None:
            return None
        if located.attribute.size > L.MAX_REPARSE_BYTES + L.REPARSE_BYTES + L.REPARSE_GUID_BYTES:
            raise self._mft.bad(node, f"a reparse point of {located.attribute.size} bytes")
        return parse_reparse(self._mft.value(located), located.attribute.offset)

    def _interix(self, node: int) -> bytes | None:
        """The content of a file with the system attribute, where it is short enough to be a special one."""
        located = self._mft.locate(node, L.DATA)
        if located is None or located.attribute.size > L.MAX_INTERIX_BYTES or located.attribute.encrypted:
            return None
        return self._mft.value(located)

    def _interix_kind(self, node: int) -> int:
        content = self._interix(node)
        if content is None:
            return stat.S_IFREG
        if len(content) < 2:
            return stat.S_IFSOCK if content else stat.S_IFIFO
        if content.startswith(L.INTERIX_LINK) and len(content) > len(L.INTERIX_LINK):
            return stat.S_IFLNK
        if len(content) == L.INTERIX_DEVICE.size:
            if content.startswith(L.INTERIX_CHR):
                return stat.S_IFCHR
            if content.startswith(L.INTERIX_BLK):
                return stat.S_IFBLK
        return stat.S_IFREG

    def device_number(self, node: int) -> int:
        """What a device file stands for, as os.makedev."""
        content = self._interix(node)
        if content is None or len(content) != L.INTERIX_DEVICE.size:
            value = self.extended_attributes(node).get(L.LX_DEVICE_NAME, b"")
            return os.makedev(*L.LX_DEVICE.unpack(value)) if len(value) == L.LX_DEVICE.size else 0
        major, minor = L.INTERIX_DEVICE.unpack_from(content)
        return os.makedev(major & 0xFFF, minor & 0xFFFFF)

    def extended_attributes(self, node: int) -> dict[bytes, bytes]:
        """The $EA of a file, which are those of OS/2 and WSL. Raises `InvalidFormat`."""
        located = self._mft.locate(node, L.EXTENDED_ATTRIBUTES)
        if located is None:
            return {}
        if located.attribute.size > L.MAX_EA_BYTES:
            raise self._mft.bad(node, f"{located.attribute.size} bytes of extended attributes")
        return parse_extended_attributes(self._mft.value(located), located.attribute.offset)

    # Directories

    def node_entries(self, node: int) -> Iterable[tuple[str, int, int]]:
        """The names in a directory. A damaged block fails alone: its error is raised after the others' names."""
        return chain.from_iterable(self._listing_parts(node))

    def _listing_parts(self, node: int) -> Iterator[Entries]:
        index = self._directory_index(node)
        damage: InvalidFormat | None = None
        for block in index.nodes():
            try:
                yield index.names(block)
            except InvalidFormat as error:
                damage = damage or error
        if damage is not None:
            raise damage

    def _directory_index(self, node: int) -> Index:
        data, at = self._mft.place(node)
        if not L.RECORD.unpack_from(data, at)[6] & L.IS_DIRECTORY:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Index(self._mft, node)

    def node_lookup(self, node: int, name: str) -> int | None:
        """The file that `name` means, whatever its case, or by its short name; an exact match is preferred."""
        found = self._find(node, name)
        return found[0] if found is not None else None

    def _find(self, node: int, name: str) -> tuple[int, str] | None:
        """A file by its name, and the name as it is stored."""
        encoded = encode_name(name)
        if not encoded or len(encoded) > 2 * L.MAX_NAME:
            return None
        upcase = self._upcase().__getitem__
        target = list(map(upcase, units(encoded)))
        found: tuple[int, str] | None = None
        for data, at in self._directory_index(node).search(target, lambda *entry: list(map(upcase, _key(*entry)))):
            stored = data[at + L.NAME_ENTRY_BYTES : at + L.NAME_ENTRY_BYTES + len(encoded)]
            if found is None or stored == encoded:
                found = int.from_bytes(data[at : at + 8], "little"), decode_name(stored)
            if stored == encoded:
                break
        return found

    def _upcase(self) -> Sequence[int]:
        """Upper case by UTF-16 unit, as $UpCase of this volume has it."""
        if self._upcase_table is None:
            try:
                located = self._mft.locate(L.UPCASE, L.DATA)
                if located is None or located.attribute.size != L.UPCASE_BYTES:
                    raise self._mft.bad(L.UPCASE, "$UpCase has no table")
                self._upcase_table = units(self._mft.value(located))
            except InvalidFormat as error:
                self.warnings.append(f"names are compared by Unicode's rules: {error}")
                self._upcase_table = [_upper(unit) for unit in range(1 << 16)]
        return self._upcase_table

    # Links

    def node_target(self, node: int) -> str:
        """Where a link points, as ntfs-3g shows it on a mount at the root of the guest.

        An absolute target that is on this volume becomes a path from its root, in the case that the names
        have; one that is not, ``/.NTFS-3G/`` and the drive. A broken relative one stays as it is.
        """
        reparse = self._reparse(node)
        if reparse is None or reparse.kind != stat.S_IFLNK:
            content = self._interix(node) or b""
            if not content.startswith(L.INTERIX_LINK):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return decode_name(content[len(L.INTERIX_LINK) : len(content) & ~1])
        target = parse_target(reparse)
        if target.text is not None:
            return target.text
        if not target.device:
            start = self._parent(node)
            names = None if start is None else self._stored_names(start, target.parts)
            return "/".join(names or target.parts) or "."
        on_this_volume = target.device == "/" or target.device[1:] == ":"
        names = self._stored_names(L.ROOT, target.parts) if on_this_volume and target.parts else None
        if names is not None or target.device == "/":
            return "/" + "/".join(names or target.parts)
        bare_drive = on_this_volume and not target.parts
        return "/".join(["", _ELSEWHERE, target.device, *target.parts]) + ("/" if bare_drive else "")

    def _stored_names(self, node: int, parts: list[str]) -> list[str] | None:
        """The names of a path from `node` on as they are stored, or None where it leads nowhere."""
        names = []
        for part in parts:
            if part in (".", ".."):
                name, child = part, node if part == "." else self._parent(node)
            else:
                try:
                    found = self._find(node, part)
                except (OSError, InvalidFormat):
                    return None
                child, name = found or (None, part)
            if child is None:
                return None
            names.append(name)
            node = child
        return names

    def _parent(self, node: int) -> int | None:
        """The directory that the first name of a file is in."""
        try:
            located = self._mft.locate(node, L.FILE_NAME)
        except InvalidFormat:
            return None
        value = located.attribute.value if located is not None else None
        return int.from_bytes(value[:8], "little") if value else None

    # Data

    def _located(self, node: int, kind: int, name: str = "") -> Located:
        located = self._mft.locate(node, kind, name)
        if located is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return located

    def node_data(self, node: int) -> BlockDevice:
        mode = self.node_stat(node).st_mode
        if mode >> 12 != 0x8:
            raise OSError(errno.EINVAL, "Not a regular file")
        reparse = self._reparse(node)
        if reparse is not None and reparse.tag == L.TAG_DEDUP:
            raise UnsupportedFeature(f"record {node & L.RECORD_NUMBER_MASK} is deduplicated", feature="deduplication")
        located = self._located(node, L.DATA)
        if reparse is not None and reparse.tag == L.TAG_WOF:
            from guestctl.disk.filesystems.ntfs import wof

            return wof.open_compressed(reparse, located.attribute.size, self._wof_stream(node))
        return self._mft.open(node, located)

    def _wof_stream(self, node: int) -> BlockDevice:
        located = self._mft.locate(node, L.DATA, L.WOF_STREAM)
        if located is None:
            raise self._mft.bad(node, f"is compressed by WOF and has no {L.WOF_STREAM}")
        return self._mft.open(node, located)

    def streams(self, node: int) -> list[str]:
        """The names of a file's alternate data streams."""
        return [name for name in self._mft.names(node, L.DATA) if name]

    def node_stream(self, node: int, name: str) -> BlockDevice:
        """The bytes of an alternate data stream."""
        return self._mft.open(node, self._located(node, L.DATA, name))

    def node_xattrs(self, node: int) -> dict[str, bytes]:
        """Streams of up to 64 KiB as ``user.NAME``, without WOF's; `streams` names all."""
        if (node & L.RECORD_NUMBER_MASK) < L.FIRST_USER_RECORD and node & L.RECORD_NUMBER_MASK != L.ROOT:
            return {}
        found = {}
        for name in self.streams(node):
            if name == L.WOF_STREAM:
                continue
            located = self._located(node, L.DATA, name)
            if located.attribute.size <= _MAX_XATTR_BYTES and not located.attribute.encrypted:
                found[f"user.{name}"] = self._mft.value(located)
        return found

    def security(self, node: int) -> str | None:
        """The security descriptor of a file as SDDL, or None where it has none. Raises `InvalidFormat`."""
        from guestctl.disk.filesystems.ntfs import security

        information = self._mft.locate(node, L.STANDARD_INFORMATION)
        value = information.attribute.value if information is not None else None
        # Before version 3.0 the attribute ended sooner, and each file had its own descriptor.
        number = int.from_bytes((value or b"")[L.SECURITY_ID_OFFSET : L.SECURITY_ID_OFFSET + 4], "little")
        if number:
            return security.to_sddl(*security.find_descriptor(self._mft, number))
        located = self._mft.locate(node, L.SECURITY_DESCRIPTOR)
        if located is None:
            return None
        if located.attribute.size > L.MAX_DESCRIPTOR_BYTES:
            raise self._mft.bad(node, f"a security descriptor of {located.attribute.size} bytes")
        return security.to_sddl(self._mft.value(located), located.attribute.offset)


def _key(data: bytes, at: int, key_length: int) -> tuple[int, ...]:
    """The name of an index entry in a directory, in units of UTF-16."""
    start = at + L.NAME_ENTRY_BYTES
    if key_length < L.NAME_OFFSET + 2 * data[at + L.NAME_LENGTH_OFFSET]:
        raise InvalidFormat("a name longer than its key", structure="index $I30", offset=0)
    return units(data[start : start + 2 * data[at + L.NAME_LENGTH_OFFSET]])


def _upper(unit: int) -> int:
    upper = chr(unit).upper()
    return ord(upper) if len(upper) == 1 and ord(upper) < 1 << 16 else unit


def read_label(mft: MasterFileTable) -> str | None:
    """The name in $Volume. Raises `InvalidFormat`."""
    located = mft.locate(L.VOLUME, L.VOLUME_NAME)
    if located is None or not located.attribute.value:
        return None
    value = located.attribute.value
    return decode_name(value[: len(value) & ~1]).partition("\0")[0] or None


def open_filesystem(device: BlockDevice, options: Options) -> NtfsFileSystem:
    """Raises `InvalidFormat` and `UnsupportedFeature`."""
    return NtfsFileSystem(device, read_boot_sector(device))
