"""The headers of sparse extents: hosted (``KDMV``), COWD and seSparse, each parsed into a `SparseLayout`."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, replace

from guestctl.block.device import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.vmdk import layout
from guestctl.disk.formats.vmdk.layout import SECTOR_BYTES

# VMware and qemu-img write 64 KiB. A compressed grain is in memory as a whole.
_MAX_GRAIN_SECTORS = (16 << 20) // SECTOR_BYTES
# 64 TiB of seSparse, 256 TiB of hosted sparse extents with grains of 64 KiB.
_MAX_DIRECTORY_BYTES = 32 << 20
_MAX_SECTOR = (1 << 62) // SECTOR_BYTES
_KNOWN_FLAGS = (
    layout.FLAG_NEWLINE_TEST
    | layout.FLAG_REDUNDANT_TABLES
    | layout.FLAG_ZEROED_GRAINS
    | layout.FLAG_COMPRESSED
    | layout.FLAG_MARKERS
)


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """Where the tables of a sparse extent lie and how they are to be read; offsets and sizes in bytes."""

    kind: str  # "hosted", "COWD" or "seSparse"
    capacity: int
    grain_bytes: int
    entries_per_table: int
    directory_offset: int
    redundant_offset: int | None = None
    zeroed_grains: bool = False
    compressed: bool = False
    unclean: bool = False
    descriptor_offset: int = 0
    descriptor_bytes: int = 0
    tables_offset: int = 0  # seSparse: what a grain directory entry counts from
    tables_bytes: int = 0
    grains_offset: int = 0  # seSparse: what a grain table entry counts from

    @property
    def entry_bytes(self) -> int:
        return 8 if self.kind == "seSparse" else 4

    @property
    def table_bytes(self) -> int:
        return self.entries_per_table * self.entry_bytes

    @property
    def directory_entries(self) -> int:
        return -(-self.capacity // (self.grain_bytes * self.entries_per_table))


def read_sparse_layout(device: BlockDevice) -> tuple[SparseLayout, list[str]]:
    """The layout of the sparse extent in `device`, whatever its kind, and warnings."""
    magic = bytes(device.read(0, min(8, device.size)))
    if magic[:4] == layout.SPARSE_MAGIC:
        return _read_hosted(device)
    if magic[:4] == layout.COWD_MAGIC:
        found = _read_cowd(device)
    elif magic == layout.SESPARSE_MAGIC_BYTES:
        found = _read_sesparse(device)
    else:
        raise _invalid("neither KDMV nor COWD nor seSparse", "extent header", 0, actual=magic)
    _check_directory(device, found, found.directory_offset)
    return found, []


def parse_hosted(data: bytes, offset: int = 0) -> SparseLayout:
    """SparseExtentHeader, from the header of a file or from the footer at `offset`.

    ``directory_offset`` is -1 where the grain directory is at the end (GD_AT_END).
    """
    name = "footer" if offset else "SparseExtentHeader"
    (
        magic,
        version,
        flags,
        capacity,
        grain_sectors,
        descriptor_offset,
        descriptor_sectors,
        entries,
        redundant,
        directory,
        _,
        unclean,
        newlines,
        algorithm,
    ) = layout.SPARSE_HEADER.unpack(data)
    if magic != layout.SPARSE_MAGIC:
        raise _invalid("no magic", name, offset, expected=layout.SPARSE_MAGIC, actual=magic)
    if not 1 <= version <= layout.MAX_SPARSE_VERSION:
        raise UnsupportedFeature(f"sparse extents of version {version}", feature=f"sparse extent version {version}")
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedFeature(f"sparse extent flags {flags & ~_KNOWN_FLAGS:#x}", feature=f"flags {flags:#x}")
    if flags & layout.FLAG_NEWLINE_TEST and newlines != layout.NEWLINE_TEST:
        raise _invalid("damaged by a transfer as text", name, offset + 73, layout.NEWLINE_TEST, newlines)
    if not 0 < entries <= layout.ENTRIES_PER_TABLE:
        raise _invalid(f"grain tables of {entries} entries", name, offset + 44, layout.ENTRIES_PER_TABLE, entries)
    _check_size(capacity, grain_sectors, name, offset + 12)
    compressed = bool(flags & layout.FLAG_COMPRESSED)
    if compressed and algorithm != layout.COMPRESSION_DEFLATE:
        raise UnsupportedFeature(f"compression algorithm {algorithm}", feature=f"compression {algorithm}")
    if compressed and not flags & layout.FLAG_MARKERS:
        raise UnsupportedFeature("compressed grains without markers", feature="compression without markers")
    has_redundant = flags & layout.FLAG_REDUNDANT_TABLES and redundant not in (0, layout.GD_AT_END)
    return SparseLayout(
        kind="hosted",
        capacity=capacity * SECTOR_BYTES,
        grain_bytes=grain_sectors * SECTOR_BYTES,
        entries_per_table=entries,
        directory_offset=-1 if directory == layout.GD_AT_END else directory * SECTOR_BYTES,
        redundant_offset=redundant * SECTOR_BYTES if has_redundant else None,
        zeroed_grains=bool(flags & layout.FLAG_ZEROED_GRAINS),
        compressed=compressed,
        unclean=bool(unclean),
        descriptor_offset=descriptor_offset * SECTOR_BYTES,
        descriptor_bytes=descriptor_sectors * SECTOR_BYTES if descriptor_offset else 0,
    )


def build_header(
    *,
    version: int,
    flags: int,
    capacity: int,
    descriptor_sectors: int,
    redundant: int,
    directory: int,
    overhead: int,
) -> bytes:
    """SparseExtentHeader; places and sizes are in sectors. A descriptor stands behind the header."""
    return layout.SPARSE_HEADER.pack(
        layout.SPARSE_MAGIC,
        version,
        flags,
        capacity,
        layout.GRAIN_SECTORS,
        1 if descriptor_sectors else 0,
        descriptor_sectors,
        layout.ENTRIES_PER_TABLE,
        redundant,
        directory,
        overhead,
        0,
        layout.NEWLINE_TEST,
        layout.COMPRESSION_DEFLATE if flags & layout.FLAG_COMPRESSED else layout.COMPRESSION_NONE,
    )


def to_little_endian(entries: array[int]) -> bytes:
    """A directory or table as it stands in a file."""
    if sys.byteorder == "big":
        entries = entries[:]
        entries.byteswap()
    return entries.tobytes()


def _read_hosted(device: BlockDevice) -> tuple[SparseLayout, list[str]]:
    found = parse_hosted(_read(device, 0, SECTOR_BYTES, "SparseExtentHeader"))
    if found.directory_offset < 0:
        footer_offset = device.size - layout.FOOTER_DISTANCE
        if footer_offset < SECTOR_BYTES:
            raise _invalid("the file ends before its footer", "footer", max(footer_offset, 0))
        footer = parse_hosted(_read(device, footer_offset, SECTOR_BYTES, "footer"), footer_offset)
        if footer.directory_offset < 0 or footer.capacity != found.capacity or footer.grain_bytes != found.grain_bytes:
            raise _invalid("contradicts the header", "footer", footer_offset)
        found = replace(found, directory_offset=footer.directory_offset, redundant_offset=footer.redundant_offset)
    if not found.capacity:
        return found, []
    return _choose_directory(device, found)


def _choose_directory(device: BlockDevice, found: SparseLayout) -> tuple[SparseLayout, list[str]]:
    """The primary grain directory unless it cannot be one; a redundant one that cannot be is left out."""
    redundant = found.redundant_offset
    try:
        _check_directory(device, found, redundant)
    except InvalidFormat:
        redundant = None
    try:
        _check_directory(device, found, found.directory_offset)
    except InvalidFormat as error:
        if redundant is None:
            raise
        return replace(found, directory_offset=redundant, redundant_offset=None), [
            f"{error}; the redundant grain directory is used"
        ]
    return replace(found, redundant_offset=redundant), []


def _read_cowd(device: BlockDevice) -> SparseLayout:
    name = "COWDisk_Header"
    data = _read(device, 0, layout.COWD_HEADER_BYTES, name)
    _, version, _, capacity, grain_sectors, directory, entries, _ = layout.COWD_HEADER.unpack_from(data)
    if version != 1:
        raise UnsupportedFeature(f"COWD extents of version {version}", feature=f"COWD version {version}")
    _check_size(capacity, grain_sectors, name, 12)
    found = SparseLayout(
        kind="COWD",
        capacity=capacity * SECTOR_BYTES,
        grain_bytes=grain_sectors * SECTOR_BYTES,
        entries_per_table=layout.COWD_ENTRIES_PER_TABLE,
        directory_offset=directory * SECTOR_BYTES,
        unclean=bool(layout.COWD_UNCLEAN.unpack_from(data, layout.COWD_UNCLEAN_OFFSET)[0]),
    )
    if entries < found.directory_entries:
        raise _invalid("too small for the capacity", "numGDEntries", 24, found.directory_entries, entries)
    return found


def _read_sesparse(device: BlockDevice) -> SparseLayout:
    name = "constant header"
    values = layout.SESPARSE_HEADER.unpack_from(_read(device, 0, SECTOR_BYTES, name))
    version, capacity, grain_sectors, table_sectors, flags = values[1:6]
    volatile_offset = values[10]
    directory, directory_sectors, tables, tables_sectors = values[16:20]
    grains = values[24]
    if version != layout.SESPARSE_VERSION or flags or any(values[6:10]):
        raise UnsupportedFeature(
            f"seSparse extents of version {version:#x} with flags {flags:#x}", feature=f"seSparse version {version:#x}"
        )
    if grain_sectors != layout.SESPARSE_GRAIN_SECTORS or table_sectors != layout.SESPARSE_TABLE_SECTORS:
        raise UnsupportedFeature(
            f"seSparse grains of {grain_sectors} and grain tables of {table_sectors} sectors",
            feature="seSparse grain size",
        )
    _check_size(capacity, grain_sectors, name, 16)
    for index in (10, 16, 18, 19, 24):
        if values[index] > _MAX_SECTOR:
            raise _invalid(f"sector {values[index]:#x}", name, index * 8)
    found = SparseLayout(
        kind="seSparse",
        capacity=capacity * SECTOR_BYTES,
        grain_bytes=grain_sectors * SECTOR_BYTES,
        entries_per_table=table_sectors * SECTOR_BYTES // 8,
        directory_offset=directory * SECTOR_BYTES,
        tables_offset=tables * SECTOR_BYTES,
        tables_bytes=tables_sectors * SECTOR_BYTES,
        grains_offset=grains * SECTOR_BYTES,
    )
    if found.directory_entries * 8 > directory_sectors * SECTOR_BYTES:
        raise _invalid("too small for the capacity", "grain directory size", 136, found.directory_entries)
    _check_volatile_header(device, volatile_offset * SECTOR_BYTES)
    return found


def _check_volatile_header(device: BlockDevice, offset: int) -> None:
    data = _read(device, offset, layout.SESPARSE_VOLATILE_HEADER.size, "volatile header")
    magic, _, _, replay_journal = layout.SESPARSE_VOLATILE_HEADER.unpack(data)
    if magic != layout.SESPARSE_VOLATILE_MAGIC:
        raise _invalid("no magic", "volatile header", offset, layout.SESPARSE_VOLATILE_MAGIC, magic)
    if replay_journal:
        raise UnsupportedFeature("an seSparse extent whose journal is to be replayed", feature="seSparse journal")


def _check_size(capacity: int, grain_sectors: int, name: str, offset: int) -> None:
    if capacity > _MAX_SECTOR:
        raise _invalid(f"a capacity of {capacity} sectors", name, offset)
    if not 0 < grain_sectors <= _MAX_GRAIN_SECTORS or grain_sectors & (grain_sectors - 1):
        raise _invalid(f"grains of {grain_sectors} sectors", name, offset)


def _check_directory(device: BlockDevice, found: SparseLayout, offset: int | None) -> None:
    """Raise `InvalidFormat` unless a grain directory may lie at `offset`."""
    needed = found.directory_entries * found.entry_bytes
    if needed > _MAX_DIRECTORY_BYTES:
        raise _invalid(f"{needed} bytes", "grain directory", max(offset or 0, 0))
    if offset is None or not SECTOR_BYTES <= offset <= device.size - needed:
        raise _invalid(
            f"{needed} bytes do not lie in the file ({device.size} bytes)", "grain directory", max(offset or 0, 0)
        )


def _read(device: BlockDevice, offset: int, length: int, name: str) -> bytes:
    if offset + length > device.size:
        raise _invalid(f"the file ends before it ({device.size} bytes)", name, offset)
    return bytes(device.read(offset, length))


def _invalid(
    message: str, structure: str, offset: int, expected: object = None, actual: object = None
) -> InvalidFormat:
    return InvalidFormat(message, structure=structure, offset=offset, expected=expected, actual=actual)
