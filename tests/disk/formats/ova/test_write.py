"""Written OVAs as tar, sha256sum, qemu-img and an XML parser see them."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from guestctl.block import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.reader import DiskReader
from guestctl.disk.writer import create_writer
from image_writing import write_image

Run = Callable[..., str]
MIB = 1 << 20
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"


def _content() -> bytes:
    disk = bytearray(5 * MIB + 512)
    disk[:100_000] = random.Random(2).randbytes(100_000)
    disk[3 * MIB : 3 * MIB + 9] = b"some text"
    return bytes(disk)


def test_archive(run: Run, tmp_path: Path) -> None:
    content = _content()
    path = tmp_path / "my vm & co.ova"
    write_image(path, "ova", content, {"cpus": "3", "memory": "2G", "os": "linux"})
    assert path.stat().st_size % 512 == 0
    folder = tmp_path / "unpacked"
    folder.mkdir()
    names = ["my vm & co.ovf", "my vm & co.mf", "my vm & co-disk1.vmdk"]
    assert run("tar", "tf", path).splitlines() == names
    run("tar", "xf", path, "-C", folder)
    for line in (folder / names[1]).read_text().splitlines():
        name, digest = line.removeprefix("SHA256(").split(")= ")
        assert run("sha256sum", folder / name).split()[0] == digest
    (tmp_path / "disk.raw").write_bytes(content)
    run("qemu-img", "compare", folder / names[2], tmp_path / "disk.raw")
    check_descriptor(ElementTree.parse(folder / names[0]).getroot(), (folder / names[2]).stat().st_size, len(content))
    for opened in (path, folder / names[0]):
        with DiskReader.open(opened) as reader:
            assert reader.format == "vmdk" and reader.read_exact_at(0, reader.size) == content
        with DiskReader.open(opened, metadata_only=True) as reader:
            assert "corruptions" not in reader.check()
            assert reader.info()["virtual-size"] == len(content)


def check_descriptor(root: ElementTree.Element, disk_bytes: int, capacity: int) -> None:
    assert root.tag == f"{OVF}Envelope"
    assert [child.tag.removeprefix(OVF) for child in root] == ["References", "DiskSection", "VirtualSystem"]
    file = root.find(f"{OVF}References/{OVF}File")
    disk = root.find(f"{OVF}DiskSection/{OVF}Disk")
    assert file is not None and disk is not None
    assert file.attrib == {f"{OVF}id": "file1", f"{OVF}href": "my vm & co-disk1.vmdk", f"{OVF}size": str(disk_bytes)}
    assert disk.attrib[f"{OVF}fileRef"] == "file1" and disk.attrib[f"{OVF}capacity"] == str(capacity)
    items = {}
    for item in root.iter(f"{OVF}Item"):
        names = [child.tag for child in item]
        assert names == sorted(names)  # the schema has them in alphabetical order
        fields = {child.tag.removeprefix(RASD): child.text for child in item}
        items[fields["ResourceType"]] = fields
    assert items["3"]["VirtualQuantity"] == "3" and items["4"]["VirtualQuantity"] == "2048"
    assert items["17"]["Parent"] == items["6"]["InstanceID"]
    assert items["17"]["HostResource"] == "ovf:/disk/vmdisk1"
    system = root.find(f"{OVF}VirtualSystem/{OVF}OperatingSystemSection")
    assert system is not None and system.attrib == {f"{OVF}id": "101"}


@pytest.mark.parametrize("name", ["x" * 200 + ".ova", "日本語" * 20 + ".ova", "ova", "\udcff.ova"])
def test_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_image(path, "ova", _content())
    with tarfile.open(path) as archive:
        assert [member.name.rpartition(".")[2] for member in archive] == ["ovf", "mf", "vmdk"]
    with DiskReader.open(path) as reader:
        assert reader.read_exact_at(0, reader.size) == _content()


def test_empty_3_tib(tmp_path: Path) -> None:
    path = tmp_path / "large.ova"
    output = Output(path, sync=False)
    writer = create_writer("ova", output, 3 << 40)
    writer.zero(0, 3 << 40)
    writer.finish()
    output.publish()
    with DiskReader.open(path) as reader:
        assert reader.size == 3 << 40 and reader.read_exact_at(1 << 40, 512) == bytes(512)


@pytest.mark.parametrize(
    "options", [{"cpus": "0"}, {"cpus": "many"}, {"os": "beos"}, {"memory": "much"}, {"no": "such"}]
)
def test_refused_options(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConversionError):
        write_image(tmp_path / "a.ova", "ova", bytes(MIB), options)
    assert list(tmp_path.iterdir()) == []
