"""Descriptors, archives made by Python's tarfile, and disks made by qemu-img."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

Run = Callable[..., str]
MIB = 1 << 20
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"


def item(**fields: object) -> str:
    return "<Item>" + "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in fields.items()) + "</Item>"


def descriptor(files: Sequence[str], disks: Sequence[str], items: Sequence[str] = (), *, before: str = "") -> str:
    """`files` and `disks` are the attributes of their elements."""
    return (
        f'<?xml version="1.0"?>\n{before}<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        f'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="{RASD}">'
        f"<References>{''.join(f'<File {file}/>' for file in files)}</References>"
        f"<DiskSection><Info>disks</Info>{''.join(f'<Disk {disk}/>' for disk in disks)}</DiskSection>"
        f'<VirtualSystem ovf:id="vm"><Info>vm</Info><VirtualHardwareSection><Info>hardware</Info>{"".join(items)}'
        "</VirtualHardwareSection></VirtualSystem></Envelope>"
    )


def file(number: int, href: str, more: str = "") -> str:
    return f'ovf:id="file{number}" ovf:href="{href}" {more}'


def disk(number: int, more: str = "") -> str:
    return f'ovf:diskId="disk{number}" ovf:fileRef="file{number}" ovf:capacity="1" {more}'


def attached(number: int, parent: object, place: int) -> str:
    return item(
        AddressOnParent=place,
        HostResource=f"ovf:/disk/disk{number}",
        InstanceID=100 + number,
        Parent=parent,
        ResourceType=17,
    )


def make_ova(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], format: int = 0) -> Path:
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def disks(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], bytes]:
    """The image of a disk of 1 MiB that begins with its number, in some format."""
    folder = tmp_path_factory.mktemp("disks")

    def _disk(number: int, format: str) -> bytes:
        raw, target = folder / "disk.raw", folder / "disk"
        raw.write_bytes((b"disk %d" % number).ljust(MIB, b"\0"))
        options = ["-o", "subformat=streamOptimized"] if format == "vmdk" else []
        run("qemu-img", "convert", "-O", format, *options, raw, target)
        return target.read_bytes()

    return _disk
