"""``guestctl diff`` beside kernel mounts of both sides, ``diff`` and ``dpkg-query``."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guestctl.block import BlockDevice, Run
from guestctl.block.device import Buffer
from guestctl.cli import main
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.diff import FileChange, Places, diff_files
from guestctl.disk.filesystem import WalkError
from guestctl.machine import Machine
from memory_filesystem import Link, MemoryFileSystem

DEMO = Path(__file__).resolve().parents[1] / "data" / "debian-12.qcow2"
_CLUSTER = 64 << 10
_EDITS = """\
rm /etc/issue
symlink /etc/link /nowhere
set_inode_field /etc/fstab mode 0100600
set_inode_field /etc/passwd uid 1234
mkdir /opt
mkdir /opt/new
write {long} /opt/new/long
rm /etc/hostname
write {hostname} /etc/hostname
rm /var/lib/dpkg/status
write {status} /var/lib/dpkg/status
ea_set /etc/shells user.note something
rm /etc/os-release
write {hostname} /etc/os-release
"""
Run_ = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]


class Sides(NamedTuple):
    """An image and what it became: as an image of its own, and as an overlay on the first."""

    base: Path  # with compressed clusters
    before: Path  # the same raw
    after: Path
    overlay: Path
    root: int  # where the root filesystem begins


@pytest.fixture(scope="module")
def sides(run: Run_, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    folder = tmp_path_factory.mktemp("diff")
    before, after, overlay = folder / "before.raw", folder / "after.raw", folder / "overlay.qcow2"
    base = Path(shutil.copy(DEMO, folder))
    run("qemu-img", "convert", "-O", "raw", base, before)
    shutil.copy(before, after)
    with Machine.open(before) as machine:
        partition = machine.partition("/dev/sda2")
        assert partition is not None
        root = partition.start
        status = machine.filesystem("/dev/sda2").read_text("/var/lib/dpkg/status")
    files = {name: folder / name for name in ("long", "hostname", "status")}
    files["long"].write_bytes(os.urandom(700_000))
    files["hostname"].write_text("other\n")
    files["status"].write_text(status.replace("\nVersion: 3.134\n", "\nVersion: 3.135\n"))
    (folder / "edits").write_text(_EDITS.format(**files))
    run("debugfs", "-w", "-f", folder / "edits", f"{after}?offset={root}")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    old, new = before.read_bytes(), after.read_bytes()
    changed = [at for at in range(0, len(new), _CLUSTER) if old[at : at + _CLUSTER] != new[at : at + _CLUSTER]]
    words = [word for at in changed for word in ("-c", f"write -q -s {_piece(folder, new, at)} {at} {_CLUSTER}")]
    run("qemu-io", "-f", "qcow2", *words, overlay)
    return Sides(base, before, after, overlay, root)


def _piece(folder: Path, content: bytes, at: int) -> Path:
    path = folder / f"piece-{at}"
    path.write_bytes(content[at : at + _CLUSTER])
    return path


def _diff(capsys: pytest.CaptureFixture[str], *words: object, code: int = 1) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["diff", *map(str, words)])
    captured = capsys.readouterr()
    assert exit.value.code == code, captured.err
    return captured.out


def _listed(top: Path) -> dict[str, os.stat_result]:
    return {
        "/" + str((Path(where) / name).relative_to(top)): os.lstat(Path(where) / name)
        for where, directories, files in os.walk(top)
        for name in (*directories, *files)
    }


def _expected(left: Path, right: Path) -> Iterator[tuple[str, str]]:
    """(path, what differs) as the kernel's mounts have it."""
    before, after = _listed(left), _listed(right)
    for path in before.keys() ^ after.keys():
        yield path, "removed" if path in before else "added"
    for path in before.keys() & after.keys():
        old, new = before[path], after[path]
        here, there = left / path[1:], right / path[1:]
        if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
            yield path, "type"
        elif stat.S_ISREG(old.st_mode) and not filecmp.cmp(here, there, shallow=False):
            yield path, "content"
        if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
            yield path, "mode"
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            yield path, "owner"
        if _xattrs(here) != _xattrs(there):
            yield path, "xattrs"


def _xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def _told(changes: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for change in changes:
        if change["before"] is None or change["after"] is None:
            yield change["path"], "added" if change["before"] is None else "removed"
        for what in change["differs"]:
            yield change["path"], what


@pytest.mark.root
def test_files_beside_kernel_mounts(sides: Sides, mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"ro,loop,offset={sides.root}"
    with mount(sides.before, options) as left, mount(sides.after, options) as right:
        expected = sorted(_expected(left, right))
    assert ("/etc/hostname", "content") in expected and ("/opt/new/long", "added") in expected
    assert ("/etc/shells", "xattrs") in expected and ("/etc/os-release", "type") in expected
    for other in (sides.after, sides.overlay):
        found = json.loads(_diff(capsys, "--json", "-m", "/dev/sda2", sides.base, other))["files"]
        assert sorted(_told(found)) == expected
        assert [change["path"] for change in found] == sorted(change["path"] for change in found)


def test_views_beside_dpkg_query(sides: Sides, run: Run_, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = []
    for name, image in (("before", sides.before), ("after", sides.after)):
        (tmp_path / name / "info").mkdir(parents=True)
        with Machine.open(image) as machine:
            status = machine.filesystem("/dev/sda2").read_bytes("/var/lib/dpkg/status")
        (tmp_path / name / "status").write_bytes(status)
        listed = run(
            "dpkg-query", f"--admindir={tmp_path / name}", "-W", "-f", "${Package}:${Architecture} ${Version}\n"
        )
        versions.append(dict(line.split() for line in listed.splitlines()))
    expected = [
        {"name": name, "field": "version", "before": version, "after": versions[1][name]}
        for name, version in versions[0].items()
        if versions[1][name] != version
    ]
    found = json.loads(_diff(capsys, "--json", sides.before, sides.overlay))
    assert found["packages"] == expected and len(expected) == 1
    hostname = {"name": "hostname", "field": "", "before": "demo.example.org", "after": "other"}
    assert hostname in found["system"]


def test_page(sides: Sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = _diff(capsys, "--text", sides.before, sides.overlay)
    assert "~ adduser:all version: 3.134 → 3.135" in page
    assert "~ /etc/fstab  (mode 0644 → 0600)" in page
    assert "+ /opt/new/\n+ /opt/new/long\n" in page
    for number, name in enumerate("ab"):
        path = tmp_path / name / "etc" / "hostname"
        path.parent.mkdir(parents=True)
        path.write_text(("demo.example.org\n", "other\n")[number])
    names = ("a/etc/hostname", "b/etc/hostname")
    labels = [word for name in names for word in ("--label", name)]
    done = subprocess.run(["diff", "-u", *labels, *names], cwd=tmp_path, capture_output=True, text=True)
    assert "".join(f"    {line}\n" for line in done.stdout.splitlines()) in page and done.returncode == 1
    assert "Files:" not in _diff(capsys, "--no-files", sides.before, sides.overlay)
    assert _diff(capsys, "--path", "/opt", sides.before, sides.overlay).splitlines()[3:] == [
        "Files:",
        "+ /opt/",
        "+ /opt/new/",
        "+ /opt/new/long",
    ]


def test_same(sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    assert _diff(capsys, DEMO, sides.before, code=0) == ""
    assert json.loads(_diff(capsys, "--json", DEMO, DEMO, code=0))["files"] == []


def test_trouble(sides: Sides, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _diff(capsys, DEMO, tmp_path / "missing", code=2)
    _diff(capsys, DEMO, sides.after, "--path", "/nowhere", code=2)


class _Unread(BlockDevice):
    """Tells where its bytes lie and fails where they are read."""

    def __init__(self, device: BlockDevice) -> None:
        self.size = device.size
        self._device = device

    def read(self, offset: int, length: int) -> Buffer:
        raise AssertionError("read")

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        return self._device.runs(offset, length)


def test_what_lies_in_one_place_is_not_read(sides: Sides) -> None:
    with Machine.open(sides.base) as left, Machine.open(sides.overlay) as right, Machine.open(sides.before) as other:
        path = "/var/lib/dpkg/status"
        ours, moved = (_Unread(one.filesystem("/dev/sda2").device("/etc/services")) for one in (left, right))
        assert Places(left, right).same_content(ours, moved)
        with pytest.raises(AssertionError, match="read"):
            Places(left, other).same_content(ours, moved)
        changed = [one.filesystem("/dev/sda2").device(path) for one in (left, right)]
        assert not Places(left, right).same_content(*changed)


def _files(left: MemoryFileSystem, right: MemoryFileSystem, **how: Any) -> tuple[list[FileChange], list[WalkError]]:
    with Machine([]) as machine:
        errors: list[WalkError] = []
        places = Places(machine, machine)
        return list(diff_files(left, right, places=places, onerror=errors.append, **how)), errors


def test_order_and_kinds() -> None:
    left = MemoryFileSystem({"/a": "1", "/a-b": "x", "/d/x": "", "/l": Link("a"), "/same": "s", "/t": "t"})
    right = MemoryFileSystem({"/a/x": "1", "/a-b": "y", "/d/x": "", "/l": Link("b"), "/same": "s", "/t": Link("t")})
    found, errors = _files(left, right)
    assert not errors
    told = [(one.path, one.differs or ("added" if one.before is None else "removed")) for one in found]
    assert told == [
        ("/a", "removed"),
        ("/a-b", ["content"]),
        ("/a", "added"),
        ("/a/x", "added"),
        ("/l", ["target"]),
        ("/t", ["type"]),
    ]


class _Damaged(MemoryFileSystem):
    """One directory cannot be listed, one file not be read."""

    def node_entries(self, node: str) -> Iterable[tuple[str, str, int]]:
        if node == "/bad":
            raise InvalidFormat("damaged", structure="directory", offset=0)
        return super().node_entries(node)

    def node_data(self, node: str) -> BlockDevice:
        if node == "/worse":
            raise InvalidFormat("damaged", structure="extent", offset=0)
        return super().node_data(node)


def test_damage_is_no_difference() -> None:
    files = {"/bad/deep/one": "1", "/good": "2", "/worse": "3"}
    for damaged, whole in ((_Damaged(files), MemoryFileSystem(files)), (MemoryFileSystem(files), _Damaged(files))):
        found, errors = _files(damaged, whole)
        assert not found
        assert [error.path for error in errors] == ["/bad", "/worse"]


def test_texts() -> None:
    names = ("/etc/small", "/etc/long", "/etc/large", "/etc/binary", "/srv/other")
    old = ("one\n", "x\n" * 1001, "x" * 70_000, "\0", "one\n")
    new = ("two", "y\n" * 1001, "y" * 70_000, "\1\0", "two\n")
    left, right = (MemoryFileSystem(dict(zip(names, texts, strict=True))) for texts in (old, new))
    found, _ = _files(left, right, with_text=True)
    assert {one.path: one.diff for one in found if one.diff} == {
        "/etc/small": "--- a/etc/small\n+++ b/etc/small\n@@ -1 +1 @@\n-one\n+two\n\\ No newline at end of file\n"
    }
    assert len(found) == 5


def test_page_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    from guestctl.cli.diff import _Page

    found, _ = _files(MemoryFileSystem({"/\x1b[31m\n": "1"}), MemoryFileSystem({"/\udcff\x9b": "1"}))
    page = _Page()
    page.head("a\x1b", "b")
    page.files(iter(found))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["--- a\\x1b", "+++ b", "", "Files:", "- /\\x1b[31m\\x0a", "+ /\\xff\\x9b"]


def test_what_cannot_be_inspected_is_trouble(
    sides: Sides, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from guestctl.detectors.linux import DETECTORS

    def damaged(tree: object, found: object) -> None:
        raise InvalidFormat("damaged", structure="extent", offset=0)

    monkeypatch.setitem(DETECTORS, "hostname", damaged)
    _diff(capsys, "--no-files", sides.before, sides.before, code=2)
