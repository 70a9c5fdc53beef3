"""What ``qemu-img info`` says of a qcow2 image.

The keys and values are those of qemu-img 7.2; later versions add ``children``, which says nothing
of the image that the other keys do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.bitmaps import Bitmap, read_bitmaps
from guestctl.disk.formats.qcow2.encryption import LUKS_HEADER, luks_info
from guestctl.disk.formats.qcow2.filenames import parse_reference
from guestctl.disk.formats.qcow2.layout import Incompatible
from guestctl.disk.formats.qcow2.snapshots import Snapshot, read_snapshots

if TYPE_CHECKING:
    from guestctl.disk.formats.qcow2.reader import Qcow2Reader

_COMPRESSION_NAMES = {layout.COMPRESSION_ZLIB: "zlib", layout.COMPRESSION_ZSTD: "zstd"}
_NANOSECONDS = 1_000_000_000


def image_info(reader: Qcow2Reader) -> dict[str, Any]:
    header, extensions = reader.header, reader.extensions
    info: dict[str, Any] = {
        "virtual-size": reader.size,
        "filename": reader.path,
        "cluster-size": header.cluster_size,
        "format": reader.format.value,
        "actual-size": reader.measure_file(),
        "dirty-flag": bool(header.incompatible_features & Incompatible.DIRTY),
        "format-specific": {"type": "qcow2", "data": _format_specific(reader)},
    }
    if header.crypt_method:
        info["encrypted"] = True
    if extensions.backing_file is not None:
        info["backing-filename"] = extensions.backing_file
        info["full-backing-filename"] = _full_name(reader, extensions.backing_file)
        if extensions.backing_format is not None:
            info["backing-filename-format"] = extensions.backing_format
    snapshots, _ = read_snapshots(reader.file, header)
    if snapshots:
        info["snapshots"] = [_snapshot(snapshot) for snapshot in snapshots]
    return info


def _format_specific(reader: Qcow2Reader) -> dict[str, Any]:
    header, extensions = reader.header, reader.extensions
    data: dict[str, Any] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": _COMPRESSION_NAMES[header.compression_type],
        "refcount-bits": 1 << header.refcount_order,
    }
    if header.crypt_method:
        data["encrypt"] = _encryption(reader)
    if header.version == 2:
        return data
    data["lazy-refcounts"] = bool(header.compatible_features & layout.COMPATIBLE_LAZY_REFCOUNTS)
    data["corrupt"] = bool(header.incompatible_features & Incompatible.CORRUPT)
    data["extended-l2"] = header.extended_l2
    if header.has_data_file:
        data["data-file"] = extensions.data_file
        data["data-file-raw"] = bool(header.autoclear_features & layout.AUTOCLEAR_RAW_DATA_FILE)
    if extensions.bitmaps is not None and header.autoclear_features & layout.AUTOCLEAR_BITMAPS:
        data["bitmaps"] = [_bitmap(bitmap) for bitmap in read_bitmaps(reader.file, extensions.bitmaps)]
    return data


def _encryption(reader: Qcow2Reader) -> dict[str, Any]:
    if reader.header.crypt_method == layout.CRYPT_AES:
        return {"format": "aes"}
    if reader.extensions.encryption is None:
        raise InvalidFormat("no pointer to the LUKS header", structure="header extension", offset=0)
    offset, _ = reader.extensions.encryption
    if offset + LUKS_HEADER.size > reader.file.size:
        raise InvalidFormat("outside the file", structure="LUKS header", offset=offset)
    return luks_info(reader.file.read(offset, LUKS_HEADER.size), offset)


def _full_name(reader: Qcow2Reader, name: str) -> str:
    """qemu joins plain names with the image's directory, and leaves those with a protocol alone."""
    try:
        plain = parse_reference(name, None).path == name
    except (UnsupportedFeature, InvalidFormat):
        return name
    return reader.image.resolve(name) if plain else name


def _bitmap(bitmap: Bitmap) -> dict[str, Any]:
    flags = [(layout.BITMAP_IN_USE, "in-use"), (layout.BITMAP_AUTO, "auto")]
    return {
        "name": bitmap.name,
        "granularity": bitmap.granularity,
        "flags": [name for flag, name in flags if bitmap.flags & flag],
    }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    seconds, nanoseconds = divmod(snapshot.vm_clock_nsec, _NANOSECONDS)
    info: dict[str, Any] = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": seconds,
        "vm-clock-nsec": nanoseconds,
    }
    if snapshot.icount is not None:
        info["icount"] = snapshot.icount
    return info
