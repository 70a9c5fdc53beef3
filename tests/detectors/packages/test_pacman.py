"""A local database beside what pacman says of it; the texts have the fields that pacman itself writes."""

from __future__ import annotations

from pathlib import Path

from conftest import Run
from guestctl.detectors.packages import applications
from memory_filesystem import MemoryFileSystem

PACKAGES = {
    "zlib-1:1.3.1-2": (
        "%NAME%\nzlib\n\n%VERSION%\n1:1.3.1-2\n\n%BASE%\nzlib\n\n%DESC%\nCompression library\n\n"
        "%URL%\nhttps://www.zlib.net/\n\n%ARCH%\nx86_64\n\n%BUILDDATE%\n1705941033\n\n%INSTALLDATE%\n1706000000\n\n"
        "%PACKAGER%\nA Packager <a@example.org>\n\n%SIZE%\n340000\n\n%LICENSE%\ncustom\n\n%DEPENDS%\nglibc\nsh\n\n"
    ),
    "python-foo-bar-2.0rc1-1.1": (
        "%NAME%\npython-foo-bar\n\n%VERSION%\n2.0rc1-1.1\n\n%BASE%\npython-foo\n\n%DESC%\nAn example\n\n"
        "%ARCH%\nany\n\n%BUILDDATE%\n1705941033\n\n%INSTALLDATE%\n1706000000\n\n%SIZE%\n1\n\n"
    ),
}


def test_as_pacman_says(run: Run, tmp_path: Path) -> None:
    files = {}
    for name, desc in PACKAGES.items():
        folder = tmp_path / "local" / name
        folder.mkdir(parents=True)
        (folder / "desc").write_text(desc)
        (folder / "files").write_text("%FILES%\n")
        files[f"/var/lib/pacman/local/{name}/desc"] = desc
    (tmp_path / "local" / "ALPM_DB_VERSION").write_text("9\n")
    files["/var/lib/pacman/local/ALPM_DB_VERSION"] = "9\n"
    found = applications(MemoryFileSystem(files), "pacman")
    assert found is not None
    expected = run("pacman", "-Q", "--dbpath", tmp_path)
    assert expected.splitlines() == [
        f"{item.name} " + f"{item.epoch}:" * bool(item.epoch) + f"{item.version}-{item.release}" for item in found
    ]
    details = run("pacman", "-Qi", "--dbpath", tmp_path, "zlib")
    assert f"Description     : {found[1].summary}\n" in details
    assert f"Architecture    : {found[1].arch}\n" in details
    assert f"URL             : {found[1].url}\n" in details
    assert f"Packager        : {found[1].publisher}\n" in details


def test_without_a_name() -> None:
    tree = MemoryFileSystem({"/var/lib/pacman/local/broken-1-1/desc": "%VERSION%\n1-1\n"})
    assert applications(tree, "pacman") == []
