"""rpm databases in each of its formats, beside rpm itself; damage."""

from __future__ import annotations

import lzma
import random
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import Run
from guestctl.core.errors import GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.detectors.packages import applications
from guestctl.detectors.packages.rpm import berkeley, ndb, sqlite
from guestctl.detectors.packages.rpm.header import Header
from guestctl.detectors.report import Application
from guestctl.detectors.report.packages import Package, PackageFile
from memory_filesystem import MemoryFileSystem

FILES = {
    "sqlite": ("cbl-mariner-2.0.rpmdb.sqlite.xz", "rpmdb.sqlite"),
    "ndb": ("sle15-bci.Packages.db.xz", "Packages.db"),
    "bdb_ro": ("libuuid.Packages.xz", "Packages"),
}
READERS = {"sqlite": sqlite.headers, "ndb": ndb.headers, "bdb_ro": berkeley.headers}
QUERY = (
    "%{NAME}|%|EPOCH?{%{EPOCH}}:{0}||%{VERSION}|%{RELEASE}|%|ARCH?{%{ARCH}}||%{SUMMARY}|"
    "%|URL?{%{URL}}||%|VENDOR?{%{VENDOR}}||%|SOURCERPM?{%{SOURCERPM}}|\\n"
)


def _database(shared: Path, backend: str) -> bytes:
    return lzma.decompress((shared / "rpmdb" / FILES[backend][0]).read_bytes())


def _words(found: Application | Package) -> str:
    return "|".join(map(str, (
        found.name, found.epoch, found.version, found.release, found.arch, found.summary, found.url, found.publisher,
        found.source,
    )))  # fmt: skip


def _asked(run: Run, directory: Path, backend: str) -> list[str]:
    if shutil.which("rpm") is None:
        pytest.skip("needs rpm")
    output = run("rpm", "-qa", "--dbpath", directory, "--define", f"_db_backend {backend}", "--qf", QUERY)
    return sorted(output.splitlines())


@pytest.mark.parametrize("backend", ["sqlite", "bdb_ro"])
def test_as_rpm_says(run: Run, shared: Path, tmp_path: Path, backend: str) -> None:
    database = _database(shared, backend)
    (tmp_path / FILES[backend][1]).write_bytes(database)
    tree = MemoryFileSystem({f"/var/lib/rpm/{FILES[backend][1]}": database})
    found = applications(tree, "rpm")
    assert found
    assert sorted(map(_words, found)) == _asked(run, tmp_path, backend)


@pytest.mark.parametrize("backend", FILES)
def test_headers_as_rpm_imports_them(run: Run, shared: Path, tmp_path: Path, backend: str) -> None:
    """rpm takes the headers of every format into a database of its own, and says of them what we say."""
    if shutil.which("rpmdb") is None:
        pytest.skip("needs rpmdb")
    headers = list(READERS[backend](_database(shared, backend)))
    stream = b"".join(b"\x8e\xad\xe8\x01" + bytes(4) + header for header in headers)
    options = ["--dbpath", str(tmp_path), "--define", "_db_backend sqlite"]
    subprocess.run(["rpmdb", "--initdb", *options], check=True)
    subprocess.run(["rpmdb", "--importdb", *options], input=stream, check=True, capture_output=True)
    asked = _asked(run, tmp_path, "sqlite")
    assert len(asked) == len(headers) == {"sqlite": 129, "ndb": 35, "bdb_ro": 1}[backend]
    assert sorted(_words(Header(header).package()) for header in headers) == asked


def _dump(file: PackageFile) -> tuple[str, ...]:
    """The columns of ``rpm -q --dump`` up to that of configuration files."""
    words = (
        file.path,
        file.size,
        file.mtime,
        file.digest or "0" * 64,
        f"0{file.mode or 0:o}",
        file.owner,
        file.group,
    )
    return (*map(str, words), str(int(file.config)))


@pytest.mark.parametrize("backend", ["sqlite", "bdb_ro"])
def test_files_as_rpm_says(run: Run, shared: Path, tmp_path: Path, backend: str) -> None:
    database = _database(shared, backend)
    (tmp_path / FILES[backend][1]).write_bytes(database)
    options = ("--dbpath", tmp_path, "--define", f"_db_backend {backend}")
    dumped, targets = set(), set()
    for line in run("rpm", "-qa", *options, "--dump").splitlines():
        if line != "(contains no files)":
            path, size, mtime, digest, mode, owner, group, config, _doc, _rdev, target = line.split(" ")
            digest = "0" * 64 if set(digest) == {"0"} else digest
            dumped.add((path, size, mtime, digest, mode, owner, group, config))
            targets.add((path, None if target == "X" else target))
    found = [file for blob in READERS[backend](database) for file in Header(blob).files()]
    assert {_dump(file) for file in found} == dumped
    assert {(file.path, file.target) for file in found} == targets
    algorithms = run("rpm", "-qa", *options, "--qf", "[%{FILEDIGESTALGO} ]").split()
    expected = {"1": "md5", "8": "sha256", "(none)": "md5"}
    assert {file.algorithm for file in found} - {None} == {expected[word] for word in algorithms}


@pytest.mark.parametrize("backend", ["sqlite", "bdb_ro"])
def test_details_as_rpm_says(run: Run, shared: Path, tmp_path: Path, backend: str) -> None:
    database = _database(shared, backend)
    (tmp_path / FILES[backend][1]).write_bytes(database)
    query = "%{NAME}|%{LICENSE}|%{INSTALLTIME}|%|LONGSIZE?{%{LONGSIZE}}:{%{SIZE}}||%{DESCRIPTION}@@@"
    options = ("--dbpath", tmp_path, "--define", f"_db_backend {backend}")
    found = [Header(blob).package() for blob in READERS[backend](database)]
    assert sorted(run("rpm", "-qa", *options, "--qf", query).split("@@@")[:-1]) == sorted(
        f"{item.name}|{item.licenses[0]}|{item.install_time}|{item.size}|{item.description}" for item in found
    )


@pytest.mark.parametrize("order", ["1234", "4321"])
@pytest.mark.parametrize("kind", ["hash", "btree"])
@pytest.mark.parametrize("page", [512, 4096, 65536])
def test_berkeley(shared: Path, tmp_path: Path, kind: str, order: str, page: int) -> None:
    """What Berkeley DB's own db_load writes: small values in the pages, large ones apart, in both byte orders."""
    if shutil.which("db_load") is None:
        pytest.skip("needs db_load")
    (header,) = berkeley.headers(_database(shared, "bdb_ro"))
    chance = random.Random(1)
    values = [header[: chance.choice((40, 100, 700, 5000, len(header)))] for _ in range(400)]
    lines = [
        "VERSION=3", "format=bytevalue", f"type={kind}", f"db_lorder={order}", f"db_pagesize={page}", "HEADER=END",
        " 00000000", " 90010000",  # what counts packages is none
    ]  # fmt: skip
    for number, value in enumerate(values, 1):
        lines += [f" {struct.pack('<I', number).hex()}", f" {value.hex()}"]
    text = "\n".join([*lines, "DATA=END", ""])
    subprocess.run(["db_load", tmp_path / "Packages"], input=text, text=True, check=True)
    assert sorted(berkeley.headers((tmp_path / "Packages").read_bytes())) == sorted(values)


def test_write_ahead_log(shared: Path, tmp_path: Path) -> None:
    """A snapshot of a running guest has packages in the log that are not in the database yet."""
    path = tmp_path / "rpmdb.sqlite"
    path.write_bytes(_database(shared, "sqlite"))
    (header,) = berkeley.headers(_database(shared, "bdb_ro"))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("INSERT INTO Packages (blob) VALUES (?)", (header,))
    files = {f"/usr/lib/sysimage/rpm/{name.name}": name.read_bytes() for name in tmp_path.iterdir()}
    connection.close()
    found = applications(MemoryFileSystem(files), "rpm")
    assert found is not None
    assert len(found) == 130
    assert "libuuid" in [item.name for item in found]


def test_none() -> None:
    assert applications(MemoryFileSystem({}), "rpm") == []


def test_encrypted(shared: Path) -> None:
    database = bytearray(_database(shared, "bdb_ro"))
    database[24] = 1
    with pytest.raises(UnsupportedFeature, match="encrypted"):
        list(berkeley.headers(bytes(database)))


def test_overflow_pages_in_a_circle(shared: Path) -> None:
    database = bytearray(_database(shared, "bdb_ro"))
    database[5 * 4096 + 16 : 5 * 4096 + 20] = struct.pack("<I", 3)
    with pytest.raises(InvalidFormat):
        list(map(Header, berkeley.headers(bytes(database))))


@pytest.mark.parametrize("backend", FILES)
def test_mutants(shared: Path, backend: str) -> None:
    original = _database(shared, backend)
    chance = random.Random(0)
    read = 0
    for number in range(150):
        data = bytearray(original)
        for _ in range(chance.choice((1, 2, 30))):
            data[chance.randrange(min(len(data), chance.choice((64, 4096, 1 << 30))))] = chance.randrange(256)
        if number % 10 == 0:
            del data[chance.randrange(len(data)) :]
        try:
            for blob in READERS[backend](bytes(data)):
                header = Header(blob)
                assert header.package().name
                read += 1 + sum(bool(file.path) for file in header.files())
        except GuestctlError as error:
            assert str(error)
    assert read


def test_a_damaged_header_costs_no_other(shared: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import cast

    from guestctl.detectors.packages import packages
    from guestctl.detectors.system import System

    (tmp_path / "rpmdb.sqlite").write_bytes(_database(shared, "sqlite"))
    with sqlite3.connect(tmp_path / "rpmdb.sqlite") as connection:
        connection.execute("UPDATE Packages SET blob = x'00' WHERE hnum = (SELECT min(hnum) FROM Packages)")
    connection.close()
    tree = MemoryFileSystem({"/var/lib/rpm/rpmdb.sqlite": (tmp_path / "rpmdb.sqlite").read_bytes()})
    system = cast(System, SimpleNamespace(tree=tree, warnings=[]))
    assert len(packages(system)) == 128
    assert system.warnings == ["rpm: rpm header at offset 0x0: 1 bytes"]
