"""dpkg's database beside dpkg-query, over this machine's own and over ones with every state and diversion."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import Run
from guestctl.detectors import packages
from guestctl.detectors.system import System
from memory_filesystem import Link, MemoryFileSystem

STATES = (
    "not-installed", "config-files", "half-installed", "unpacked", "half-configured", "triggers-awaited",
    "triggers-pending", "installed",
)  # fmt: skip
QUERY = (
    "${db:Status-Status} ${Package} ${Version} ${Architecture} ${source:Package} ${Installed-Size} ${binary:Summary}\n"
)


def _system(files: dict[str, str | bytes | None]) -> System:
    return cast(System, SimpleNamespace(tree=MemoryFileSystem(files), warnings=[]))


def _tree(admindir: Path, names: tuple[str, ...] = ()) -> dict[str, str | bytes | None]:
    files: dict[str, str | bytes | None] = {
        f"/var/lib/dpkg/{name}": (admindir / name).read_bytes()
        for name in ("status", "diversions")
        if (admindir / name).exists()
    }
    for folder in ("updates", "info"):
        for path in (admindir / folder).glob("*"):
            if folder == "updates" or path.name.partition(".")[0].partition(":")[0] in names:
                files[f"/var/lib/dpkg/{folder}/{path.name}"] = path.read_bytes()
    return files


def _lines(system: System) -> list[str]:
    return sorted(
        f"{item.status} {item.name} {item.full_version} {item.arch} {item.source or item.name} "
        f"{(item.size or 0) >> 10 or ''} {item.summary}"
        for item in packages.packages(system)
    )


@pytest.fixture(scope="module")
def machine() -> Path:
    admindir = Path("/var/lib/dpkg")
    if not (admindir / "status").exists():
        pytest.skip("needs a dpkg database on this machine")
    return admindir


def test_packages_of_this_machine(run: Run, machine: Path) -> None:
    expected = sorted(run("dpkg-query", "-W", "-f", QUERY).splitlines())
    assert _lines(_system(_tree(machine))) == expected


def test_files_of_this_machine(run: Run, machine: Path) -> None:
    names = ("libc6", "base-files", "dash", "coreutils")
    system = _system(_tree(machine, names))
    for name in names:
        listed: list[str] = []
        for line in run("dpkg-query", "-L", name).splitlines():
            if line.startswith("/"):
                listed.append("/" if line == "/." else line)
            elif line.startswith(("diverted by ", "locally diverted ")):  # not "package diverts others"
                listed[-1] = line.partition(" to: ")[2]
        found = list(packages.files(system, name))
        assert [file.path for file in found] == listed
        conffiles = dict(
            line.split()[:2]
            for line in run("dpkg-query", "-W", "-f", "${Conffiles}", name).splitlines()
            if line.strip()
        )
        assert {file.path: file.digest for file in found if file.config} == conffiles


def test_digests_of_this_machine(run: Run, machine: Path) -> None:
    """The files that the md5sums name are there, and md5sum says the same of them."""
    found = [file for file in packages.files(_system(_tree(machine, ("coreutils",))), "coreutils") if file.digest]
    present = [file for file in found if Path(file.path).is_file()][:40]
    assert present
    for line, file in zip(run("md5sum", *[file.path for file in present]).splitlines(), present, strict=True):
        assert line.split()[0] == file.digest


def test_owners(machine: Path) -> None:
    files = _tree(machine, ("dash", "coreutils", "base-files")) | {
        "/usr/bin/ls": "", "/usr/lib/os-release": "", "/usr/share/man/man1/sh.1.gz": ""
    }  # fmt: skip
    files["/bin"] = Link("usr/bin")
    system = _system(files)
    for path in ("/bin/ls", "/usr/bin/ls"):  # whichever of the two the list has
        assert [package.name for package in packages.owners(system, path)] == ["coreutils"]
    assert [package.name for package in packages.owners(system, "/usr/lib/os-release")] == ["base-files"]
    assert list(packages.owners(system, "/usr/lib/nobody")) == []


def test_every_state_updates_and_diversions(run: Run, tmp_path: Path) -> None:
    paragraphs = [
        f"Package: in-{state}\nStatus: install ok {state}\nArchitecture: amd64\nInstalled-Size: {number + 1}\n"
        f"Version: {number}:1-{number}\nMaintainer: A <a@example.org>\nSource: made (2-1)\nDescription: one\n more\n"
        + ("Triggers-Awaited: in-installed\n" if state == "triggers-awaited" else "")
        + ("Triggers-Pending: ldconfig\n" if state == "triggers-pending" else "")
        + ("Config-Version: 1\n" if state in ("half-installed", "unpacked", "half-configured", "config-files") else "")
        for number, state in enumerate(STATES)
    ]
    other = paragraphs[-1].replace("amd64", "i386\nMulti-Arch: same")
    paragraphs[-1] = paragraphs[-1].replace("amd64", "amd64\nMulti-Arch: same")
    (tmp_path / "status").write_text("\n".join([*paragraphs, other]))
    (tmp_path / "updates").mkdir()
    newer = paragraphs[4].replace("4:1-4", "5")
    done = newer.replace("ok half-configured", "ok installed").replace("Config-Version: 1\n", "")
    (tmp_path / "updates" / "0000").write_text(done)
    (tmp_path / "updates" / "0001").write_text(newer.replace("5", "6"))
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "format").write_text("1\n")
    for arch in ("amd64", "i386"):
        (tmp_path / "info" / f"in-installed:{arch}.list").write_text(f"/.\n/usr/lib/{arch}\n/usr/bin/x\n")
    (tmp_path / "info" / "in-unpacked.list").write_text("/.\n/usr/bin/x\n/usr/bin/y\n")
    (tmp_path / "diversions").write_text("/usr/bin/x\n/usr/bin/x.real\nin-unpacked\n/usr/bin/y\n/usr/bin/y.local\n:\n")
    system = _system(_tree(tmp_path, ("in-installed", "in-unpacked")))
    expected = run("dpkg-query", "--admindir", tmp_path, "-W", "-f", QUERY)
    assert _lines(system) == sorted(expected.splitlines())
    assert "half-configured in-half-configured 6 amd64 made 6 one" in expected
    assert "not-installed" not in expected
    assert [file.path for file in packages.files(system, "in-installed:i386")] == [
        "/", "/usr/lib/i386", "/usr/bin/x.real"
    ]  # fmt: skip
    listed = run("dpkg-query", "--admindir", tmp_path, "-L", "in-unpacked")
    assert "diverted by local admin to: /usr/bin/y.local" in listed.replace(
        "locally diverted", "diverted by local admin"
    )
    assert [file.path for file in packages.files(system, "in-unpacked")] == ["/", "/usr/bin/x", "/usr/bin/y.local"]


def test_a_database_that_cannot_be_read_is_a_warning(machine: Path) -> None:
    system = _system({"/var/lib/dpkg/status": (machine / "status").read_bytes(), "/var/lib/rpm/Packages.db": b"no"})
    assert packages.packages(system)
    assert len(system.warnings) == 1 and system.warnings[0].startswith("rpm: ndb database")


def test_status_d_has_digests() -> None:
    files: dict[str, Any] = {
        "/var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n",
        "/var/lib/dpkg/status.d/base.md5sums": "c5e0ee5b5d7f2a7f1a5e0c5b7a2f1e00  usr/lib/os-release\n",
    }
    (file,) = packages.files(_system(files), "base-files")
    assert (file.path, file.digest) == ("/usr/lib/os-release", "c5e0ee5b5d7f2a7f1a5e0c5b7a2f1e00")


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the Debian guest, as dpkg-query says of its status file."""
    import json

    from guestctl.cli import main
    from guestctl.machine import Machine

    image = Path(__file__).parents[2] / "data" / "debian-12.qcow2"
    with Machine.open(image) as machine:
        (tmp_path / "status").write_bytes(machine.guests()[0].tree.read_bytes("/var/lib/dpkg/status"))
    with pytest.raises(SystemExit, match="0"):
        main(["packages", str(image), "--json"])
    (guest,) = json.loads(capsys.readouterr().out)
    expected = run("dpkg-query", "--admindir", tmp_path, "-W", "-f", "${Package} ${Architecture} ${db:Status-Status}\n")
    found = [f"{item['name']} {item['arch']} {item['status']}" for item in guest["packages"]]
    assert sorted(found) == sorted(expected.splitlines())
    with pytest.raises(SystemExit, match="2"):
        main(["packages", str(image), "--files", "x", "--owner", "/y"])
