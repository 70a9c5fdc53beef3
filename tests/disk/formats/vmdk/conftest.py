"""VMDK images of every kind: those qemu-img writes, and descriptors of our own over them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vmdk_images import convert, descriptor, qemu_io

Run = Callable[..., str]
Flat = Callable[[Path], bytes]

SUBFORMATS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized")


def _source() -> bytes:
    """5 MiB and 3 sectors: noise, text, zeros in blocks from a sector to a megabyte."""
    generator = random.Random(21)
    parts: list[bytes] = []
    size = 0
    while size < (5 << 20) + 1536:
        length = 512 * generator.choice((1, 3, 8, 128, 129, 700, 2048))
        kind = generator.randrange(3)
        if kind == 0:
            part = generator.randbytes(length)
        else:
            part = bytes(length) if kind == 1 else (b"%08d lorem ipsum\n" % size * length)[:length]
        parts.append(part)
        size += length
    return b"".join(parts)[: (5 << 20) + 1536]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw disk that images are made from."""
    path = tmp_path_factory.mktemp("source") / "source.raw"
    path.write_bytes(_source())
    return path


@pytest.fixture(scope="session")
def flat(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Flat:
    """The whole disk in an image, as qemu-img reads it."""
    folder = tmp_path_factory.mktemp("flat")

    def _flat(image: Path) -> bytes:
        target = folder / "disk.raw"
        run("qemu-img", "convert", "-O", "raw", image, target)
        content = target.read_bytes()
        target.unlink()
        return content

    return _flat


def make_chain(run: Run, source: Path, folder: Path, path: Path) -> None:
    """A compressed image below a larger delta of several files, a smaller one and a larger one again."""
    base, middle, small = folder / "base.vmdk", folder / "middle.vmdk", folder / "small.vmdk"
    convert(run, source, base, "streamOptimized")
    create = ("qemu-img", "create", "-q", "-f", "vmdk")
    run(*create, "-b", base.name, "-F", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", middle, "8M")
    qemu_io(run, middle, "write -P 1 5M 1M", "write -P 8 2999k 2k")
    run(*create, "-b", middle.name, "-F", "vmdk", "-o", "zeroed_grain=on", small, "4M")
    qemu_io(run, small, "write -P 2 3M 100k", "write -z 1M 128k")
    run(*create, "-b", small.name, "-F", "vmdk", path, "9M")
    qemu_io(run, path, "write -P 3 8M 100k", "write -P 4 70k 1k")


@pytest.fixture(scope="session", params=[*SUBFORMATS, "zeroed-grains", "chain", "mixed", "same-file", "vmfs"])
def image(request: pytest.FixtureRequest, run: Run, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each kind in turn."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    path = folder / f"{kind}.vmdk"
    if kind in SUBFORMATS:
        convert(run, source, path, kind)
    elif kind == "zeroed-grains":
        convert(run, source, path, "monolithicSparse", "zeroed_grain=on")
        qemu_io(run, path, "write -z 1M 300k", "write -P 7 2M 1k", "write -z 5M 1k")
    elif kind == "chain":
        make_chain(run, source, folder, path)
    else:
        disk = folder / "disk.raw"
        disk.write_bytes(source.read_bytes()[: 5 << 20])
        if kind == "mixed":
            convert(run, disk, folder / "part.vmdk", "twoGbMaxExtentSparse")
            lines = ['RW 256 FLAT "disk.raw" 129', 'RW 10240 SPARSE "part-s001.vmdk"', 'RW 4096 FLAT "disk.raw" 1']
            path.write_text(descriptor(*lines, create_type="twoGbMaxExtentSparse"))
        elif kind == "same-file":
            lines = ['RW 5000 FLAT "disk.raw" 5000', 'RW 3000 FLAT "disk.raw" 0', 'RW 100 FLAT "disk.raw" 3000']
            path.write_text(descriptor(*lines, create_type="twoGbMaxExtentFlat"))
        else:
            path.write_text(descriptor('RW 10240 VMFS "disk.raw"', create_type="vmfs"))
    return path


@pytest.fixture(scope="session")
def small_image(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two grain tables, 40 MiB of disk: five grains in the first, two in the second. For patching."""
    path = tmp_path_factory.mktemp("small") / "small.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "40M")
    qemu_io(run, path, "write -P 5 0 256k", "write -P 6 1M 64k", "write -P 7 36M 128k")
    return path.read_bytes()
