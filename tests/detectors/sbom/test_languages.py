"""Packages of languages, as their own tools have written them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import lzma
import os
import random
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.packages.rpm import sqlite
from guestctl.detectors.packages.rpm.header import Header
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.languages import go, language_packages, rust
from guestctl.detectors.sbom.languages.sections import Image, Section, read_sections
from guestctl.detectors.system import System
from guestctl.disk.stat import PlainStat
from memory_filesystem import MemoryFileSystem

GO = Path(__file__).parents[2] / "data" / "go"
PLATFORMS = ["linux-amd64", "linux-386", "linux-s390x", "windows-amd64", "darwin-arm64"]


def _system(files: dict[str, str | bytes | None]) -> System:
    return cast(System, SimpleNamespace(tree=MemoryFileSystem(files), warnings=[]))


def _found(files: dict[str, str | bytes | None]) -> list[Package]:
    system = _system(files)
    found = language_packages(system)
    assert system.warnings == []
    return sorted(found, key=lambda package: (package.namespace, package.name))


def _image(data: bytes) -> Image:
    image = read_sections(MemoryDevice(data))
    assert image is not None
    return image


def test_python_as_importlib_says() -> None:
    """The packages of the environment that the tests run in."""
    folder = Path(importlib.metadata.distribution("pytest").locate_file(""))  # type: ignore[arg-type]
    files: dict[str, str | bytes | None] = {}
    for path in folder.glob("*.dist-info/METADATA"):
        files[f"/opt/venv/lib/python3.11/site-packages/{path.parent.name}/METADATA"] = path.read_bytes()
    found = _found(files)
    expected = {(one.metadata["Name"], one.version) for one in importlib.metadata.distributions(path=[str(folder)])}
    assert {(package.name, package.version) for package in found} == expected
    by_name = {package.name: package for package in found}
    assert by_name["pytest"].licenses == ["MIT"]
    assert by_name["pytest"].summary == importlib.metadata.metadata("pytest")["Summary"]


def test_python_eggs_and_what_is_none() -> None:
    text = "Name: one\nVersion: 2\nLicense: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n"
    found = _found(
        {
            "/usr/lib/python3/dist-packages/one-2.egg-info": text,
            "/home/u/.local/lib/python3.9/site-packages/two.egg-info/PKG-INFO": text.replace("one", "two"),
            "/usr/share/doc/three.egg-info": text,
            "/usr/lib/python3/dist-packages/empty.dist-info/RECORD": "",
            "/proc/lib/site-packages/four.dist-info/METADATA": text,
        }
    )
    assert [(package.name, package.licenses) for package in found] == [
        ("one", ["MIT License"]),
        ("two", ["MIT License"]),
    ]


def test_node() -> None:
    """Texts of npm's own packages; scopes, packages in packages, and package.json files of no package."""
    package = '{"name": "%s", "version": "%s", "license": "ISC", "author": {"name": "npm"}, "homepage": "https://x.y"}'
    found = _found(
        {
            "/srv/app/package.json": package % ("app", "0.1.0"),
            "/srv/app/node_modules/abbrev/package.json": package % ("abbrev", "2.0.0"),
            "/srv/app/node_modules/abbrev/node_modules/@npmcli/fs/package.json": package % ("@npmcli/fs", "3.1.0"),
            "/srv/app/node_modules/abbrev/lib/package.json": '{"type": "module"}',
            "/srv/app/node_modules/old/package.json": '{"name":"old","version":"1.0.0","licenses":[{"type":"MIT"}]}',
        }
    )
    assert [(one.namespace, one.name, one.version, one.licenses, one.publisher) for one in found] == [
        ("", "abbrev", "2.0.0", ["ISC"], "npm"),
        ("", "old", "1.0.0", ["MIT"], ""),
        ("@npmcli", "fs", "3.1.0", ["ISC"], "npm"),
    ]


GEMSPEC = """\
# -*- encoding: utf-8 -*-
# stub: rake 13.0.6 ruby lib

Gem::Specification.new do |s|
  s.name = "rake".freeze
  s.version = "13.0.6"

  s.required_rubygems_version = Gem::Requirement.new(">= 1.3.2".freeze) if s.respond_to? :required_rubygems_version=
  s.metadata = { "bug_tracker_uri" => "https://github.com/ruby/rake/issues" } if s.respond_to? :metadata=
  s.require_paths = ["lib".freeze]
  s.authors = ["Hiroshi SHIBATA".freeze, "Eric Hodel".freeze, "Jim Weirich".freeze]
  s.homepage = "https://github.com/ruby/rake".freeze
  s.licenses = ["MIT".freeze]
  s.summary = "Rake is a Make-like program implemented in Ruby".freeze
end
"""
INSTALLED = {
    "packages": [
        {
            "name": "monolog/monolog",
            "version": "3.5.0",
            "license": ["MIT"],
            "homepage": "https://github.com/Seldaek/monolog",
        },
        {"name": 7},
    ]
}
DEPS = {
    "runtimeTarget": {"name": ".NETCoreApp,Version=v8.0"},
    "libraries": {
        "app/1.0.0": {"type": "project", "serviceable": False, "sha512": ""},
        "Newtonsoft.Json/13.0.3": {"type": "package", "serviceable": True, "sha512": "sha512-HrC5BXdl00IP9zeV+0Z848=="},
    },
}


def test_ruby_php_and_dotnet() -> None:
    found = _found(
        {
            "/var/lib/gems/3.1.0/specifications/rake-13.0.6.gemspec": GEMSPEC,
            "/var/lib/gems/3.1.0/gems/rake-13.0.6/rake.gemspec": GEMSPEC,
            "/srv/www/vendor/composer/installed.json": json.dumps(INSTALLED),
            "/srv/old/vendor/composer/installed.json": json.dumps(INSTALLED["packages"]),
            "/opt/app/app.deps.json": json.dumps(DEPS),
        }
    )
    words = [(one.manager, one.namespace, one.name, one.version, one.licenses) for one in found]
    assert words == [
        ("nuget", "", "Newtonsoft.Json", "13.0.3", []),
        ("gem", "", "rake", "13.0.6", ["MIT"]),
        ("composer", "monolog", "monolog", "3.5.0", ["MIT"]),
        ("composer", "monolog", "monolog", "3.5.0", ["MIT"]),
    ]
    assert found[1].publisher == "Hiroshi SHIBATA, Eric Hodel, Jim Weirich"


def _jar(members: dict[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def test_java(run: Run, tmp_path: Path) -> None:
    pom = "#Generated by Maven\ngroupId=org.apache.commons\nartifactId=commons-lang3\nversion=3.12.0\n"
    inner = _jar({"META-INF/maven/org.apache.commons/commons-lang3/pom.properties": pom, "META-INF/MANIFEST.MF": ""})
    manifest = "Bundle-SymbolicName: org.osgi.co\r\n re;singleton:=true\r\nBundle-Version: 4.3.1\r\n\r\n"
    outer = _jar({"META-INF/MANIFEST.MF": manifest, "BOOT-INF/lib/commons-lang3.jar": inner})
    found = _found(
        {"/srv/app.jar": outer, "/srv/web.war": _jar({"WEB-INF/lib/x.jar": inner}), "/srv/readme.jar.txt": ""}
    )
    (tmp_path / "inner").write_bytes(inner)
    sha1 = run("sha1sum", tmp_path / "inner").split()[0]
    facts = [(one.namespace, one.name, one.version, one.path, one.digests.get("sha1") == sha1) for one in found]
    assert sorted(facts) == [
        ("", "org.osgi.core", "4.3.1", "/srv/app.jar", False),
        ("org.apache.commons", "commons-lang3", "3.12.0", "/srv/app.jar!/BOOT-INF/lib/commons-lang3.jar", True),
        ("org.apache.commons", "commons-lang3", "3.12.0", "/srv/web.war!/WEB-INF/lib/x.jar", True),
    ]


def test_damage_is_a_warning_and_the_rest_is_found() -> None:
    jar = _jar({"META-INF/MANIFEST.MF": "Implementation-Title: x\nImplementation-Version: 1\n"})
    system = _system(
        {
            "/srv/bad.jar": jar[:-30],
            "/srv/node_modules/a/package.json": "[" * 100_000,
            "/srv/node_modules/b/package.json": '{"name": "b", "version": "1"}',
            "/var/lib/docker/overlay2/x/node_modules/c/package.json": '{"name": "c", "version": "1"}',
        }
    )
    assert [package.name for package in language_packages(system)] == ["b"]
    assert sorted(warning.partition(":")[0] for warning in system.warnings) == [
        "/srv/bad.jar", "/srv/node_modules/a/package.json", "/var/lib/docker"
    ]  # fmt: skip


def test_a_damaged_inode_costs_no_other_file() -> None:
    class Files(MemoryFileSystem):
        def node_entries(self, node: str) -> list[tuple[str, str, int]]:
            return [("bad", "/bad", stat.S_IFREG), ("good", "/good", stat.S_IFREG)]

        def node_stat(self, node: str) -> PlainStat:
            if node == "/bad":
                raise InvalidFormat("damaged", structure="inode", offset=0)
            return super().node_stat(node)

    tree = Files({"/bad": "", "/good": _go_program("linux-amd64")})
    system = cast(System, SimpleNamespace(tree=tree, warnings=[]))
    assert len(language_packages(system)) == 4
    assert system.warnings == ["/bad: inode at offset 0x0: damaged"]


def _go_program(platform: str) -> bytes:
    return lzma.decompress((GO / f"{platform}.xz").read_bytes())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_go_as_go_version_says(platform: str) -> None:
    info = go.build_info(_image(_go_program(platform)))
    assert info is not None
    version, modules = info
    assert version == "go1.19.8"
    said = [line.strip("\t") for line in (GO / "modules.txt").read_text().splitlines()]
    lines = [line.strip("\t") for line in modules.splitlines() if not line.startswith("build\t")]
    assert [line for line in lines if line] == [line for line in said if line]


def test_go_packages() -> None:
    found = _found({"/usr/bin/hello": _go_program("linux-amd64"), "/usr/lib/x.so.1": _go_program("linux-386")})
    assert [(one.namespace, one.name, one.version) for one in found] == [
        ("", "stdlib", "1.19.8"),
        ("example.org", "plain", ""),  # directories took the place of these two
        ("example.org/Tools", "hello", ""),
        ("example.org/lib", "v2", ""),
    ]
    assert go.parse_modules("dep\ta\tv1\th1:x\n=>\tb/c\tv2\th1:y\n") == [("b/c", "v2")]


@pytest.mark.parametrize(("order", "size"), [("<", 8), (">", 8), ("<", 4), (">", 4)])
def test_go_with_pointers(order: str, size: int) -> None:
    """The form before Go 1.18, by its documentation: pointers to strings, each a pointer and a length."""
    word = order + ("Q" if size == 8 else "I")
    modules = b"m" * 16 + b"path\tcommand\nmod\tx.org/y\tv1.2.3\th1:z\n" + b"n" * 16
    base, text = 0x400000, b"go1.13"
    strings = struct.pack(word, base + 96) + struct.pack(word, len(text))
    strings += struct.pack(word, base + 112) + struct.pack(word, len(modules))
    head = b"\xff Go buildinf:" + bytes([size, order == ">"]) + struct.pack(word, base + 32)
    head = (head + struct.pack(word, base + 32 + 2 * size)).ljust(32, b"\0")
    data = (head + strings).ljust(96, b"\0") + text.ljust(16, b"\0") + modules
    image = Image(MemoryDevice(data), [Section(b".go.buildinfo", base, 0, len(data))])
    assert go.build_info(image) == ("go1.13", modules[16:-16].decode())
    with pytest.raises(InvalidFormat, match="in no section"):
        go.build_info(Image(MemoryDevice(data), [Section(b".go.buildinfo", base + 4096, 0, len(data))]))


AUDIT = {
    "packages": [
        {"name": "adler", "version": "1.0.2", "source": "crates.io"},
        {"name": "cc", "version": "1.0.73", "source": "crates.io", "kind": "build"},
        {"name": "hello", "version": "0.1.0", "source": "local", "dependencies": [0], "root": True},
    ]
}


@pytest.fixture(scope="module")
def rust_program(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program into which objcopy put the section that cargo-auditable has the linker put there."""
    folder = tmp_path_factory.mktemp("rust")
    (folder / "data").write_bytes(zlib.compress(json.dumps(AUDIT).encode()))
    shutil.copy("/bin/true", folder / "program")
    run("objcopy", "--add-section", f".dep-v0={folder / 'data'}", folder / "program")
    return (folder / "program").read_bytes()


def test_rust(rust_program: bytes) -> None:
    found = _found({"/usr/bin/hello": rust_program.ljust(100_000, b"\0")})
    assert [(one.manager, one.name, one.version) for one in found] == [
        ("cargo", "adler", "1.0.2"),
        ("cargo", "hello", "0.1.0"),
    ]


def test_a_bomb_in_rust() -> None:
    data = zlib.compress(bytes(20 << 20), 9)
    image = Image(MemoryDevice(data), [Section(b".dep-v0", 0, 0, len(data))])
    with pytest.raises(InvalidFormat, match="no JSON"):
        list(rust.packages(image, ""))


def test_only_programs_are_opened() -> None:
    class Files(MemoryFileSystem):
        def node_stat(self, node: str) -> PlainStat:
            status = super().node_stat(node)
            return replace(status, st_mode=stat.S_IFREG | 0o644) if status.is_file() else status

    system = SimpleNamespace(tree=Files({"/usr/bin/hello": _go_program("linux-amd64")}), warnings=[])
    assert language_packages(cast(System, system)) == []


def _executables(data: bytes) -> int:
    image = read_sections(MemoryDevice(data))
    return 0 if image is None else len([*go.packages(image, ""), *rust.packages(image, "")])


def _headers(data: bytes) -> int:
    header = Header(data)
    return bool(header.package().name) + sum(bool(file.path) for file in header.files())


@pytest.mark.parametrize("what", [*PLATFORMS, "rust", "rpm"])
def test_mutants(shared: Path, request: pytest.FixtureRequest, what: str) -> None:
    look: Callable[[bytes], int] = _executables
    if what == "rpm":
        database = lzma.decompress((shared / "rpmdb" / "cbl-mariner-2.0.rpmdb.sqlite.xz").read_bytes())
        original, look = next(iter(sqlite.headers(database))), _headers
        places = list(range(len(original)))
    else:
        original = request.getfixturevalue("rust_program") if what == "rust" else _go_program(what)
        places = [number for number, byte in enumerate(original) if byte]
        if what == "rust":
            places = places[:200] + list(range(len(original) - 4096, len(original)))
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4")) / 7
    rounds = read = 0
    while time.monotonic() < end:
        chance = random.Random(rounds)
        data = bytearray(original)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.choice(places)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        if not rounds % 10:
            del data[chance.choice(places) :]
        try:
            read += look(bytes(data)) > 0
        except GuestctlError as error:
            assert str(error)
        rounds += 1
    assert look(original) and read
