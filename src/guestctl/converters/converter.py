"""``DiskConverter``: from any image that can be read to any that can be written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

from guestctl._version import __version__
from guestctl.block import BlockDevice, FileDevice, Output, SliceDevice
from guestctl.core.errors import ConversionError
from guestctl.core.progress import NoProgress, Progress
from guestctl.disk.reader import DiskReader
from guestctl.disk.volumes.keys import Keys
from guestctl.disk.writer import create_writer

# What `compress` means: an option of the format, with its value. The wrappings compress always.
_COMPRESSION: Mapping[str, Mapping[str, str]] = {
    "qcow2": {"compress": "on"},
    "vmdk": {"subformat": "streamOptimized"},
    "ova": {},
    "gz": {},
    "xz": {},
    "zst": {},
}

# What users call formats besides qemu-img's names.
FORMAT_ALIASES: Mapping[str, str] = {"vhd": "vpc"}


class ConversionResult(TypedDict):
    """What a conversion made. Sizes are in bytes; ``output_size`` is what the files occupy on the host."""

    success: bool
    source_path: str
    output_path: str
    source_format: str
    output_format: str
    output_size: int
    virtual_size: int
    duration_secs: float
    digest: str | None  # of the raw content, hexadecimal


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is to be converted, and how; the fields are `DiskConverter.convert`'s arguments."""

    source: str
    output: str
    format: str
    compress: bool
    flatten: bool
    options: Mapping[str, str]
    source_format: str | None
    allow_dirs: Sequence[str | os.PathLike[str]]
    snapshot: str | None
    backing_file: str | None
    backing_format: str | None
    size: int | None
    shrink: bool
    sparsify: bool
    overwrite: bool
    verify: bool
    digest: str | None
    resume: bool
    sync: bool
    progress: Progress
    cancelled: Callable[[], bool] | None
    keys: Keys | None = None


class DiskConverter:
    """Converts disk images.

    `engine` is ``native``, ``qemu-img`` (the program, found on PATH), or ``auto``: the native one
    wherever it can.
    """

    def __init__(self, engine: str = "auto") -> None:
        if engine not in ("auto", "native", "qemu-img"):
            raise ConversionError(f"unknown engine {engine!r} (known: auto, native, qemu-img)")
        self.engine = engine

    def convert(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        format: str,
        *,
        compress: bool = False,
        flatten: bool = True,
        options: Mapping[str, str] | None = None,
        source_format: str | None = None,
        allow_dirs: Sequence[str | os.PathLike[str]] = (),
        snapshot: str | None = None,
        backing_file: str | None = None,
        backing_format: str | None = None,
        size: int | None = None,
        shrink: bool = False,
        sparsify: bool = False,
        overwrite: bool = False,
        verify: bool = False,
        digest: str | None = None,
        resume: bool = False,
        sync: bool = True,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        keys: Keys | None = None,
    ) -> ConversionResult:
        """Convert the image `source` into a new image `output` in `format`.

        - ``compress``: compress the data, in the formats that can.
        - ``flatten`` (True): the new image stands alone; False keeps the source's backing file.
        - ``options``: the format's own, with the names of ``qemu-img create -o``.
        - ``source_format``, ``allow_dirs``, ``snapshot``, ``keys``: as in `DiskReader.open`.
        - ``backing_file``, ``backing_format``: below the new image; it holds what differs from it.
        - ``size``: of the new disk in bytes; a smaller one needs ``shrink``.
        - ``sparsify``: free blocks of the filesystems become zeros.
        - ``overwrite``: an existing output is replaced.
        - ``verify``: the new image is read back and compared.
        - ``digest``: the name of a hash of the whole content, such as ``sha256``.
        - ``resume``: keep a record beside the output, and go on where an interrupted run ended.
        - ``sync`` (True): the new image is on the disk before it gets its name.
        - ``progress``: a `Progress`, in bytes; ``cancelled``: asked often, True ends the conversion.

        The output appears under its name when it is complete; on any failure there is none. Raises
        `ConversionError`, what opening and reading the source raises, and ``OSError``.
        """
        wanted = Conversion(
            source=os.fspath(source),
            output=os.fspath(output),
            format=FORMAT_ALIASES.get(format, format),
            compress=compress,
            flatten=flatten,
            options=options or {},
            source_format=source_format,
            allow_dirs=allow_dirs,
            snapshot=snapshot,
            backing_file=backing_file,
            backing_format=backing_format,
            size=size,
            shrink=shrink,
            sparsify=sparsify,
            overwrite=overwrite,
            verify=verify,
            digest=digest,
            resume=resume,
            sync=sync,
            progress=progress or NoProgress(),
            cancelled=cancelled,
            keys=keys,
        )
        start = time.monotonic()
        result = self._engine_for(wanted)(wanted)
        result["duration_secs"] = round(time.monotonic() - start, 6)
        return result

    def _engine_for(self, wanted: Conversion) -> Callable[[Conversion], ConversionResult]:
        if self.engine == "qemu-img" or (self.engine == "auto" and not can_write(wanted.format)):
            from guestctl.converters.qemu_img import convert

            return convert
        return convert_natively


def can_write(format: str) -> bool:
    """Whether the native engine writes images of this format."""
    from importlib import import_module

    from guestctl.disk.formats import ROOMS

    return format in ROOMS and hasattr(import_module(f"guestctl.disk.formats.{ROOMS[format]}"), "create_writer")


def convert_natively(wanted: Conversion) -> ConversionResult:
    """The native engine; needs no tool on the host."""
    from guestctl.converters.engine import Transfer

    hasher = None
    if wanted.digest:
        import hashlib

        if wanted.digest not in hashlib.algorithms_available or wanted.digest.startswith("shake"):
            raise ConversionError(f"no digest is called {wanted.digest!r}")
        hasher = hashlib.new(wanted.digest)
    with ExitStack() as opened:
        reader = opened.enter_context(open_source(wanted))
        files = list(reader.files)
        backing = backing_of(wanted, reader)
        below: DiskReader | None = None
        if backing is not None:
            below = opened.enter_context(_open_backing(wanted, *backing))
            files += below.files
        source: BlockDevice = reader
        if wanted.sparsify:
            from guestctl.converters.sparsify import sparsified

            source = sparsified(reader)
        size = _new_size(wanted, reader.size)
        options = format_options(wanted, backing)
        output = Output(
            wanted.output, overwrite=wanted.overwrite, resumable=wanted.resume, sync=wanted.sync, reading=files
        )
        try:
            if output.is_device:
                _check_device(wanted, output, size)
            else:
                _check_space(wanted, files, reader)
            new_writer = partial(create_writer, wanted.format, output, size, options)
            record, start = None, 0
            if wanted.resume:
                from guestctl.converters.resume import Record

                record = opened.enter_context(Record(output, _fingerprint(wanted, files, size, options)))
                if record.entries:
                    record.check(new_writer())
            writer = new_writer()
            if record is not None:
                record.replay(writer)
                start = record.start()
                if hasher is not None:
                    for buffer in source.buffers(0, min(start, source.size)):
                        hasher.update(buffer)
            Transfer(
                source,
                writer,
                backing=below,
                progress=wanted.progress,
                digest=hasher,
                cancelled=wanted.cancelled,
                on_written=record.add if record else None,
                clear_zeros=output.is_device,
            ).run(start)
            writer.finish()
            refuse_changed(files)
            if wanted.cancelled is not None and wanted.cancelled():
                raise ConversionError("cancelled")
            output_size = sum(file.occupied() for file in output.files)
            if record is not None:
                record.remove()
            output.publish()
            if wanted.verify:
                _verify(wanted, source, size)
        except BaseException:
            output.discard()
            raise
        return {
            "success": True,
            "source_path": wanted.source,
            "output_path": wanted.output,
            "source_format": reader.format.value,
            "output_format": wanted.format,
            "output_size": output_size,
            "virtual_size": writer.size,
            "duration_secs": 0.0,
            "digest": hasher.hexdigest() if hasher else None,
        }


def open_source(wanted: Conversion) -> DiskReader:
    """The disk to be converted. Its files are not mapped, since somebody may truncate them in the meantime."""
    return DiskReader.open(
        wanted.source,
        format=wanted.source_format,
        allow_dirs=wanted.allow_dirs,
        snapshot=wanted.snapshot,
        mapped=False,
        progress=wanted.progress,
        keys=wanted.keys,
    )


def refuse_changed(files: Sequence[FileDevice]) -> None:
    for file in files:
        if file.changed():
            raise ConversionError(f"{file.path}: changed while it was being read")


def backing_of(wanted: Conversion, reader: DiskReader) -> tuple[str, str | None] | None:
    """The name (as the new image will have it) and the format of the new image's backing file."""
    if wanted.backing_file is not None:
        return wanted.backing_file, wanted.backing_format
    if wanted.flatten or reader.backing is None:
        return None
    directory = os.path.dirname(os.path.realpath(wanted.output))
    return os.path.relpath(os.path.realpath(reader.backing.path), directory), reader.backing.format.value


def _open_backing(wanted: Conversion, name: str, format: str | None) -> DiskReader:
    path = os.path.join(os.path.dirname(wanted.output), name)
    return DiskReader.open(path, format=format, allow_dirs=wanted.allow_dirs, keys=wanted.keys)


def _new_size(wanted: Conversion, size: int) -> int:
    if wanted.size is None:
        return size
    if wanted.size < size and not wanted.shrink:
        raise ConversionError(f"{wanted.size} bytes are fewer than the source's {size}: the rest would be lost")
    return wanted.size


def format_options(wanted: Conversion, backing: tuple[str, str | None] | None) -> dict[str, str]:
    options = dict(wanted.options)
    if wanted.compress:
        if wanted.format not in _COMPRESSION:
            raise ConversionError(f"{wanted.format} images cannot be compressed")
        options = {**_COMPRESSION[wanted.format], **options}
    if backing is not None:
        options["backing_file"] = backing[0]
        if backing[1] is not None:
            options["backing_fmt"] = backing[1]
    return options


def _check_device(wanted: Conversion, output: Output, size: int) -> None:
    if wanted.format != "raw":
        raise ConversionError(f"{wanted.output}: only raw disks are written to a block device")
    if wanted.resume:
        raise ConversionError(f"{wanted.output}: a conversion to a block device cannot be resumed")
    available = os.lseek(output.main.fd, 0, os.SEEK_END)
    if available < size:
        raise ConversionError(f"{wanted.output}: the device has {available} bytes, the disk {size}")


def _check_space(wanted: Conversion, files: Sequence[FileDevice], source: BlockDevice) -> None:
    """Raise where what is uncompressed would not fit; the exact sum is made only where it may matter."""
    if wanted.compress or wanted.resume or not hasattr(os, "statvfs"):
        return
    host = os.statvfs(os.path.dirname(wanted.output) or ".")
    available = host.f_bavail * host.f_frsize
    stored = sum(file.occupied() for file in files)
    if stored * 4 < available:
        return
    needed = 0
    for run in source.runs(0, source.size):
        needed += run.length if run.source is not None else 0
        if needed > available:
            raise ConversionError(f"{wanted.output}: more than the {available} bytes that are free would be needed")


def _verify(wanted: Conversion, source: BlockDevice, size: int) -> None:
    from guestctl.disk.compare import first_mismatch

    with DiskReader.open(wanted.output, format=wanted.format, allow_dirs=wanted.allow_dirs) as made:
        mismatch = first_mismatch(SliceDevice(source, 0, size), made)
    if mismatch is not None:
        raise ConversionError(f"{wanted.output}: differs from its source at offset {mismatch:#x}")


def _fingerprint(
    wanted: Conversion, files: Sequence[FileDevice], size: int, options: Mapping[str, str]
) -> dict[str, Any]:
    """What must not have changed when a conversion is resumed."""
    return {
        "guestctl": __version__,
        "sources": [(os.path.realpath(file.path), file.size, file.status().st_mtime_ns) for file in files],
        "snapshot": wanted.snapshot,
        "sparsify": wanted.sparsify,
        "format": wanted.format,
        "options": options,
        "size": size,
    }
