"""Archives as Python's tarfile and GNU tar read them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestctl.block import MemoryDevice
from guestctl.block import Run as BlockRun
from guestctl.core.errors import InvalidFormat
from guestctl.disk.filesystem import WalkError
from guestctl.disk.tar import write_tar
from tree_filesystem import Node, TreeFileSystem, directory, file, link

Run = Callable[..., str]


class Broken(MemoryDevice):
    """Bytes that can be read up to 1 MiB."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset + length > 1 << 20:
            raise InvalidFormat("bad block", structure="extent", offset=offset)
        return super().read(offset, length)


class Zeros(MemoryDevice):
    """Zeros that cost nothing."""

    def __init__(self, size: int) -> None:
        super().__init__(b"")
        self.size = size

    def runs(self, offset: int, length: int) -> Iterator[BlockRun]:
        yield BlockRun(offset, length, None, 0)


class Head(io.RawIOBase):
    """Keeps the first bytes written, counts the rest."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.written = 0

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        if len(self.head) < 8192:
            self.head += view[:8192]
        self.written += len(view)
        return len(view)


def archived(root: Node, path: str = "/") -> tuple[bytes, list[WalkError]]:
    stream = io.BytesIO()
    failures: list[WalkError] = []
    write_tar(TreeFileSystem(root), path, stream, onerror=failures.append)
    assert len(stream.getvalue()) % 10240 == 0
    return stream.getvalue(), failures


def members(root: Node) -> dict[str, tarfile.TarInfo]:
    data, failures = archived(root)
    assert failures == []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {item.name: item for item in archive.getmembers()}


def extracted(root: Node, run: Run, tmp_path: Path) -> Path:
    data, _ = archived(root)
    (tmp_path / "a.tar").write_bytes(data)
    target = tmp_path / "out"
    target.mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "-C", target, "-xf", tmp_path / "a.tar")
    return target


NAMES = [
    "a",
    "x" * 97,
    "x" * 98,
    "x" * 99,
    "y" * 255,
    "grüße",
    "漢字" * 30,
    "\udcff\udcfe",
    "\udcff" * 200,
    "line\nbreak",
    "12 path=evil",
    "a=b%c",
]


def test_names(run: Run, tmp_path: Path) -> None:
    root = directory(*((name, file(name.encode("utf-8", "surrogateescape"))) for name in NAMES))
    assert set(members(root)) == {".", *(f"./{name}" for name in NAMES)}
    target = extracted(root, run, tmp_path)
    assert sorted(os.listdir(target)) == sorted(NAMES)
    for name in NAMES:
        assert (target / name).read_bytes() == os.fsencode(name)


def test_deep_names_and_long_targets(run: Run, tmp_path: Path) -> None:
    node = file(b"deep")
    for _ in range(40):
        node = directory(("d" * 50, node))
    targets = ["t" * 100, "t" * 101, "ü", "/" + "z/" * 1500, "\udcff"]
    root = directory(("top", node), *((f"l{index}", link(target)) for index, target in enumerate(targets)))
    target = extracted(root, run, tmp_path)
    assert (target / "top" / "/".join(["d" * 50] * 40)).read_bytes() == b"deep"
    assert [os.readlink(target / f"l{index}") for index in range(len(targets))] == targets


@pytest.mark.parametrize("name", ["..", "../evil", "a/../../evil"])
def test_names_that_are_paths(name: str) -> None:
    data, failures = archived(directory((name, directory(("f", file(b"evil")))), ("good", file())))
    assert failures
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [".", "./good"]


def test_times(run: Run, tmp_path: Path) -> None:
    times = [0, 1, 10**9, -1, -(10**9), -1_500_000_001, 1_700_000_000_123_456_789, 4_500_000_000 * 10**9, -500_000_000]
    root = directory(*((f"f{index}", file(mtime_ns=time)) for index, time in enumerate(times)))
    target = extracted(root, run, tmp_path)
    assert [(target / f"f{index}").stat().st_mtime_ns for index in range(len(times))] == times
    found = members(directory(("old", file(mtime_ns=-1_500_000_000)), ("far", file(mtime_ns=2**34 * 10**9))))
    assert (found["./old"].mtime, found["./far"].mtime) == (-1.5, 2**34)


def test_hard_links(run: Run, tmp_path: Path) -> None:
    shared = file(b"shared", links=3)
    long_name = "n" * 150
    root = directory((long_name, shared), ("b", shared), ("c", directory(("d", shared))))
    found = members(root)
    assert [found[f"./{name}"].type for name in (long_name, "b", "c/d")] == [tarfile.REGTYPE, *[tarfile.LNKTYPE] * 2]
    assert found["./c/d"].linkname == f"./{long_name}"
    target = extracted(root, run, tmp_path)
    assert (target / "c/d").stat().st_ino == (target / "b").stat().st_ino == (target / long_name).stat().st_ino
    assert (target / "b").read_bytes() == b"shared"


def test_attributes(run: Run, tmp_path: Path) -> None:
    xattrs = {
        "user.binary": bytes(range(256)),
        "user.empty": b"",
        "user.a=b%c": b"5 x=y\n",
        "user.lines": b"\n\n10 path=evil\n",
        "user.length": b"x" * (99 - len("99 SCHILY.xattr.user.length=\n")),
        "user.longer": b"x" * (100 - len("99 SCHILY.xattr.user.longer=\n")),
    }
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.x", b"1")
    except (AttributeError, OSError):
        pytest.skip("needs user attributes in the temporary directory")
    target = extracted(directory(("f", file(b"data", xattrs=xattrs))), run, tmp_path)
    assert {name: os.getxattr(target / "f", name) for name in os.listxattr(target / "f")} == xattrs


def test_modes_owners_and_devices() -> None:
    found = members(
        directory(
            ("suid", file(mode=0o6755, uid=2**32 - 2)),
            ("uid", file(uid=0o7777777)),
            ("uid1", file(uid=0o10000000)),
            ("char", Node(stat.S_IFCHR, rdev=os.makedev(259, 70000))),
            ("block", Node(stat.S_IFBLK, rdev=os.makedev(8, 1))),
            ("fifo", Node(stat.S_IFIFO)),
            ("socket", Node(stat.S_IFSOCK)),
        )
    )
    assert (found["./suid"].mode, found["./suid"].uid) == (0o6755, 2**32 - 2)
    assert (found["./uid"].uid, found["./uid1"].uid) == (0o7777777, 0o10000000)
    assert (found["./char"].devmajor, found["./char"].devminor) == (259, 70000)
    assert (found["./block"].type, found["./fifo"].type) == (tarfile.BLKTYPE, tarfile.FIFOTYPE)
    assert "./socket" not in found


def test_a_file_that_breaks_off_is_padded_with_zeros() -> None:
    size = (5 << 20) + 100
    data, (failure,) = archived(directory(("bad", file(Broken(b"x" * size))), ("good", file(b"good"))))
    assert failure.path == "/bad" and "bad block" in str(failure.error)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [".", "./bad", "./good"]
        bad, good = archive.extractfile("./bad"), archive.extractfile("./good")
        assert bad is not None and bad.read() == bytes(size)
        assert good is not None and good.read() == b"good"


def test_sizes_that_no_octal_field_holds() -> None:
    limit = 8 << 30
    for size in (limit - 1, limit):
        stream = Head()
        write_tar(TreeFileSystem(directory(("f", file(Zeros(size))))), "/", stream)  # type: ignore[arg-type]
        assert stream.written >= size
        with tarfile.open(fileobj=io.BytesIO(bytes(stream.head)), mode="r:") as archive:
            archive.next()
            item = archive.next()
        assert item is not None and (item.name, item.size) == ("./f", size)
