"""Backing chains and external data files: which files are opened, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from guestctl.core.errors import InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.disk.reader import DiskReader

Run = Callable[..., str]
Flat = Callable[..., bytes]
MARK = b"\x11" * 512


@pytest.fixture
def base(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x11 0 64k", path)
    return path


def overlay(run: Run, path: Path, name: str, *, format: str = "qcow2", size: str = "1M") -> Path:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", format, path, size)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "base.qcow2",
        "./base.qcow2",
        "file:base.qcow2",
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}',
        'json:{"driver":"qcow2","file.driver":"file","file.filename":"base.qcow2"}',
        'json:{"file.filename":"base.qcow2"}',
        'json:{"driver":"file","filename":"base.qcow2","read-only":true}',
        'json:{"driver":"qcow2","file":{"driver":"raw","file":{"driver":"file","filename":"base.qcow2"}}}',
    ],
)
def test_names(run: Run, base: Path, tmp_path: Path, flat: Flat, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = overlay(run, tmp_path / "top.qcow2", name)
    with DiskReader.open(path) as reader:
        assert reader.backing is not None and reader.backing.format == "qcow2"
        assert bytes(reader.read(0, 512)) == MARK
        monkeypatch.chdir(tmp_path)  # where qemu looks for names in json: and file:
        if "driver" not in name or '"driver":"qcow2"' in name:
            check_device(reader, flat(path), rounds=10)


def test_absolute_name_and_symbolic_link(run: Run, base: Path, tmp_path: Path) -> None:
    path = overlay(run, tmp_path / "top.qcow2", str(base))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.qcow2").symlink_to(path)
    with DiskReader.open(elsewhere / "link.qcow2") as reader:
        assert bytes(reader.read(0, 512)) == MARK


def test_format_of_the_header_wins(run: Run, base: Path, tmp_path: Path) -> None:
    path = overlay(run, tmp_path / "top.qcow2", 'json:{"driver":"qcow2","file.filename":"base.qcow2"}', format="raw")
    with DiskReader.open(path) as reader:
        assert bytes(reader.read(0, 4)) == b"QFI\xfb"


def test_format_is_probed_where_the_header_names_none(run: Run, base: Path, tmp_path: Path) -> None:
    path = overlay(run, tmp_path / "top.qcow2", "base.qcow2")
    content = bytearray(path.read_bytes())
    extension = content.index(bytes.fromhex("e2792aca"))
    content[extension : extension + 4] = b"????"  # an extension nobody knows
    path.write_bytes(content)
    with DiskReader.open(path) as reader:
        assert reader.backing is not None and reader.backing.format == "qcow2"
        assert bytes(reader.read(0, 512)) == MARK
    plain = tmp_path / "base.raw"
    plain.write_bytes(MARK * 4)
    path.write_bytes(content.replace(b"base.qcow2", b"./base.raw"))
    with DiskReader.open(path) as reader:
        assert reader.backing is not None and reader.backing.format == "raw"
        assert bytes(reader.read(0, 1024)) == MARK * 2


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nbd://host/export", "nbd"),
        ("http://host/disk", "http"),
        ("rbd:pool/image", "rbd"),
        ("fat:rw:/tmp", "fat"),
        ('json:{"driver":"nbd","host":"h"}', "host"),
        ('json:{"driver":"nbd"}', "nbd"),
        ('json:{"driver":"qcow2","file":{"driver":"http","url":"http://h/"}}', "url"),
        ('json:{"driver":"raw","offset":512,"file.filename":"base.qcow2"}', "offset"),
        ('json:{"driver":"raw","file":{"driver":"qcow2","file.filename":"base.qcow2"}}', "file.filename"),
        ('json:{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"base.qcow2"}}}', "qcow2"),
    ],
)
def test_other_protocols_are_refused_by_name(run: Run, base: Path, tmp_path: Path, name: str, word: str) -> None:
    path = overlay(run, tmp_path / "top.qcow2", name, format="raw")
    with pytest.raises(UnsupportedFeature, match=word):
        DiskReader.open(path)


@pytest.mark.parametrize("name", ["json:", "json:[]", "json:{", 'json:{"driver":1}', "json:{}", "json:" + "[" * 900])
def test_names_that_are_no_json(run: Run, tmp_path: Path, name: str) -> None:
    path = overlay(run, tmp_path / "top.qcow2", name)
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(path)
    assert caught.value.structure == "backing file name"


def test_files_elsewhere_are_refused(run: Run, tmp_path: Path) -> None:
    for name in ("/etc/passwd", "../../../../../../../etc/passwd", "file:/etc/passwd"):
        path = overlay(run, tmp_path / "top.qcow2", name, format="raw")
        with pytest.raises(LocationRefused, match="--allow-dir /etc"):
            DiskReader.open(path)
        with DiskReader.open(path, allow_dirs=["/etc"]) as reader:
            assert bytes(reader.read(0, 16)) == Path("/etc/passwd").read_bytes()[:16]
    link = tmp_path / "link.raw"
    link.symlink_to("/etc/passwd")
    with pytest.raises(LocationRefused):
        DiskReader.open(overlay(run, tmp_path / "top.qcow2", "link.raw", format="raw"))


def test_missing_file(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskReader.open(overlay(run, tmp_path / "top.qcow2", "missing.qcow2"))


def test_loops(run: Run, tmp_path: Path) -> None:
    for name in ("top.qcow2", "second.qcow2"):
        overlay(run, tmp_path / "second.qcow2", "top.qcow2")
        with pytest.raises(InvalidFormat, match="leads back to itself"):
            DiskReader.open(overlay(run, tmp_path / "top.qcow2", name))


def test_long_chains(run: Run, base: Path, tmp_path: Path) -> None:
    base.rename(tmp_path / "c000.qcow2")
    template = overlay(run, tmp_path / "template.qcow2", "c000.qcow2").read_bytes()
    for number in range(1, 220):
        content = template.replace(b"c000.qcow2", f"c{number - 1:03}.qcow2".encode())
        (tmp_path / f"c{number:03}.qcow2").write_bytes(content)
    with DiskReader.open(tmp_path / "c199.qcow2") as reader:
        for _ in range(2):  # the second time through every image's fast path
            assert bytes(reader.read(0, 512)) == MARK
        assert [run.length for run in reader.runs(0, reader.size)] == [65536, reader.size - 65536]
        assert [entry.depth for entry in reader.map()] == [199, 199]
    with pytest.raises(InvalidFormat, match="chain of more than"):
        DiskReader.open(tmp_path / "c219.qcow2")


def test_data_file(run: Run, tmp_path: Path) -> None:
    path, data = tmp_path / "image.qcow2", tmp_path / "data.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", path, "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x11 64k 64k", path)
    with DiskReader.open(path) as reader:
        assert [(run.offset, run.length) for run in reader.runs(0, reader.size) if run.source is not None] == [
            (65536, 65536)
        ]
    data.rename(tmp_path / "other.raw")
    with pytest.raises(FileNotFoundError):
        DiskReader.open(path)
    content = path.read_bytes()
    same_length = "/etc/passwd".rjust(len(str(data)), "/")
    path.write_bytes(content.replace(str(data).encode(), same_length.encode()))
    with pytest.raises(LocationRefused):
        DiskReader.open(path)
    extension = content.index(b"DATA")
    path.write_bytes(content[:extension] + b"????" + content[extension + 4 :])
    with pytest.raises(UnsupportedFeature, match="data file"):
        DiskReader.open(path)


def test_data_file_of_another_format(run: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "image.qcow2"
    name = 'json:{"driver":"qcow2","file":{"filename":"base.qcow2"}}'
    stand_in = "d" * len(name)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={stand_in}", path, "1M")
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), name.encode()))
    with pytest.raises(UnsupportedFeature, match="qcow2"):
        DiskReader.open(path)
