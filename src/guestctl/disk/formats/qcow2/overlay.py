"""Overlays on images of any format: made as by ``qemu-img create -b``, or opened again.

The name of the backing file is relative where the user's is, and its format is recorded. Refused: backing
files of formats that qemu cannot open, and files that are no overlay of the image that the user names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from guestctl.block.file import FileDevice
from guestctl.block.output import Output
from guestctl.core.errors import ConversionError, UnsupportedFeature
from guestctl.disk.formats.qcow2.filenames import parse_reference
from guestctl.disk.formats.qcow2.header import read_header
from guestctl.disk.formats.qcow2.in_place import Qcow2Overlay
from guestctl.disk.formats.qcow2.options import create
from guestctl.disk.reader import DiskReader, probe
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.writer import Options

_BACKING_FORMATS = ("raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi")

StrPath = str | os.PathLike[str]


def open_overlay(
    path: StrPath,
    source: StrPath,
    *,
    format: str | None = None,
    allow_dirs: Sequence[StrPath] = (),
    keys: Keys | None = None,
) -> Qcow2Overlay:
    """The overlay at `path` on the image `source`; made as by ``qemu-img create -b`` where there is none.

    Other arguments are those of `DiskReader.open`, for `source`. Raises `ConversionError` where `path`
    is something else.
    """
    path, source = os.fspath(path), os.fspath(source)
    if os.path.exists(path):
        _check_backing(path, source, format)
    else:
        _create(path, source, format, allow_dirs)
    beside = (os.path.realpath(os.path.dirname(source) or "."), os.path.dirname(os.path.realpath(source)))
    return Qcow2Overlay.open_writable(path, allow_dirs=allow_dirs, beside=beside, keys=keys)


def _check_backing(path: str, source: str, format: str | None) -> None:
    with FileDevice.open(path, mapped=False) as device:
        _, extensions = read_header(device)
    name = extensions.backing_file
    if name is not None:
        reference = parse_reference(name, extensions.backing_format)
        backing = os.path.join(os.path.dirname(path), reference.path)
        if os.path.exists(backing) and os.path.samefile(backing, source) and format in (None, reference.format):
            return
    raise ConversionError(f"{path}: is no overlay of {source}" + (f" in format {format}" if format else ""))


def _create(path: str, source: str, format: str | None, allow_dirs: Sequence[StrPath]) -> None:
    with FileDevice.open(source, mapped=False) as device:
        format = format or probe(device)
    if format not in _BACKING_FORMATS:
        raise UnsupportedFeature(f"{source}: qcow2 has no overlays on {format} files", feature=f"overlay on {format}")
    with DiskReader.open(source, format=format, allow_dirs=allow_dirs, metadata_only=True) as reader:
        size = reader.size
    output = Output(path, overwrite=False)
    try:
        options = Options("qcow2", {"backing_file": _backing_name(path, source), "backing_fmt": format})
        create(output, size, options).finish()
        output.publish()
    except BaseException:
        output.discard()
        raise


def _backing_name(path: str, source: str) -> str:
    """The name of `source` in a header of `path`: relative where the user's is."""
    if os.path.isabs(source):
        return source
    directory = os.path.dirname(path)
    name = os.path.relpath(source, directory or ".")
    if ":" in name.partition(os.sep)[0]:  # or it would be a protocol
        name = os.path.join(os.curdir, name)
    return name if os.path.exists(os.path.join(directory, name)) else os.path.abspath(source)
