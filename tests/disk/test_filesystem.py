"""Path operations: those of os and pathlib, over any filesystem."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from guestctl.block import MemoryDevice
from guestctl.core.errors import DetectionError, InvalidFormat, UnsupportedFeature
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import WalkError
from memory_filesystem import Link, MemoryFileSystem

TREE = MemoryFileSystem(
    {
        "/etc/hostname": "guest\n",
        "/etc/os-release": Link("../usr/lib/os-release"),
        "/usr/lib/os-release": "ID=debian\n",
        "/bin": Link("usr/bin"),
        "/usr/bin/sh": "#!",
        "/loop": Link("loop"),
        "/dangling": Link("/nowhere/at/all"),
        "/up": Link("../../../etc"),
        "/usr/lib/a-b": "1",
        "/usr/lib/a/x": "2",
        "/usr/lib/.hidden": "3",
    }
)


def test_read() -> None:
    assert TREE.read_text("/etc/hostname") == "guest\n"
    assert TREE.read_bytes("/etc/os-release") == b"ID=debian\n"
    with TREE.open("/etc/hostname") as stream:
        stream.seek(2)
        assert stream.read() == b"est\n"


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/", "/"),
        ("", "/"),
        ("//etc/./hostname", "/etc/hostname"),
        ("/etc/../etc/hostname", "/etc/hostname"),
        ("/../../etc", "/etc"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/etc/os-release", "/usr/lib/os-release"),
        ("/up/hostname", "/etc/hostname"),
    ],
)
def test_realpath(path: str, real: str) -> None:
    assert TREE.realpath(path) == real


@pytest.mark.parametrize(
    ("path", "error", "number"),
    [
        ("/etc/nothing", FileNotFoundError, errno.ENOENT),
        ("/dangling", FileNotFoundError, errno.ENOENT),
        ("/etc/hostname/x", NotADirectoryError, errno.ENOTDIR),
        ("/etc/hostname/", NotADirectoryError, errno.ENOTDIR),
        ("/loop", OSError, errno.ELOOP),
    ],
)
def test_what_is_not_there(path: str, error: type[OSError], number: int) -> None:
    with pytest.raises(error) as caught:
        TREE.stat(path)
    assert caught.value.errno == number
    assert caught.value.filename == path
    assert not TREE.exists(path)


def test_kinds() -> None:
    assert TREE.is_dir("/bin")
    assert TREE.is_symlink("/bin")
    assert TREE.is_file("/etc/os-release")
    assert not TREE.is_file("/etc")
    assert TREE.lstat("/bin").is_symlink()
    assert TREE.stat("/bin").is_dir()
    assert TREE.is_symlink("/dangling")
    assert TREE.readlink("/bin") == "usr/bin"
    with pytest.raises(OSError, match="Invalid argument"):
        TREE.readlink("/etc")
    with pytest.raises(IsADirectoryError):
        TREE.read_bytes("/etc")


def test_limit() -> None:
    with pytest.raises(InvalidFormat, match="more than the 3"):
        TREE.read_bytes("/etc/hostname", limit=3)


def test_directories() -> None:
    assert sorted(TREE.listdir("/etc")) == ["hostname", "os-release"]
    entries = {entry.name: entry for entry in TREE.scandir("/")}
    assert entries["bin"].is_dir()
    assert not entries["bin"].is_dir(follow_symlinks=False)
    assert entries["bin"].path == "/bin"
    assert not entries["dangling"].is_file()
    assert entries["etc"].stat().is_dir()
    assert entries["etc"].inode() == TREE.stat("/etc").st_ino
    with pytest.raises(NotADirectoryError):
        TREE.listdir("/etc/hostname")


def test_walk() -> None:
    walked = {path: (sorted(directories), sorted(files)) for path, directories, files in TREE.walk("/usr")}
    assert walked["/usr/lib"] == (["a"], [".hidden", "a-b", "os-release"])
    assert set(walked) == {"/usr", "/usr/bin", "/usr/lib", "/usr/lib/a"}


def test_find_sorts_by_whole_paths() -> None:
    found = [(path, status) for path, _, status in TREE.find("/", sort=True)]
    files = [path for path, status in found if not status.is_dir()]
    assert files == sorted(files, key=str.encode)
    assert files.index("/usr/lib/a-b") < files.index("/usr/lib/a/x")
    assert found[0][0] == "/"
    assert len(found) == 17
    assert [path for path, _, _ in TREE.find("/bin")] == ["/bin"]
    assert [path for path, _, _ in TREE.find("/bin/sh")] == ["/bin/sh"]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("/etc/*", ["/etc/hostname", "/etc/os-release"]),
        ("/usr/*/a*", ["/usr/lib/a", "/usr/lib/a-b"]),
        ("/usr/lib/*", ["/usr/lib/a", "/usr/lib/a-b", "/usr/lib/os-release"]),
        ("/**/os-release", ["/etc/os-release", "/usr/lib/os-release"]),
        ("/bin/s[gh]", ["/bin/sh"]),
        ("/none/*", []),
    ],
)
def test_glob(pattern: str, paths: list[str]) -> None:
    assert list(TREE.glob(pattern)) == paths


class Damaged(MemoryFileSystem):
    """A directory that holds itself, one that cannot be read, and a name that is a path."""

    def node_entries(self, node: str) -> Iterator[tuple[str, str, int]]:
        yield from super().node_entries(node)
        if node == "/self":
            yield "again", "/self", 0
        if node == "/names":
            yield "../../x", "/file", 0
        if node == "/broken":
            raise InvalidFormat("broken", structure="directory block", offset=4096)


def test_a_damaged_tree_is_reported_and_left() -> None:
    tree = Damaged({"/broken/before": "", "/self": None, "/names/good": "", "/file": "x"})
    failures: list[WalkError] = []
    paths = [path for path, _, _ in tree.find("/", onerror=failures.append)]
    assert paths == ["/", "/broken", "/broken/before", "/self", "/self/again", "/names", "/names/good", "/file"]
    assert [failure.path for failure in failures] == ["/broken", "/self/again", "/names"]
    with pytest.raises(InvalidFormat):
        list(tree.find("/"))
    with pytest.raises(InvalidFormat, match="no file name"):
        tree.listdir("/names")


def test_detection() -> None:
    with pytest.raises(DetectionError):
        FileSystem.detect(MemoryDevice(bytes(1 << 20)))
    with pytest.raises(DetectionError):
        FileSystem.detect(MemoryDevice(b""))
    swap = MemoryDevice(bytes(1024) + b"\1\0\0\0" + bytes(3058) + b"SWAPSPACE2")
    with pytest.raises(UnsupportedFeature, match="swap"):
        FileSystem.detect(swap)
    identity = FileSystem.identify(swap)
    assert identity is not None
    assert identity.type == "swap"
    assert FileSystem.identify(MemoryDevice(bytes(1 << 20))) is None
