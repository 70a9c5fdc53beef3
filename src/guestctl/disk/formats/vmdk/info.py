"""What ``qemu-img info`` says of a VMDK image, as version 7.2 does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.disk.formats.vmdk.reader import Part, VmdkReader


def image_info(reader: VmdkReader) -> dict[str, Any]:
    descriptor = reader.descriptor
    info: dict[str, Any] = {
        "virtual-size": reader.size,
        "filename": reader.path,
        "format": reader.format.value,
        "actual-size": _actual_size(reader),
        "format-specific": {
            "type": "vmdk",
            "data": {
                "cid": descriptor.cid,
                "parent-cid": descriptor.parent_cid,
                "create-type": descriptor.create_type,
                "extents": [_extent(part) for part in reader.parts],
            },
        },
    }
    # qemu-img says the following only where all extents are of one kind.
    if len({_kind(part) for part in reader.parts}) == 1:
        info["dirty-flag"] = False
        sparse = reader.parts[0].sparse
        if sparse is not None:
            info["cluster-size"] = sparse.grain_bytes
    if descriptor.parent_name is not None:
        info["backing-filename"] = descriptor.parent_name
        info["full-backing-filename"] = reader.image.resolve(descriptor.parent_name)
        info["backing-filename-format"] = reader.format.value
    return info


def _extent(part: Part) -> dict[str, Any]:
    extent: dict[str, Any] = {"virtual-size": part.size, "filename": part.path or "", "format": part.type}
    if part.sparse is not None:
        extent["cluster-size"] = part.sparse.grain_bytes
        if part.sparse.compressed:
            extent["compressed"] = True
    return extent


def _kind(part: Part) -> tuple[int, bool]:
    return (0, False) if part.sparse is None else (part.sparse.grain_bytes, part.sparse.compressed)


def _actual_size(reader: VmdkReader) -> int:
    """The files' sizes on the host; one that holds several extents counts for each, as in qemu-img."""
    paths = [reader.path, *(part.path for part in reader.parts if part.path is not None and part.type)]
    return sum(_occupied(path) for path in paths)


def _occupied(path: str) -> int:
    status = os.stat(path)
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
