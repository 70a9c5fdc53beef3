"""The options of a new VMDK image, with qemu-img's names, and which of them go together."""

from __future__ import annotations

import os
import secrets
from typing import NamedTuple

from guestctl.block.file import FileDevice
from guestctl.block.output import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.formats.vmdk.descriptor import NewDescriptor
from guestctl.disk.formats.vmdk.layout import NO_PARENT_CID, SECTOR_BYTES
from guestctl.disk.formats.vmdk.reader import read_descriptor
from guestctl.disk.formats.vmdk.stream import StreamWriter
from guestctl.disk.formats.vmdk.writer import DESCRIPTOR_SECTORS, SPLIT_BYTES, FlatWriter, SparseWriter, extent_lines
from guestctl.disk.writer import ImageWriter, Options


class Subformat(NamedTuple):
    """A createType; ``suffix`` is what its extent files have in their names, None where there is one file in all."""

    create_type: str
    flat: bool
    suffix: str | None = None
    split: bool = False


_SUBFORMATS = {
    kind.create_type: kind
    for kind in (
        Subformat("monolithicSparse", flat=False),
        Subformat("monolithicFlat", flat=True, suffix="-flat"),
        Subformat("twoGbMaxExtentSparse", flat=False, suffix="-s{:03}", split=True),
        Subformat("twoGbMaxExtentFlat", flat=True, suffix="-f{:03}", split=True),
        Subformat("streamOptimized", flat=False),
    )
}
_ADAPTER_TYPES = {name: name for name in ("ide", "buslogic", "lsilogic", "legacyESX")}


def create(output: Output, size: int, options: Options) -> ImageWriter:
    """The writer of an image of `size` bytes, rounded up to whole sectors as qemu-img does."""
    size = -(-size // SECTOR_BYTES) * SECTOR_BYTES
    _require(size > 0, "an empty disk has no extent, and an image needs one")
    kind = options.choice("subformat", _SUBFORMATS, "monolithicSparse")
    zeroed_grains = options.flag("zeroed_grain")
    _require(not (zeroed_grains and kind.flat), f"zeroed_grain and subformat={kind.create_type} exclude each other")
    parent_name, parent_cid = _parent(output, kind, options)
    root, extension = os.path.splitext(os.path.basename(output.path))
    names = [os.path.basename(output.path)]
    if kind.suffix is not None:
        count = -(-size // SPLIT_BYTES) if kind.split else 1
        names = [f"{root}{kind.suffix.format(number)}{extension}" for number in range(1, count + 1)]
    descriptor = NewDescriptor(
        cid=secrets.randbelow(NO_PARENT_CID - 1),  # neither of the two that mean something
        parent_cid=parent_cid,
        parent_name=parent_name,
        create_type=kind.create_type,
        extents=extent_lines("FLAT" if kind.flat else "SPARSE", size, names),
        sectors=size // SECTOR_BYTES,
        adapter_type=options.choice("adapter_type", _ADAPTER_TYPES, "ide"),
        hardware_version=_hardware_version(options),
        tools_version=_word(options, "toolsversion", "2147483647"),
    )
    length = len(descriptor.build())
    if kind.suffix is None:
        _require(length <= DESCRIPTOR_SECTORS * SECTOR_BYTES, f"a descriptor of {length} bytes is too long")
    if kind.create_type == "streamOptimized":
        return StreamWriter(size, descriptor, output.main, zeroed_grains=zeroed_grains)
    files = [output.main] if kind.suffix is None else [output.create(name) for name in names]
    if kind.flat:
        return FlatWriter(size, descriptor, output.main, files)
    return SparseWriter(size, descriptor, output.main, files, zeroed_grains=zeroed_grains)


def _parent(output: Output, kind: Subformat, options: Options) -> tuple[str | None, int]:
    """The parent's name and content id."""
    name, format = options.text("backing_file"), options.text("backing_fmt")
    _require(format in (None, "vmdk"), f"backing_fmt={format}: the parent of a VMDK image is one too")
    if name is None:
        return None, NO_PARENT_CID
    _require(not kind.flat, "a flat image has no backing file")
    with FileDevice.open(os.path.join(os.path.dirname(output.path), name)) as device:
        descriptor, _, _ = read_descriptor(name, device)
    return name, descriptor.cid


def _hardware_version(options: Options) -> str:
    compat6 = options.flag("compat6")
    version = _word(options, "hwversion", "")
    _require(not (compat6 and version), "compat6 and hwversion exclude each other")
    return version or ("6" if compat6 else "4")


def _word(options: Options, name: str, default: str) -> str:
    value = options.text(name) or default
    _require(value.isprintable() and '"' not in value, f"{name}={value!r} cannot stand in a descriptor")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConversionError(f"vmdk: {message}")
