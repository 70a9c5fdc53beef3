"""qcow2 images of every kind, made by qemu-img and qemu-io."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

Run = Callable[..., str]
Flat = Callable[[Path], bytes]


class Kind(NamedTuple):
    """How to make an image: options of ``qemu-img create``, and qemu-io commands that follow a copy of the source."""

    options: str
    commands: tuple[str, ...] = ()


CHANGES = (
    "write -P 0xab 100k 3k",  # part of a cluster
    "write -P 0xac 5119k 1k",  # across the last cluster boundary
    "write -z 1M 256k",  # zero clusters, preallocated
    "write -z -u 1536k 128k",  # zero clusters, plain
    "discard 512k 64k",
)
COMPRESSED = ("discard 2M 2M", "write -c -P 0x55 2M 2M")  # qemu compresses into unallocated clusters only
KINDS = {
    "v2": Kind("compat=0.10"),
    "v2-512": Kind("compat=0.10,cluster_size=512"),
    "v2-compressed": Kind("compat=0.10", (*CHANGES, *COMPRESSED)),
    "v3": Kind("compat=1.1", CHANGES),
    "512": Kind("cluster_size=512", CHANGES),
    "1k-zlib": Kind("cluster_size=1k", (*CHANGES, *COMPRESSED)),
    "4k": Kind("cluster_size=4k", CHANGES),
    "2M": Kind("cluster_size=2M", (*CHANGES, *COMPRESSED)),
    "zlib": Kind("cluster_size=64k", (*CHANGES, *COMPRESSED)),
    "zstd": Kind("compression_type=zstd", (*CHANGES, *COMPRESSED)),
    "2M-zstd": Kind("compression_type=zstd,cluster_size=2M", COMPRESSED),
    "4k-zstd": Kind("compression_type=zstd,cluster_size=4k", (*CHANGES, *COMPRESSED)),
    "extended": Kind("extended_l2=on", CHANGES),
    "extended-16k": Kind("extended_l2=on,cluster_size=16k", (*CHANGES, *COMPRESSED, "write -P 7 640k 512")),
    "extended-2M": Kind("extended_l2=on,cluster_size=2M", (*CHANGES, *COMPRESSED)),
    "refcount-1": Kind("refcount_bits=1", CHANGES),
    "refcount-2": Kind("refcount_bits=2,cluster_size=4k", CHANGES),
    "refcount-4": Kind("refcount_bits=4,cluster_size=2k", (*CHANGES, *COMPRESSED)),
    "refcount-8": Kind("refcount_bits=8,cluster_size=1k", CHANGES),
    "refcount-32": Kind("refcount_bits=32,cluster_size=512", CHANGES),
    "refcount-64": Kind("refcount_bits=64,cluster_size=512", (*CHANGES, *COMPRESSED)),
    "lazy": Kind("lazy_refcounts=on", CHANGES),
}
PREALLOCATED = {
    "metadata": "preallocation=metadata",
    "metadata-4k": "preallocation=metadata,cluster_size=4k",
    "metadata-extended": "preallocation=metadata,extended_l2=on",
    "falloc": "preallocation=falloc",
    "full": "preallocation=full",
}


def _source() -> bytes:
    """5 MiB and 3 sectors: noise, text, zeros in blocks from a sector to a megabyte."""
    generator = random.Random(20)
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
    """The raw disk that images are made from, its zeros as holes of the file."""
    path = tmp_path_factory.mktemp("source") / "source.raw"
    content = _source()
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), 4096):
            block = content[start : start + 4096]
            if any(block):
                file.seek(start)
                file.write(block)
    return path


@pytest.fixture(scope="session")
def flat(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Flat:
    """The whole disk in an image, as qemu-img reads it."""
    folder = tmp_path_factory.mktemp("flat")

    def _flat(image: Path, *options: str) -> bytes:
        target = folder / "disk.raw"
        run("qemu-img", "convert", *options, "-O", "raw", image, target)
        content = target.read_bytes()
        target.unlink()
        return content

    return _flat


@pytest.fixture(scope="session", params=[*KINDS, *PREALLOCATED, "data-file", "data-file-raw", "chain", "snapshots"])
def image(request: pytest.FixtureRequest, run: Run, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each kind in turn."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    path = folder / f"{kind}.qcow2"
    if kind in KINDS:
        convert(run, source, path, KINDS[kind].options, *KINDS[kind].commands)
    elif kind in PREALLOCATED:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", PREALLOCATED[kind], path, "5M")
        qemu_io(run, path, "write -P 3 1M 70000", "write -P 4 3M 256k", "write -z 4M 300k")
    elif kind.startswith("data-file"):
        raw = "on" if kind.endswith("raw") else "off"
        convert(run, source, path, f"data_file={folder / 'data'},data_file_raw={raw}", *CHANGES)
    elif kind == "chain":
        make_chain(run, source, folder, path)
    else:
        convert(run, source, path, "cluster_size=4k", *COMPRESSED)
        for name in ("one", "two"):
            run("qemu-img", "snapshot", "-c", name, path)
            qemu_io(run, path, *CHANGES[:3], "write -P 9 0 40k")
    return path


def convert(run: Run, source: Path, path: Path, options: str, *commands: str) -> None:
    run("qemu-img", "convert", "-O", "qcow2", "-o", options, source, path)
    qemu_io(run, path, *commands)


def qemu_io(run: Run, path: Path, *commands: str) -> None:
    if commands:
        arguments = [argument for command in commands for argument in ("-c", command)]
        run("qemu-io", "-f", "qcow2", *arguments, path)


def make_chain(run: Run, source: Path, folder: Path, path: Path) -> None:
    """A raw image of odd size below a large, a small and a larger overlay, each with its own cluster size."""
    base = folder / "base.raw"
    base.write_bytes(source.read_bytes()[:3_000_100])
    large, small = folder / "large.qcow2", folder / "small.qcow2"
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    run(*create, "-o", "cluster_size=4k", "-b", base.name, "-F", "raw", large, "8M")
    qemu_io(run, large, "write -P 1 5M 1M", "write -z 1M 64k", "write -P 8 2999k 2k")
    run(*create, "-b", large.name, "-F", "qcow2", small, "4M")
    qemu_io(run, small, "write -P 2 3M 100k", "write -c -P 6 64k 64k")
    run(*create, "-o", "extended_l2=on,cluster_size=128k", "-b", small.name, "-F", "qcow2", path, "9M")
    qemu_io(run, path, "write -P 3 8M 100k", "write -z 3584k 64k", "write -P 4 70k 1k")


@pytest.fixture(scope="session")
def small_image(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """1 MiB of disk, 64 KiB clusters: four with data, one zero, two compressed. For patching."""
    path = tmp_path_factory.mktemp("small") / "small.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    qemu_io(run, path, "write -P 5 0 256k", "write -z 256k 64k", "write -c -P 6 512k 128k")
    return path.read_bytes()


class Patch:
    """Where the tables of an image lie, and copies of it with some bytes changed."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.l1: int = struct.unpack_from(">Q", content, 40)[0]
        self.l2: int = struct.unpack_from(">Q", content, self.l1)[0] & 0x00FFFFFFFFFFFE00
        self.refcount_table: int = struct.unpack_from(">Q", content, 48)[0]
        self.refcount_block: int = struct.unpack_from(">Q", content, self.refcount_table)[0]

    def with_(self, *changes: tuple[int, str, int]) -> bytes:
        """A copy with values put at offsets, each in a format of `struct` without its byte order."""
        changed = bytearray(self.content)
        for offset, format, value in changes:
            struct.pack_into(f">{format}", changed, offset, value)
        return bytes(changed)


@pytest.fixture(scope="session")
def patch(small_image: bytes) -> Patch:
    return Patch(small_image)


@pytest.fixture(scope="session")
def encrypted(run: Run) -> Callable[[Path, str], None]:
    """Make an image of 1 MiB, encrypted with ``luks`` or ``aes``, that holds some data."""

    made: dict[str, bytes] = {}  # qemu-img takes seconds to choose the cost of a key

    def _encrypted(path: Path, cipher: str) -> None:
        if cipher not in made:
            _make(path, cipher)
            made[cipher] = path.read_bytes()
        path.write_bytes(made[cipher])

    def _make(path: Path, cipher: str) -> None:
        secret = ("--object", "secret,id=s0,data=abc")
        options = f"encrypt.format={cipher},encrypt.key-secret=s0"
        if cipher == "luks":
            options += ",encrypt.iter-time=200"
        create_encrypted(run, "create", "-q", "-f", "qcow2", *secret, "-o", options, path, "1M")
        opened = f"driver=qcow2,file.filename={path},encrypt.key-secret=s0"
        run("qemu-io", *secret, "--image-opts", "-c", "write -P 3 0 100k", opened)

    return _encrypted


def create_encrypted(run: Run, *arguments: str | Path) -> None:
    """qemu-img, which measures how fast the machine is and gives up where its clock of CPU time is coarse."""
    for _ in range(20):
        try:
            run("qemu-img", *arguments)
        except AssertionError as error:
            if "Unable to get accurate CPU usage" not in str(error):
                raise
        else:
            return
    pytest.skip("needs a machine on which qemu-img can measure the cost of a key")
