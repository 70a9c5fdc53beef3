"""Copying out of a guest that wants to write elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from guestctl.block import BlockDevice, Extent, MappedDevice, MemoryDevice
from guestctl.core.errors import InvalidFormat
from guestctl.disk.copy_out import copy_out
from guestctl.disk.filesystem import WalkError
from tree_filesystem import Node, TreeFileSystem, directory, file, link


class Broken(MemoryDevice):
    """Bytes of which the second half cannot be read."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset + length > self.size // 2:
            raise InvalidFormat("bad block", structure="extent", offset=offset)
        return super().read(offset, length)


class Sparse(MappedDevice):
    """A hole with `data` in the middle."""

    def __init__(self, size: int, at: int, data: bytes) -> None:
        self.size = size
        self._at = at
        self._data = MemoryDevice(data)

    def extent(self, offset: int) -> Extent:
        end = self._at + self._data.size
        if offset < self._at:
            return Extent(0, self._at, None)
        return Extent(self._at, self._data.size, self._data) if offset < end else Extent(end, self.size - end, None)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    path = tmp_path / "inside"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Where nothing may happen; it holds a directory of the name that the guests below use."""
    path = tmp_path / "outside"
    (path / "y").mkdir(parents=True)
    return path


def copied(root: Node, target: Path, path: str = "/") -> list[WalkError]:
    failures: list[WalkError] = []
    copy_out(TreeFileSystem(root), path, target, onerror=failures.append)
    return failures


def everything(path: Path) -> list[str]:
    return sorted(str(item.relative_to(path)) for item in path.rglob("*"))


@pytest.mark.parametrize("name", ["..", ".", "", "../evil", "/etc/evil", "a/b", "nul\0"])
def test_names_that_are_paths(name: str, inside: Path) -> None:
    for child in (file(b"evil"), link("/"), directory(("f", file(b"evil")))):
        failures = copied(directory((name, child), ("good", file(b"good"))), inside)
        assert failures
        assert all(isinstance(failure.error, (InvalidFormat, OSError)) for failure in failures)
        assert everything(inside.parent) == ["inside", "inside/good"]


def test_names_that_are_paths_raise_without_onerror(inside: Path) -> None:
    with pytest.raises(InvalidFormat):
        copy_out(TreeFileSystem(directory(("..", file(b"evil")))), "/", inside)


@pytest.mark.parametrize("link_first", [True, False])
def test_a_link_and_a_directory_of_one_name(link_first: bool, inside: Path, outside: Path) -> None:
    entries = [("x", link(str(outside))), ("x", directory(("f", file(b"evil")), ("y", directory(("g", file())))))]
    failures = copied(directory(*(entries if link_first else entries[::-1])), inside)
    assert everything(outside) == ["y"]
    assert (inside / "x").is_dir() and not (inside / "x").is_symlink()
    assert [type(failure.error) for failure in failures] == [IsADirectoryError]


@pytest.mark.parametrize("link_first", [True, False])
def test_a_link_and_a_file_of_one_name(link_first: bool, inside: Path, outside: Path) -> None:
    entries = [("x", link(str(outside / "f"))), ("x", file(b"evil"))]
    copied(directory(*(entries if link_first else entries[::-1])), inside)
    assert everything(outside) == ["y"]


def test_a_file_and_a_directory_of_one_name(inside: Path) -> None:
    failures = copied(directory(("x", file(b"one")), ("x", directory(("f", file(b"two"))))), inside)
    assert (inside / "x").read_bytes() == b"one"
    assert len(failures) == 2


def test_a_link_that_stands_in_the_target_already(inside: Path, outside: Path) -> None:
    (inside / "x").symlink_to(outside)
    (inside / "f").symlink_to(outside / "f")
    deep = directory(("g", file(b"evil")), ("z", directory(("h", file(b"evil")))), ("l", link("evil")))
    failures = copied(directory(("f", file(b"good")), ("x", directory(("e", file(b"evil")), ("y", deep)))), inside)
    assert everything(outside) == ["y"]
    assert (inside / "x").is_symlink()
    assert (inside / "f").read_bytes() == b"good" and not (inside / "f").is_symlink()
    assert {failure.path for failure in failures} >= {"/x", "/x/e", "/x/y", "/x/y/g", "/x/y/z/h", "/x/y/l"}


def test_a_link_that_an_earlier_path_left(inside: Path, outside: Path) -> None:
    root = directory(
        ("one", directory(("a", directory(("x", link(str(outside))))))),
        (
            "two",
            directory(("a", directory(("x", directory(("y", directory(("evil", file(b"evil"))))))))),
        ),
    )
    assert copied(root, inside, "/one/a") == []
    assert copied(root, inside, "/two/a") != []
    assert everything(outside) == ["y"]


def test_the_target_may_be_reached_through_a_link(inside: Path, tmp_path: Path) -> None:
    way = tmp_path / "way"
    way.symlink_to(inside)
    assert copied(directory(("f", file(b"good"))), way) == []
    assert (inside / "f").read_bytes() == b"good"


def test_the_target_may_be_written_in_many_ways(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inside)
    for number, way in enumerate((f"{inside}/", ".", "./", f"{inside}//", "../inside")):
        failures: list[WalkError] = []
        copy_out(TreeFileSystem(directory((f"f{number}", file()))), "/", way, onerror=failures.append)
        assert failures == []
    assert everything(inside) == ["f0", "f1", "f2", "f3", "f4"]


def test_modes_and_times(inside: Path) -> None:
    root = directory(
        ("suid", file(b"", mode=0o6755, mtime_ns=1_500_000_000_123_456_000)),
        ("old", file(b"", mtime_ns=-1_500_000_000)),
        ("far", file(b"", mtime_ns=2**70)),
        ("sticky", directory(("f", file()), mode=0o3555)),
    )
    assert copied(root, inside) == []
    assert stat.S_IMODE((inside / "suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((inside / "sticky").stat().st_mode) == 0o555
    assert (inside / "suid").stat().st_mtime_ns == 1_500_000_000_123_456_000
    assert (inside / "old").stat().st_mtime_ns == -1_500_000_000


def test_holes_stay_holes(inside: Path) -> None:
    assert copied(directory(("f", file(Sparse(20 << 30, 10 << 30, b"data" * 1024)))), inside) == []
    status = (inside / "f").stat()
    assert status.st_size == 20 << 30
    assert status.st_blocks * 512 < 1 << 20
    with open(inside / "f", "rb") as stream:
        stream.seek((10 << 30) - 1)
        assert stream.read(4098) == b"\0" + b"data" * 1024 + b"\0"


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_file_is_left_out(kind: int, inside: Path) -> None:
    (failure,) = copied(directory(("node", Node(kind, rdev=os.makedev(8, 0))), ("f", file(b"good"))), inside)
    assert failure.path == "/node"
    assert isinstance(failure.error, OSError) and failure.error.errno == errno.EINVAL
    assert everything(inside) == ["f"]


def test_a_file_that_breaks_off_leaves_nothing(inside: Path) -> None:
    device: BlockDevice = Broken(bytes(1000))
    (failure,) = copied(directory(("bad", file(device)), ("f", file(b"good"))), inside)
    assert failure.path == "/bad"
    assert "bad block" in str(failure.error)
    assert everything(inside) == ["f"]


def test_names_of_any_bytes(inside: Path) -> None:
    names = ["\udcff\udcfe", "grüße", "a\nb", "-rf", "x" * 255]
    assert copied(directory(*((name, file(name.encode("utf-8", "surrogateescape"))) for name in names)), inside) == []
    assert sorted(os.listdir(inside)) == sorted(names)
