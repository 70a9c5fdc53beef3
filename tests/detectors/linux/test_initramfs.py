"""Initial ramfs images in every compression, compared with what cpio and lsinitramfs list of the same files."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.linux.initramfs import read_initramfs
from guestctl.detectors.linux.initramfs.cpio import CpioEntry

_FUZZ_SECONDS = float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
COMPRESSORS = {
    "cpio": ("cat",),
    "gzip": ("gzip", "-9n"),
    "xz": ("xz", "--check=crc32"),
    "lzma": ("lzma", "-9"),
    "bzip2": ("bzip2",),
    "lz4": ("lz4", "-l", "-9"),
    "zstd": ("zstd", "-q", "-T0", "-10"),
    "zstd --no-check": ("zstd", "-q", "--no-check"),
    "lzop": ("lzop", "-9"),
    "lzop with checksums": ("lzop", "-1", "--crc32"),
}


def pipe(argv: tuple[str, ...], data: bytes, cwd: Path | None = None) -> bytes:
    try:
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True, cwd=cwd).stdout
    except FileNotFoundError:
        pytest.skip(f"needs {argv[0]}")


def read(data: bytes) -> list[CpioEntry]:
    return list(read_initramfs(MemoryDevice(data)))


def names(data: bytes) -> list[str]:
    return [entry.name for entry in read(data)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of awkward sizes and names, larger than a decoder's pieces, compressible and not."""
    top = tmp_path_factory.mktemp("tree")
    modules = top / "usr/lib/modules/6.1.0/kernel/drivers"
    modules.mkdir(parents=True)
    for length in (0, 1, 2, 3, 4, 5, 511, 512):
        (modules / f"module{length}.ko").write_bytes(b"m" * length)
    (top / "random").write_bytes(random.Random(5).randbytes(1500 << 10))
    (top / "zeros").write_bytes(bytes(9 << 20))
    (top / "init").symlink_to("usr/lib/systemd/systemd")
    os.link(top / "zeros", top / "zeros-too")
    (top / ("n" * 200)).touch(mode=0o4711)
    (top / "größe").touch()
    os.mkfifo(top / "fifo")
    return top


@pytest.fixture(scope="module")
def archive(tree: Path) -> bytes:
    """The tree in the format newc."""
    return cpio(tree, "newc")


def cpio(tree: Path, form: str) -> bytes:
    found = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    return pipe(("cpio", "-o", "--quiet", "-H", form), "\n".join([".", *found, ""]).encode(), tree)


def early(tree: Path) -> bytes:
    """What mkinitramfs puts before the others: microcode, in an archive that is not compressed."""
    microcode = tree.parent / "early"
    (microcode / "kernel/x86/microcode").mkdir(parents=True, exist_ok=True)
    (microcode / "kernel/x86/microcode/GenuineIntel.bin").write_bytes(b"\x01" * 5000)
    return cpio(microcode, "newc")


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name != "cpio"])
def test_compressions(compression: str, tree: Path, archive: bytes, tmp_path: Path, run: Run) -> None:
    image = tmp_path / "initrd.img"
    image.write_bytes(early(tree) + pipe(COMPRESSORS[compression], archive))
    assert names(image.read_bytes()) == run("lsinitramfs", image).splitlines()


@pytest.mark.parametrize("form", ["newc", "crc"])
def test_attributes(form: str, tree: Path) -> None:
    data = cpio(tree, form)
    assert names(data) == pipe(("cpio", "-t", "--quiet"), data).decode().splitlines()
    found = {entry.name: entry for entry in read(data)}
    assert len(found) == len(list(tree.rglob("*"))) + 1
    for name, entry in found.items():
        status = (tree / name).lstat()
        expected = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime))
        assert (entry.mode, entry.uid, entry.gid, entry.mtime) == expected
        if entry.nlink == 1:
            assert entry.size == (status.st_size if not (tree / name).is_dir() else 0) or not (tree / name).is_file()
    assert found["zeros"].size + found["zeros-too"].size == 9 << 20


def test_segments_in_sequence(tree: Path, archive: bytes) -> None:
    first, second = pipe(("gzip", "-n"), early(tree)), pipe(("xz", "--check=crc32"), archive)
    expected = names(early(tree)) + names(archive)
    assert names(first + bytes(7) + second + bytes(512)) == expected
    assert names(early(tree) + bytes(1 << 20) + pipe(("lz4", "-l"), archive)) == expected
    assert names(pipe(("zstd", "-q"), early(tree)) + pipe(("zstd", "-q"), archive)) == expected


def test_trailer_may_be_missing(tree: Path) -> None:
    data = early(tree)
    end = data.index(b"TRAILER!!!") - 110
    assert names(data[:end]) == names(data) == names(pipe(("gzip",), data[:end]))


@pytest.mark.parametrize("form", ["odc", "bin"])
def test_older_formats_are_refused(form: str, tree: Path) -> None:
    with pytest.raises(UnsupportedFeature, match=form):
        names(cpio(tree, form))


def test_lz4_frames_are_refused(archive: bytes) -> None:
    with pytest.raises(UnsupportedFeature, match="lz4"):
        names(pipe(("lz4", "-q"), archive))


def test_sum_of_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    data = cpio(tmp_path, "crc")
    with pytest.raises(ChecksumMismatch, match="cpio data"):
        names(data.replace(b"data", b"date"))


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_truncated(compression: str, tree: Path) -> None:
    data = pipe(COMPRESSORS[compression], early(tree))
    for length in (1, 5, 20, 100, len(data) // 2):
        with pytest.raises(InvalidFormat):
            names(data[:length])


@pytest.mark.parametrize(
    "data", [b"", bytes(4096), b"no archive at all", b"070701" + b"g" * 104, b"070701" + b"f" * 104]
)
def test_no_archive(data: bytes) -> None:
    with pytest.raises(InvalidFormat):
        names(data)


def test_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.detectors.linux.initramfs.reader._MAX_CONTENT_BYTES", 8 << 20)
    monkeypatch.setattr("guestctl.detectors.linux.initramfs._MAX_ENTRIES", 3)
    for compression in ("gzip", "xz", "bzip2", "zstd", "lz4", "lzop"):
        with pytest.raises(InvalidFormat, match="more than 8388608 bytes"):
            names(pipe(COMPRESSORS[compression], bytes(9 << 20)))
    header = b"070701" + b"%08x" * 13 % (1, 0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0) + b"a\0"
    with pytest.raises(InvalidFormat, match="more than 3 entries"):
        names(header * 4)


def test_mutants(tmp_path: Path) -> None:
    """A byte changed anywhere ends in a list or in a typed error."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 300)
    small = cpio(tmp_path, "newc")
    images = [pipe(argv, small) for argv in COMPRESSORS.values()]
    generator = random.Random(11)
    end = time.monotonic() + _FUZZ_SECONDS
    errors = 0
    while time.monotonic() < end:
        data = bytearray(generator.choice(images))
        for _ in range(generator.choice((1, 1, 2, 8))):
            data[generator.randrange(min(len(data), 400) if generator.random() < 0.7 else len(data))] = (
                generator.randrange(256)
            )
        try:
            names(bytes(data))
        except GuestctlError as error:
            errors += 1
            assert str(error)
    assert errors


@pytest.mark.long
def test_mkinitramfs_and_dracut(run: Run, tmp_path: Path) -> None:
    """Those of this machine's kernel, by both of the tools that Linux distributions make them with."""
    kernels = sorted(Path("/lib/modules").glob("*/modules.dep")) if Path("/lib/modules").is_dir() else []
    if not kernels:
        pytest.skip("needs a kernel's modules in /lib/modules")
    version = kernels[0].parent.name
    made = tmp_path / "initramfs"
    run("mkinitramfs", "-o", made, version)
    assert names(made.read_bytes()) == run("lsinitramfs", made).splitlines()
    run(
        "dracut",
        "--force",
        "--no-hostonly",
        "--no-early-microcode",
        "--modules",
        "base kernel-modules",
        "--compress",
        "xz",
        made,
        version,
    )
    listed = {
        line.split()[8] for line in run("lsinitrd", made).splitlines() if line[:1] in "dl-" and len(line.split()) > 8
    }
    found = names(made.read_bytes())
    assert listed == {name.removeprefix("./") for name in found} - {"."} or listed == set(found)
