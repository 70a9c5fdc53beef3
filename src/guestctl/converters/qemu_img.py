"""The engine that runs ``qemu-img convert``: for formats that only qemu writes, or to compare with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile

from guestctl.block.output import refuse_overwriting
from guestctl.converters.converter import (
    Conversion,
    ConversionResult,
    backing_of,
    format_options,
    open_source,
    refuse_changed,
)
from guestctl.core.errors import CommandFailed, ConversionError
from guestctl.disk.reader import DiskReader

_OLDEST_VERSION = (4, 0)
_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_NATIVE_ONLY = ("resume", "sparsify", "size", "digest", "verify")


def find_qemu_img() -> str:
    """The program's path; raises `ConversionError` where there is none, or one that is too old."""
    program = shutil.which("qemu-img")
    if program is None:
        raise ConversionError("the engine qemu-img needs the program qemu-img, which is not on PATH")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", text)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST_VERSION:
        raise ConversionError(f"{program}: not qemu-img {'.'.join(map(str, _OLDEST_VERSION))} or newer")
    return program


def convert(wanted: Conversion) -> ConversionResult:
    """Have qemu-img do it. The source is opened here first: what it may not refer to is refused."""
    for name in _NATIVE_ONLY:
        if getattr(wanted, name):
            raise ConversionError(f"the engine qemu-img cannot do this: {name}")
    program = find_qemu_img()
    with open_source(wanted) as reader:
        backing = backing_of(wanted, reader)
        refuse_overwriting(wanted.output, reader.files, overwrite=wanted.overwrite)
        # The names of extent files follow from the image's: it is made in a directory of its own.
        directory = os.path.dirname(os.path.abspath(wanted.output))
        with tempfile.TemporaryDirectory(prefix=".guestctl-", suffix=".partial", dir=directory) as scratch:
            made = os.path.join(scratch, os.path.basename(wanted.output))
            _run([program, *_arguments(wanted, reader, backing), os.path.abspath(wanted.source), made], wanted)
            refuse_changed(reader.files)
            names = sorted(os.listdir(scratch), key=lambda name: name == os.path.basename(made))
            for name in names:
                refuse_overwriting(os.path.join(directory, name), reader.files, overwrite=wanted.overwrite)
            if wanted.sync:
                _sync([os.path.join(scratch, name) for name in names])
            size = sum(os.stat(os.path.join(scratch, name)).st_blocks * 512 for name in names)
            for name in names:
                os.replace(os.path.join(scratch, name), os.path.join(directory, name))
        return {
            "success": True,
            "source_path": wanted.source,
            "output_path": wanted.output,
            "source_format": reader.format.value,
            "output_format": wanted.format,
            "output_size": size,
            "virtual_size": reader.size,
            "duration_secs": 0.0,
            "digest": None,
        }


def _arguments(wanted: Conversion, reader: DiskReader, backing: tuple[str, str | None] | None) -> list[str]:
    arguments = ["convert", "-p", "-m", "16", "-f", reader.format.value, "-O", wanted.format]
    if wanted.compress:
        arguments += ["-c", "-W"]
    if wanted.snapshot is not None:
        arguments += ["-l", f"snapshot.name={_escaped(wanted.snapshot)}"]
    if backing is not None:
        # -B wants a name that can be opened from here, and qemu-img writes it as it is.
        arguments += ["-B", os.path.abspath(os.path.join(os.path.dirname(wanted.output), backing[0]))]
        arguments += ["-F", backing[1]] if backing[1] is not None else []
    options = format_options(wanted, None)
    options.pop("compress", None)
    for key, value in options.items():
        arguments += ["-o", f"{key}={_escaped(value)}"]
    return arguments


def _escaped(value: str) -> str:
    return value.replace(",", ",,")


def _run(argv: list[str], wanted: Conversion) -> None:
    """Run qemu-img, without a shell; its names are absolute, so that none looks like an option or a protocol."""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                while text := os.read(process.stdout.fileno(), 4096):
                    if wanted.cancelled is not None and wanted.cancelled():
                        raise ConversionError("cancelled")
                    for percent in _PROGRESS.findall(text)[-1:]:
                        wanted.progress.update(int(float(percent) * 100), 10_000)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            raise CommandFailed(argv, process.returncode, errors.read().decode(errors="replace"))


def _sync(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
