"""OVA archives and OVF descriptors beside their disks."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import check_device
from disk.formats.ova.conftest import MIB, attached, descriptor, disk, file, item, make_ova
from guestctl.cli import main
from guestctl.core.errors import GuestctlError, InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.disk.reader import DiskReader
from guestctl.machine import Machine

Disks = Callable[[int, str], bytes]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def first_bytes(readers: list[DiskReader]) -> list[bytes]:
    return [bytes(reader.read(0, 6)) for reader in readers]


def open_all(path: Path) -> list[bytes]:
    readers = DiskReader.open_all(path)
    found = first_bytes(readers)
    for reader in readers:
        reader.close()
    return found


@pytest.mark.parametrize("archive", FORMATS)
@pytest.mark.parametrize("format", ["vmdk", "qcow2", "raw", "vpc"])
def test_one_disk(tmp_path: Path, disks: Disks, format: str, archive: str) -> None:
    name = "d" * 90 + "/ä" * 10 + ".img" if archive == "pax" else "disk.img"
    members = {"vm.ovf": descriptor([file(1, name)], [disk(1)]).encode(), name: disks(1, format)}
    path = make_ova(tmp_path / "vm.ova", members, FORMATS[archive])
    with DiskReader.open(path) as reader:
        assert reader.format == format and reader.path == str(path)
        flat = b"disk 1".ljust(reader.size, b"\0")
        check_device(reader, flat, rounds=30)
        whole = path.read_bytes()
        for entry in reader.map():
            if entry.data and entry.offset is not None:
                assert entry.filename == str(path)
                assert whole[entry.offset : entry.offset + entry.length] == flat[entry.start :][: entry.length]
    assert open_all(path) == [b"disk 1"]


def test_made_by_tar(run: Callable[..., str], tmp_path: Path, disks: Disks) -> None:
    (tmp_path / "vm.ovf").write_text(descriptor([file(1, "disk.vmdk")], [disk(1)]))
    (tmp_path / "disk.vmdk").write_bytes(disks(1, "vmdk"))
    for options in (["--format=ustar"], ["--format=gnu"], ["--format=posix"]):
        run("tar", *options, "-C", tmp_path, "-cf", tmp_path / "vm.ova", "./vm.ovf", "./disk.vmdk")
        assert open_all(tmp_path / "vm.ova") == [b"disk 1"]


HARDWARE = [
    item(Address=1, InstanceID=5, ResourceType=6),
    item(Address=0, InstanceID=4, ResourceType=6),
    item(Address=0, InstanceID=3, ResourceType=5),
    attached(3, 5, 0),
    attached(1, 4, 2),
    attached(2, 3, 0),
    attached(4, 4, 1),
]


def four_disks(disks: Disks) -> dict[str, bytes]:
    formats = {1: "vmdk", 2: "qcow2", 3: "raw", 4: "vmdk"}
    members = {f"{number}.img": disks(number, format) for number, format in formats.items()}
    files = [file(number, f"{number}.img") for number in formats]
    return {"vm.ovf": descriptor(files, [disk(number) for number in formats], HARDWARE).encode(), **members}


def test_order_of_disks(tmp_path: Path, disks: Disks) -> None:
    """Controllers of a kind by their address, kinds as they appear, disks by their place."""
    expected = [b"disk 4", b"disk 1", b"disk 3", b"disk 2"]
    members = four_disks(disks)
    path = make_ova(tmp_path / "vm.ova", members)
    assert open_all(path) == expected
    with pytest.raises(UnsupportedFeature, match=r"4\.img, 1\.img, 3\.img, 2\.img"):
        DiskReader.open(path)
    with Machine.open(path) as machine:
        assert [entry.name for entry in machine.disks] == ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"]
        assert first_bytes([entry.reader for entry in machine.disks]) == expected
        machine.disks[0].reader.close()
        assert first_bytes([machine.disks[1].reader]) == [b"disk 1"]
    with DiskReader.open(path, metadata_only=True) as reader:
        info = reader.info()
        assert (info["format"], info["virtual-size"]) == ("ova", 4 * MIB)
        assert [found["filename"] for found in info["format-specific"]["data"]["disks"]] == [
            "4.img",
            "1.img",
            "3.img",
            "2.img",
        ]
        with pytest.raises(UnsupportedFeature):
            reader.read(0, 0)
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    assert open_all(tmp_path / "vm.ovf") == expected


def test_disks_without_hardware_are_as_listed(tmp_path: Path, disks: Disks) -> None:
    text = descriptor([file(1, "1"), file(2, "2")], [disk(2), disk(1)])
    path = make_ova(tmp_path / "vm.ova", {"1": disks(1, "raw"), "2": disks(2, "raw"), "vm.ovf": text.encode()})
    assert open_all(path) == [b"disk 2", b"disk 1"]


def test_compressed_and_empty_disks(tmp_path: Path, disks: Disks) -> None:
    empty = 'ovf:diskId="disk2" ovf:capacity="3" ovf:capacityAllocationUnits="byte * 2^30"'
    text = descriptor([file(1, "1.gz", 'ovf:compression="gzip"')], [empty, disk(1)])
    path = make_ova(tmp_path / "vm.ova", {"vm.ovf": text.encode(), "1.gz": gzip.compress(disks(1, "vmdk"))})
    readers = DiskReader.open_all(path)
    assert [(reader.size, reader.format.value) for reader in readers] == [(3 << 30, "raw"), (MIB, "vmdk")]
    assert first_bytes(readers) == [bytes(6), b"disk 1"]
    assert {entry.offset for reader in readers for entry in reader.map()} == {None}
    for reader in readers:
        reader.close()


def manifest(members: dict[str, bytes], algorithm: str) -> bytes:
    return b"".join(
        f"{algorithm.upper()}({name})= {hashlib.new(algorithm, content).hexdigest()}\n".encode()
        for name, content in members.items()
    )


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_manifest(tmp_path: Path, disks: Disks, algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    members = four_disks(disks)
    lines = manifest(members, algorithm)
    path = make_ova(tmp_path / "vm.ova", {**members, "vm.mf": lines})
    with DiskReader.open(path, metadata_only=True) as reader:
        assert reader.check() == {"filename": str(path), "format": "ova", "check-errors": 0}
    members["3.img"] = members["3.img"][:-1] + b"!"
    del members["2.img"]
    make_ova(path, {**members, "vm.mf": lines})
    with DiskReader.open(path, metadata_only=True) as reader:
        result = reader.check()
        assert (result["corruptions"], result["damaged-files"]) == (2, ["2.img", "3.img"])
    with pytest.raises(SystemExit) as exited:
        main(["check", str(path)])
    assert exited.value.code == 2
    assert "3.img: is missing or not as the manifest says" in capsys.readouterr().out
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "vm.mf").write_bytes(lines)
    with DiskReader.open(tmp_path / "vm.ovf", metadata_only=True) as reader:
        assert reader.check()["damaged-files"] == ["2.img", "3.img"]
    (tmp_path / "vm.mf").unlink()
    with DiskReader.open(tmp_path / "vm.ovf", metadata_only=True) as reader, pytest.raises(UnsupportedFeature):
        reader.check()


def one(href: str = "1.img") -> str:
    return descriptor([file(1, href)], [disk(1)])


HREFS = ["../1.img", "/etc/passwd", "sub/../../1.img", "http://x/1.img", "file:///etc/passwd", ""]


@pytest.mark.parametrize("href", HREFS)
def test_hostile_names(tmp_path: Path, disks: Disks, href: str) -> None:
    (tmp_path / "1.img").write_bytes(disks(1, "raw"))
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "sub").mkdir()
    (folder / "vm.ovf").write_text(one(href))
    with pytest.raises(LocationRefused):
        DiskReader.open(folder / "vm.ovf")
    path = make_ova(folder / "vm.ova", {"vm.ovf": one(href).encode()})
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)


def test_names_are_uris(tmp_path: Path, disks: Disks) -> None:
    members = {"vm.ovf": one("the%20disk.img").encode(), "the disk.img": disks(1, "raw")}
    assert open_all(make_ova(tmp_path / "vm.ova", members)) == [b"disk 1"]
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    assert open_all(tmp_path / "vm.ovf") == [b"disk 1"]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
SYSTEM = "<VirtualSystem/>"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (descriptor([file(1, "1.img")], [disk(1)], before=BOMB), UnsupportedFeature),
        (
            descriptor([file(1, "1.img")], [disk(1)], before='<!DOCTYPE x SYSTEM "file:///etc/passwd">'),
            UnsupportedFeature,
        ),
        (descriptor([file(1, "1.img", 'ovf:chunkSize="7"')], [disk(1)]), UnsupportedFeature),
        (descriptor([file(1, "1.img", 'ovf:compression="lzma"')], [disk(1)]), UnsupportedFeature),
        (descriptor([file(1, "1.img")], [disk(1, 'ovf:parentRef="disk0"')]), UnsupportedFeature),
        (descriptor([file(1, "1.img")], [disk(1)]).replace("</Envelope>", SYSTEM + "</Envelope>"), UnsupportedFeature),
        (descriptor([], ['ovf:diskId="a" ovf:capacity="9" ovf:capacityAllocationUnits="ell"']), UnsupportedFeature),
        (descriptor([], ['ovf:diskId="a" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^70"']), InvalidFormat),
        (descriptor([], ['ovf:diskId="a" ovf:capacity="²"']), InvalidFormat),
        (descriptor([], [disk(1)]), InvalidFormat),
        (descriptor([], [], [attached(1, 1, 0)]), InvalidFormat),
        (descriptor([], [], [item(ResourceType=17, HostResource="nowhere")]), InvalidFormat),
        (descriptor([file(1, "1.img")], [disk(1)])[:-20], InvalidFormat),
        ("<?xml version='1.0' encoding='no-such'?><Envelope/>", InvalidFormat),
        ("<?xml version='1.0'?><other/>", InvalidFormat),
        ("<?xml version='1.0'?>" + "<a>" * 100_000, InvalidFormat),
        ("<?xml version='1.0'?>" + "<a>" * 100_000 + "</a>" * 100_000, InvalidFormat),
        (descriptor([], []), UnsupportedFeature),
    ],
)
def test_refused_descriptors(tmp_path: Path, text: str, error: type[GuestctlError]) -> None:
    for path in (tmp_path / "vm.ovf", make_ova(tmp_path / "vm.ova", {"vm.ovf": text.encode(), "1.img": bytes(512)})):
        if path.suffix == ".ovf":
            path.write_text(text)
            (tmp_path / "1.img").write_bytes(bytes(512))
        with pytest.raises(error):
            DiskReader.open(path)


def test_huge_descriptor(tmp_path: Path) -> None:
    (tmp_path / "vm.ovf").write_text("<?xml version='1.0'?><Envelope>" + " " * (5 << 20) + "</Envelope>")
    with pytest.raises(InvalidFormat, match="more than"):
        DiskReader.open(tmp_path / "vm.ovf")


def patched(content: bytes, offset: int, field: bytes, header: int = 0) -> bytes:
    """With a field of the tar header at `header` replaced, and its checksum right."""
    changed = bytearray(content)
    changed[header + offset : header + offset + len(field)] = field
    changed[header + 148 : header + 156] = b" " * 8
    changed[header + 148 : header + 156] = b"%06o\0 " % sum(changed[header : header + 512])
    return bytes(changed)


def test_hostile_archives(tmp_path: Path, disks: Disks) -> None:
    text = one().encode()
    path = tmp_path / "vm.ova"
    whole = make_ova(path, {"vm.ovf": text, "1.img": disks(1, "raw")}).read_bytes()
    second = 512 + -(-len(text) // 512) * 512
    wrong = [
        patched(whole, 124, b"77777777777\0"),
        patched(whole, 124, b"77777777777\0", second),
        patched(whole, 124, b"\x80" + struct.pack(">Q", 1 << 62).rjust(11, b"\0")),
        patched(whole, 124, b"\xff" * 12),
        patched(whole, 124, b"8" * 11 + b"\0"),
        patched(whole, 156, b"S", second),
        patched(whole, 156, b"2", second),
        patched(whole, 156, b"5", second),
        whole[:100] + b"\1" + whole[101:],
        whole[: second + 700],
        whole[: second + 300],
        whole[:512] * 20_000,
        make_ova(path, [("vm.ovf", text), ("1.img", b"a" * 512), ("1.img", b"b" * 512)]).read_bytes(),
        make_ova(path, [("vm.ovf", text), ("vm.ovf", text), ("1.img", b"b" * 512)]).read_bytes(),
        make_ova(path, [("vm.ovf", text), ("other.ovf", text), ("1.img", b"b" * 512)]).read_bytes(),
        make_ova(path, [("1.img", b"b" * 512)]).read_bytes(),
        make_ova(path, []).read_bytes(),
    ]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises((InvalidFormat, UnsupportedFeature)):
            DiskReader.open(path, format="ova")


def test_hostile_extended_headers(tmp_path: Path, disks: Disks) -> None:
    text = one().encode()
    path = tmp_path / "vm.ova"
    for headers in (
        {"size": "99999999999999999999"},
        {"size": str(1 << 50)},
        {"size": "-1"},
        {"GNU.sparse.major": "1"},
    ):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in (("vm.ovf", text), ("1.img", bytes(512))):
                (tmp_path / "content").write_bytes(content)
                info = archive.gettarinfo(tmp_path / "content", name)
                info.pax_headers = headers if name == "1.img" else {}
                with (tmp_path / "content").open("rb") as source:
                    archive.addfile(info, source)
        with pytest.raises((InvalidFormat, UnsupportedFeature)):
            DiskReader.open(path)
    member = b"vm".ljust(100, b"\0") + bytes(24) + b"00000000024\0" + bytes(20) + b"x" + bytes(100) + b"ustar\00000"
    for records in (b"99 path=x\n", b"0 a=b\n", b"x", b"12345678 a=b\n", b"9 path=xyz\n"):
        path.write_bytes(patched(member.ljust(512, b"\0") + records.ljust(512, b"\0") + bytes(1024), 0, b"vm"))
        with pytest.raises(InvalidFormat):
            DiskReader.open(path)


def test_every_cut_and_change_ends_in_an_error_or_the_disk(tmp_path: Path, disks: Disks) -> None:
    import random

    whole = make_ova(tmp_path / "vm.ova", {"vm.ovf": one().encode(), "1.img": disks(1, "qcow2")}).read_bytes()
    generator = random.Random(5)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 5))):
            content[generator.randrange(3000)] = generator.randrange(256)
        (tmp_path / "bad.ova").write_bytes(content[: generator.choice((len(content), generator.randrange(3000)))])
        try:
            for reader in DiskReader.open_all(tmp_path / "bad.ova", format="ova"):
                with reader:
                    reader.read(0, min(reader.size, 65536))
        except (GuestctlError, FileNotFoundError):
            pass


def test_descriptors_are_closed(tmp_path: Path, disks: Disks) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    path = make_ova(tmp_path / "vm.ova", four_disks(disks))
    before = len(os.listdir("/proc/self/fd"))
    open_all(path)
    with pytest.raises(UnsupportedFeature):
        DiskReader.open(path)
    with DiskReader.open(path, metadata_only=True) as reader:
        reader.info()
    assert len(os.listdir("/proc/self/fd")) == before
