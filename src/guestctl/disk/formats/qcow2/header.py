"""The header of a qcow2 file and its extensions ("Header", "Header extensions").

Versions 2 and 3. Refused: other versions, incompatible features and compression types we do not
know, encryption methods other than AES and LUKS. Unknown extensions and fields are skipped, as the
specification allows. The last bytes of a disk whose size is no multiple of 512 are not part of it,
as in qemu.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from guestctl.block.device import BlockDevice, Buffer
from guestctl.core.errors import ConversionError, InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.layout import Incompatible

_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields under the specification's names; ``size`` in whole sectors of 512 bytes."""

    version: int
    backing_file_offset: int
    backing_file_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    nb_snapshots: int
    snapshots_offset: int
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = layout.DEFAULT_REFCOUNT_ORDER
    header_length: int = layout.HEADER_V2.size
    compression_type: int = layout.COMPRESSION_ZLIB

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def extended_l2(self) -> bool:
        return bool(self.incompatible_features & Incompatible.EXTENDED_L2)

    @property
    def has_data_file(self) -> bool:
        return bool(self.incompatible_features & Incompatible.DATA_FILE)

    @property
    def l2_bits(self) -> int:
        """Binary logarithm of the entries in an L2 table."""
        return self.cluster_bits - (4 if self.extended_l2 else 3)

    def l1_entries_for(self, size: int) -> int:
        """The entries of an L1 table that describe `size` bytes of disk."""
        return -(-size >> (self.cluster_bits + self.l2_bits))


@dataclass(frozen=True, slots=True)
class BitmapsExtension:
    nb_bitmaps: int
    bitmap_directory_size: int
    bitmap_directory_offset: int


@dataclass(slots=True)
class Extensions:
    """What stands in the first cluster besides the header; None where it does not."""

    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    feature_names: dict[tuple[int, int], str] | None = None
    bitmaps: BitmapsExtension | None = None
    encryption: tuple[int, int] | None = None  # offset and length of the encryption header


def read_header(device: BlockDevice) -> tuple[Header, Extensions]:
    """The header and extensions of the qcow2 file on `device`."""
    fixed = device.read(0, min(layout.COMPRESSION_TYPE_OFFSET + 8, device.size))
    header = parse_header(fixed)
    first = memoryview(device.read(0, min(header.cluster_size, device.size)))
    extensions = parse_extensions(first, header)
    _refuse_unknown_features(header, extensions)
    _check_l1(header, device.size)
    return header, extensions


def parse_header(buffer: Buffer) -> Header:
    """The fixed part of the header, which begins `buffer` (112 bytes, or all of a shorter file)."""
    if len(buffer) < layout.HEADER_V2.size:
        raise _invalid(f"the file ends after {len(buffer)} bytes", 0, expected=layout.HEADER_V2.size)
    magic, version, backing_offset, backing_size, cluster_bits, size, *rest = layout.HEADER_V2.unpack_from(buffer)
    if magic != layout.MAGIC:
        raise _invalid(f"magic is {magic!r}", 0, expected=layout.MAGIC, actual=magic)
    if version not in (2, 3):
        raise UnsupportedFeature(f"qcow version {version} (versions 2 and 3 are read)", feature=f"version {version}")
    fields = (backing_offset, backing_size, cluster_bits, size & -_SECTOR_BYTES, *rest)
    header = Header(version, *fields) if version == 2 else Header(version, *fields, *_parse_version_3(buffer))
    _check_fields(header)
    return header


def _parse_version_3(buffer: Buffer) -> tuple[int, ...]:
    if len(buffer) < layout.HEADER_V3_BYTES:
        raise _invalid(f"the file ends after {len(buffer)} bytes", 0, expected=layout.HEADER_V3_BYTES)
    fields = layout.HEADER_V3.unpack_from(buffer, layout.HEADER_V2.size)
    header_length = fields[4]
    if header_length < layout.HEADER_V3_BYTES:
        raise _invalid(f"header_length is {header_length}, less than {layout.HEADER_V3_BYTES}", 100)
    present = min(header_length, len(buffer)) > layout.COMPRESSION_TYPE_OFFSET
    return (*fields, buffer[layout.COMPRESSION_TYPE_OFFSET] if present else layout.COMPRESSION_ZLIB)


def _check_fields(header: Header) -> None:
    bits = header.cluster_bits
    if not layout.MIN_CLUSTER_BITS <= bits <= layout.MAX_CLUSTER_BITS:
        raise _invalid(f"cluster_bits is {bits}, not {layout.MIN_CLUSTER_BITS} to {layout.MAX_CLUSTER_BITS}", 20)
    if header.extended_l2 and bits < layout.MIN_EXTENDED_CLUSTER_BITS:
        raise _invalid(f"cluster_bits is {bits}, too few for extended L2 entries", 20)
    if header.size >= 1 << 63:
        raise _invalid(f"size is {header.size:#x}", 24)
    if header.crypt_method > layout.CRYPT_LUKS:
        raise UnsupportedFeature(
            f"encryption method {header.crypt_method}", feature=f"crypt_method {header.crypt_method}"
        )
    if header.refcount_order > layout.MAX_REFCOUNT_ORDER:
        raise _invalid(f"refcount_order is {header.refcount_order}, more than {layout.MAX_REFCOUNT_ORDER}", 96)
    if header.header_length > header.cluster_size:
        raise _invalid(f"header_length is {header.header_length}, more than a cluster", 100)
    if bool(header.incompatible_features & Incompatible.COMPRESSION) != bool(header.compression_type):
        raise _invalid(f"compression_type is {header.compression_type} and contradicts its feature bit", 104)
    if header.compression_type not in (layout.COMPRESSION_ZLIB, layout.COMPRESSION_ZSTD):
        name = f"compression type {header.compression_type}"
        raise UnsupportedFeature(name, feature=name)


def _refuse_unknown_features(header: Header, extensions: Extensions) -> None:
    unknown = header.incompatible_features & ~layout.KNOWN_INCOMPATIBLE
    if not unknown:
        return
    table = extensions.feature_names or {}
    names = [table.get((layout.FEATURE_INCOMPATIBLE, bit)) or f"bit {bit}" for bit in range(64) if unknown >> bit & 1]
    listed = ", ".join(names)
    raise UnsupportedFeature(f"qcow2 image needs unknown incompatible features: {listed}", feature=listed)


def _check_l1(header: Header, file_size: int) -> None:
    """The active L1 table must describe the whole disk and lie in the file."""
    needed = header.l1_entries_for(header.size)
    if header.l1_size < needed:
        raise _invalid(f"l1_size is {header.l1_size}, too few for a disk of {header.size} bytes", 36, expected=needed)
    check_l1_location(header, header.l1_table_offset, header.l1_size, file_size)


def check_l1_location(header: Header, offset: int, entries: int, file_size: int) -> None:
    """Raise `InvalidFormat` unless an L1 table of `entries` at `offset` is aligned, inside the file and no giant."""
    problem = None
    if entries * 8 > layout.MAX_L1_BYTES:
        problem = f"{entries} entries are more than {layout.MAX_L1_BYTES // 8}"
    elif offset % header.cluster_size:
        problem = "not aligned to a cluster"
    elif offset + entries * 8 > file_size:
        problem = f"{entries} entries reach past the end of the file ({file_size} bytes)"
    if problem:
        raise InvalidFormat(problem, structure="L1 table", offset=offset)


def parse_extensions(first_cluster: memoryview, header: Header) -> Extensions:
    """The header extensions and the backing file name, all in the file's first cluster."""
    found = Extensions()
    for kind, offset, data in _iter_extensions(first_cluster, header):
        if kind == layout.EXTENSION_BACKING_FORMAT:
            if len(data) > layout.MAX_FORMAT_NAME_BYTES:
                raise _invalid_extension(f"backing format name of {len(data)} bytes", offset)
            found.backing_format = decode_name(data)
        elif kind == layout.EXTENSION_DATA_FILE:
            found.data_file = decode_file_name(data, "external data file name", offset)
        elif kind == layout.EXTENSION_FEATURE_NAMES:
            found.feature_names = _parse_feature_names(data)
        elif kind == layout.EXTENSION_BITMAPS:
            if len(data) != layout.BITMAPS_EXTENSION.size:
                raise _invalid_extension(f"bitmaps extension of {len(data)} bytes", offset)
            nb_bitmaps, _, size, start = layout.BITMAPS_EXTENSION.unpack(data)
            found.bitmaps = BitmapsExtension(nb_bitmaps, size, start)
        elif kind == layout.EXTENSION_ENCRYPTION:
            if len(data) != layout.ENCRYPTION_EXTENSION.size:
                raise _invalid_extension(f"encryption header pointer of {len(data)} bytes", offset)
            found.encryption = layout.ENCRYPTION_EXTENSION.unpack(data)
    found.backing_file = _backing_file(first_cluster, header)
    return found


def _iter_extensions(first_cluster: memoryview, header: Header) -> Iterator[tuple[int, int, memoryview]]:
    """Type, offset and data of each extension, up to the one that ends them or the backing file name."""
    end = min(header.backing_file_offset or header.cluster_size, len(first_cluster))
    offset = header.header_length
    while offset + layout.EXTENSION.size <= end:
        kind, length = layout.EXTENSION.unpack_from(first_cluster, offset)
        if kind == layout.EXTENSION_END:
            return
        start = offset + layout.EXTENSION.size
        if start + length > end:
            raise _invalid_extension(f"{length} bytes of type {kind:#x} do not fit before offset {end:#x}", offset)
        yield kind, offset, first_cluster[start : start + length]
        offset = start + (length + 7 & ~7)


def _parse_feature_names(data: memoryview) -> dict[tuple[int, int], str]:
    whole = len(data) // layout.FEATURE_NAME.size * layout.FEATURE_NAME.size
    return {
        (kind, bit): decode_name(name.rstrip(b"\0"))
        for kind, bit, name in layout.FEATURE_NAME.iter_unpack(data[:whole])
    }


def _backing_file(first_cluster: memoryview, header: Header) -> str | None:
    offset, length = header.backing_file_offset, header.backing_file_size
    if not offset or not length:
        return None
    if offset + length > len(first_cluster):
        raise _invalid(f"backing file name at {offset:#x} is not inside the first cluster", 8)
    return decode_file_name(first_cluster[offset : offset + length], "backing file name", offset)


def build_first_cluster(header: Header, extensions: Extensions) -> bytes:
    """What the file begins with: `header`, the extensions and the backing file name, for which its fields are set.

    Raises `ConversionError` where they do not fit in a cluster. The feature name table is left out there, as
    it is in version 2, which has no features.
    """
    named = [
        (layout.EXTENSION_BACKING_FORMAT, extensions.backing_format),
        (layout.EXTENSION_DATA_FILE, extensions.data_file),
    ]
    parts = [_extension(kind, encode_name(text)) for kind, text in named if text is not None]
    start = header.header_length
    name = encode_name(extensions.backing_file or "")
    features = b"".join(layout.FEATURE_NAME.pack(*feature) for feature in layout.FEATURE_NAMES)
    table = _extension(layout.EXTENSION_FEATURE_NAMES, features)
    end_mark = layout.EXTENSION.pack(layout.EXTENSION_END, 0)
    needed = start + sum(map(len, parts)) + len(end_mark) + len(name)
    if needed > header.cluster_size or len(name) > layout.MAX_FILE_NAME_BYTES:
        raise ConversionError("qcow2: the names of the image's files do not fit in its header")
    if header.version > 2 and needed + len(table) <= header.cluster_size:
        parts.append(table)
    body = b"".join((*parts, end_mark))
    if name:
        header = replace(header, backing_file_offset=start + len(body), backing_file_size=len(name))
    return _pack_fields(header) + body + name


def _pack_fields(header: Header) -> bytes:
    fields = astuple(header)
    packed = layout.HEADER_V2.pack(layout.MAGIC, *fields[:12])
    if header.version > 2:
        packed += layout.HEADER_V3.pack(*fields[12:17]) + bytes((header.compression_type,))
    return packed.ljust(header.header_length, b"\0")


def _extension(kind: int, data: bytes) -> bytes:
    return layout.EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8)


def encode_name(name: str) -> bytes:
    """The inverse of `decode_name`."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(data: Buffer) -> str:
    """Bytes of the file as text; what is no UTF-8 survives as in ``os.fsdecode``."""
    return bytes(data).decode("utf-8", "surrogateescape")


def decode_file_name(data: Buffer, structure: str, offset: int) -> str:
    """A name that the host may be asked for."""
    if len(data) > layout.MAX_FILE_NAME_BYTES:
        raise InvalidFormat(f"a file name of {len(data)} bytes", structure=structure, offset=offset)
    name = decode_name(data)
    if "\0" in name:
        raise InvalidFormat("a zero byte in a file name", structure=structure, offset=offset)
    return name


def _invalid(message: str, offset: int, *, expected: object = None, actual: object = None) -> InvalidFormat:
    return InvalidFormat(message, structure="header", offset=offset, expected=expected, actual=actual)


def _invalid_extension(message: str, offset: int) -> InvalidFormat:
    return InvalidFormat(message, structure="header extension", offset=offset)
