"""``guestctl.Path`` beside ``pathlib.Path`` on the tree that the image was made of."""

from __future__ import annotations

import os
import pathlib
import stat
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

import guestctl
from conftest import Run
from guestctl.core.errors import DetectionError, InvalidFormat
from guestctl.machine import Machine
from memory_filesystem import MemoryFileSystem
from tree_image import make_image, make_tree


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("tree")
    make_tree(path)
    return path


@pytest.fixture(scope="module")
def image(run: Run, top: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("image") / "disk"
    make_image(run, top, path)
    return path


@pytest.fixture(scope="module")
def root(image: pathlib.Path) -> Iterator[guestctl.Path]:
    with guestctl.Path(image) as root:
        yield root


def below(top: pathlib.Path, path: pathlib.Path) -> str:
    return str(PurePosixPath("/", path.relative_to(top)))


def everything(top: pathlib.Path) -> list[str]:
    found = [below(top, top)]
    for base, directories, files in os.walk(top):
        found += [below(top, pathlib.Path(base, name)) for name in directories + files]
    return found


def test_attributes(root: guestctl.Path, top: pathlib.Path) -> None:
    for name in [*everything(top), "/etc/nothing", "/etc/fstab/below", "/nothing/at/all", "/log/apt", "/loop/x"]:
        ours, theirs = root / name, top / name[1:]
        for question in ("is_dir", "is_file", "is_symlink", "is_fifo", "is_socket", "is_block_device", "exists"):
            if name.startswith("/loop") and sys.version_info < (3, 13) and question == "exists":
                continue  # was RuntimeError for pathlib
            assert getattr(ours, question)() == getattr(theirs, question)(), (name, question)
        assert not ours.is_char_device()
        if name == "/" or (not theirs.is_symlink() and not theirs.exists()):
            continue
        status, expected = ours.lstat(), theirs.lstat()
        for field in ("st_mode", "st_nlink", "st_mtime") if not theirs.is_dir() else ("st_mode",):
            assert getattr(status, field) == int(getattr(expected, field)), (name, field)
        if theirs.is_symlink():
            assert ours.readlink() == PurePosixPath(os.readlink(theirs))
        elif theirs.is_file():
            assert ours.read_bytes() == theirs.read_bytes()
    assert root.joinpath("broken").exists(follow_symlinks=False)
    assert root.joinpath("log").stat(follow_symlinks=False).is_symlink() and (root / "log").stat().is_dir()


def test_text(root: guestctl.Path, top: pathlib.Path) -> None:
    ours, theirs = root / "etc/fstab", top / "etc/fstab"
    assert ours.read_text() == theirs.read_text(encoding="utf-8")
    with ours.open() as mine, theirs.open(encoding="utf-8") as other:
        assert list(mine) == list(other)
    with ours.open("rb") as mine:
        assert mine.seek(3) == 3 and mine.read() == theirs.read_bytes()[3:]
    with ours.open(newline="") as mine:
        assert mine.readline().endswith("\r\n")
    latin = root / "etc/latin"
    assert latin.read_text("latin-1") == "café\n" and latin.read_text(errors="replace") == "caf\ufffd\n"
    with pytest.raises(UnicodeDecodeError):
        latin.read_text()
    for mode in ("w", "a", "x", "r+", "wb"):
        with pytest.raises(OSError, match="Read-only"):
            ours.open(mode)
    for wrong in (("rt", "utf-8", "b"), ("rbt", None, None), ("", None, None), ("rb", "utf-8", None)):
        if wrong[0] != "rt":
            with pytest.raises(ValueError):
                ours.open(wrong[0], encoding=wrong[1])


def test_errors(root: guestctl.Path, top: pathlib.Path) -> None:
    calls = ("stat", "lstat", "read_bytes", "read_text", "readlink", "open", "owner", "group")
    for name in ("nothing", "etc/fstab/below", "etc", "broken", "loop", "var/log"):
        for call in (*calls, "iterdir"):
            ours, theirs = _outcome(root / name, call), _outcome(top / name, call)
            assert ours == theirs, (name, call)


def _outcome(path: Any, call: str) -> type[BaseException] | None:
    try:
        found = getattr(path, call)()
        if call == "iterdir":
            list(found)
        elif call == "open":
            found.close()
    except (OSError, ValueError) as error:
        return type(error)
    return None


def test_directories(root: guestctl.Path, top: pathlib.Path) -> None:
    for name in ("", "etc", "empty", "log", "var/log/../log"):
        found = {path.name for path in (root / name).iterdir()}
        assert found - {"lost+found"} == {path.name for path in (top / name).iterdir()}
    for follow in (False, True):
        for top_down in (False, True):
            walked = root.walk(top_down, follow_symlinks=follow)
            ours = [(str(path), sorted(dirs), sorted(files)) for path, dirs, files in walked]
            theirs = []
            for base, directories, files in os.walk(top, top_down, followlinks=follow):
                # pathlib counts links to directories among the files, os.walk does not.
                links = [name for name in directories if not follow and os.path.islink(os.path.join(base, name))]
                names = [*(set(directories) - set(links)), *(["lost+found"] if base == str(top) else [])]
                theirs.append((below(top, pathlib.Path(base)), sorted(names), sorted([*files, *links])))
            assert sorted(one for one in ours if one[0] != "/lost+found") == sorted(theirs)
            depths = [path.count("/") for path, _, _ in ours if path.startswith("/deep")]
            assert depths == sorted(depths, reverse=not top_down)
    pruned = []
    for path, directories, _ in root.walk():
        pruned.append(str(path))
        directories[:] = [name for name in directories if name == "etc"]
    assert pruned == ["/", "/etc"]
    errors: list[Exception] = []
    assert not list((root / "nothing").walk(on_error=errors.append)) and isinstance(errors[0], FileNotFoundError)
    assert not list((root / "nothing").walk())


_PATTERNS = ["*", "*.csv", "*/", "etc/*", "e*/f?tab", "**/*.log", "**/", "var/**/*", "log/*", ".*", "*/[a-c]*"]
_PATTERNS += ["**/b/**/*.txt", "etc/fstab", "etc/nothing", "broken", "deep/*/b/../*", "**/**/leaf.txt", "FIFO", "no*"]


@pytest.mark.parametrize("pattern", _PATTERNS)
def test_glob(root: guestctl.Path, top: pathlib.Path, pattern: str) -> None:
    for search in ("glob", "rglob"):
        ours = sorted(str(path) for path in getattr(root, search)(pattern))
        theirs = {below(top, path) for path in getattr(top, search)(pattern)}
        if pattern == "broken" and sys.version_info < (3, 12):
            theirs.add("/broken")  # was left out
        assert [path for path in ours if "lost+found" not in path] == sorted(theirs)


def test_many_wildcards_are_one() -> None:
    """Each ``**`` after another would look at everything again."""
    root = guestctl.Path.on(MemoryFileSystem({"/d" * 50 + "/x": ""}))
    assert [str(path) for path in root.glob("**/" * 2000 + "x")] == ["/d" * 50 + "/x"]


def test_glob_refuses(root: guestctl.Path) -> None:
    for search in (root.glob, root.rglob):
        with pytest.raises(NotImplementedError):
            list(search("/etc"))
    with pytest.raises(ValueError):
        list(root.glob(""))


def test_resolve(root: guestctl.Path, top: pathlib.Path) -> None:
    names = ("log", "log/current", "var/log/fstab", "log/../lib", "nothing/x/../y", "broken", "etc/fstab/x", "deep/..")
    for name in names:
        assert str((root / name).resolve()) == below(top, (top / name).resolve()), name
        assert _resolved(root / name) == _resolved(top / name)
    assert (root / "../../etc").resolve() == root / "etc"
    with pytest.raises(OSError, match="symbolic links"):
        (root / "loop").resolve(strict=True)


def _resolved(path: Any) -> type[BaseException] | None:
    try:
        path.resolve(strict=True)
    except OSError as error:
        return type(error)
    return None


def test_names(root: guestctl.Path) -> None:
    path = root / "var" / "log/data.tar.gz"
    pure = PurePosixPath("/var/log/data.tar.gz")
    for attribute in ("name", "stem", "suffix", "suffixes", "parts"):
        assert getattr(path, attribute) == getattr(pure, attribute)
    assert str(path) == path.as_posix() == str(pure) and path.is_absolute() and path.absolute() is path
    assert [str(parent) for parent in path.parents] == [str(parent) for parent in pure.parents]
    assert str(path.parent) == "/var/log" and root.parent == root
    for ours, theirs in (
        (path.with_name("x"), pure.with_name("x")),
        (path.with_stem("x"), pure.with_stem("x")),
        (path.with_suffix(".xz"), pure.with_suffix(".xz")),
        (path / "/etc", pure / "/etc"),
        (path / PurePosixPath("a"), pure / "a"),
    ):
        assert str(ours) == str(theirs)
    assert path.relative_to("/var") == path.relative_to(root / "var") == PurePosixPath("log/data.tar.gz")
    assert path.is_relative_to("/var") and not path.is_relative_to("/etc") and path.match("log/*.gz")
    with pytest.raises(ValueError):
        path.relative_to("/etc")
    with pytest.raises(TypeError):
        path / 5  # type: ignore[operator]
    assert repr(path) == "<guestctl.Path '/var/log/data.tar.gz'>"


def test_order(root: guestctl.Path, image: pathlib.Path) -> None:
    a, b = root / "a", root / "b"
    assert a < b and b > a and a <= a and b >= a and a == root / "a" and a != b
    assert len({a, root / "a", b}) == 2 and sorted([b, a]) == [a, b]
    with guestctl.Path(image) as other:
        assert other / "a" != a and a != "/a"
        with pytest.raises(TypeError):
            _ = a < other
        with pytest.raises(TypeError):
            _ = a < "b"  # type: ignore[operator]


def test_owners(root: guestctl.Path) -> None:
    assert ((root / "etc/fstab").owner(), (root / "etc/fstab").group()) == ("alice", "staff")
    assert (root / "etc/passwd").owner() == "root"
    with pytest.raises(KeyError, match="4711"):
        (root / "table.csv").owner()


def test_what_keeps_a_guest_open(image: pathlib.Path) -> None:
    path = guestctl.Path(image) / "etc/passwd"
    file = path.open("rb")
    text = path.open()
    del path
    assert file.read().startswith(b"root") and text.readline().startswith("root")
    file.close()
    text.close()
    with Machine.open(image) as machine:
        tree = machine.filesystem("/dev/sda")
        with guestctl.Path.on(tree, "etc") as etc:
            assert str(etc) == "/etc"
        assert (etc / "fstab").is_file()


class _Loop(MemoryFileSystem):
    """A directory that is its own child."""

    def node_entries(self, node: str) -> Iterator[tuple[str, str, int]]:
        yield "same", "/", stat.S_IFDIR


def test_a_directory_inside_itself() -> None:
    root = guestctl.Path.on(_Loop({}))
    for walk in (root.walk, lambda: root.rglob("*.log")):
        with pytest.raises(InvalidFormat, match="in two places"):
            list(walk())
    errors: list[Exception] = []
    assert [str(path) for path, _, _ in root.walk(on_error=errors.append)] == ["/"] and len(errors) == 1


def test_device_and_disks(run: Run, image: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run("mke2fs", "-q", tmp_path / "second", "1M")
    with guestctl.Path(image, tmp_path / "second", device="/dev/sda") as root:
        assert (root / "etc/fstab").is_file()
    with guestctl.Path(image, tmp_path / "second", device="/dev/sdb") as root:
        assert [path.name for path in root.iterdir()] == ["lost+found"]
        with pytest.raises(KeyError):
            (root / "lost+found").owner()
    with pytest.raises(DetectionError, match="device="):
        guestctl.Path(image, image)
    with pytest.raises(FileNotFoundError):
        guestctl.Path(tmp_path / "nothing")
