"""Delta chains, and the files that a descriptor may name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.core.errors import GuestctlError, InvalidFormat, LocationRefused, UnsupportedFeature
from guestctl.disk.reader import DiskReader
from vmdk_images import descriptor, qemu_info, qemu_io

Run = Callable[..., str]


@pytest.fixture
def delta(run: Run, tmp_path: Path) -> Path:
    create = ("qemu-img", "create", "-q", "-f", "vmdk")
    run(*create, tmp_path / "base.vmdk", "1M")
    run(*create, "-b", "base.vmdk", "-F", "vmdk", tmp_path / "top.vmdk")
    return tmp_path / "top.vmdk"


def edit(path: Path, old: str, new: str) -> None:
    """Change the embedded descriptor, whose place keeps its size."""
    content = path.read_bytes()
    start, end = 512, 512 * 21
    text = content[start:end].replace(old.encode(), new.encode(), 1)
    assert text[: end - start] != content[start:end]
    path.write_bytes(content[:start] + text[: end - start].ljust(end - start, b"\0") + content[end:])


def test_changed_parent(run: Run, delta: Path) -> None:
    base = delta.with_name("base.vmdk")
    with DiskReader.open(base) as reader:
        old = reader.info()["format-specific"]["data"]["cid"]
    qemu_io(run, base, "write -P 1 0 64k")
    with DiskReader.open(base) as reader:
        new = reader.info()["format-specific"]["data"]["cid"]
    assert old != new
    with pytest.raises(InvalidFormat) as caught:
        DiskReader.open(delta)
    assert f"{old:08x}" in str(caught.value) and f"{new:08x}" in str(caught.value)
    assert (caught.value.expected, caught.value.actual) == (old, new)


def test_missing_parent(delta: Path) -> None:
    delta.with_name("base.vmdk").unlink()
    with pytest.raises(FileNotFoundError):
        DiskReader.open(delta)


def test_metadata_without_the_parent(run: Run, delta: Path) -> None:
    delta.with_name("base.vmdk").unlink()
    with DiskReader.open(delta, metadata_only=True) as reader:
        assert reader.info() == qemu_info(run, delta)
        assert reader.check()["check-errors"] == 0
        for action in (
            lambda: reader.read(0, 512),
            lambda: reader.map(),
            lambda: list(reader.runs(0, reader.size)),
        ):
            with pytest.raises(UnsupportedFeature):
                action()


def test_parent_of_another_format(delta: Path) -> None:
    delta.with_name("base.vmdk").write_bytes(bytes(1 << 20))
    with pytest.raises(InvalidFormat):
        DiskReader.open(delta)


def test_own_parent(delta: Path) -> None:
    edit(delta, 'Hint="base.vmdk"', 'Hint="top.vmdk"')
    with pytest.raises(InvalidFormat):
        DiskReader.open(delta)


def test_no_parent_name(delta: Path) -> None:
    edit(delta, "parentFileNameHint", "forgotten")
    with pytest.raises(InvalidFormat, match="parentFileNameHint"):
        DiskReader.open(delta)


@pytest.mark.parametrize("name", ["../base.vmdk", "/etc/shadow", "sub/base.vmdk"])
def test_parent_elsewhere(run: Run, delta: Path, tmp_path: Path, name: str) -> None:
    edit(delta, 'Hint="base.vmdk"', f'Hint="{name}"')
    with pytest.raises(LocationRefused):
        DiskReader.open(delta)


def test_parent_elsewhere_that_is_allowed(delta: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    delta.with_name("base.vmdk").rename(tmp_path / "sub" / "base.vmdk")
    edit(delta, 'Hint="base.vmdk"', 'Hint="sub/base.vmdk"')
    with DiskReader.open(delta, allow_dirs=[tmp_path / "sub"]) as reader:
        assert reader.backing is not None
        assert reader.size == 1 << 20


def test_warnings_of_the_chain(delta: Path) -> None:
    base = delta.with_name("base.vmdk")
    content = bytearray(base.read_bytes())
    content[72] = 1
    base.write_bytes(content)
    with DiskReader.open(delta) as reader:
        (warning,) = reader.warnings
        assert str(base) in warning


@pytest.mark.parametrize("name", ["../secret", "/etc/shadow", "/dev/zero", "sub/secret"])
@pytest.mark.parametrize("type", ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"])
def test_extents_elsewhere(tmp_path: Path, name: str, type: str) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret", folder / "sub" / "secret"):
        secret.write_bytes(b"secret".ljust(512))
    path = folder / "disk.vmdk"
    path.write_text(descriptor(f'RW 1 {type} "{name}" 0'))
    with pytest.raises(LocationRefused):
        DiskReader.open(path)


def test_extents_elsewhere_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x" * 512)
    path = tmp_path / "images" / "disk.vmdk"
    path.parent.mkdir()
    path.write_text(descriptor('RW 1 FLAT "../data" 0'))
    with DiskReader.open(path, allow_dirs=[tmp_path]) as reader:
        assert bytes(reader.read(0, 512)) == b"x" * 512


def test_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "images" / "disk.vmdk"
    path.parent.mkdir()
    (tmp_path / "secret").write_bytes(bytes(512))
    (path.parent / "inside").symlink_to(tmp_path / "secret")
    path.write_text(descriptor('RW 1 FLAT "inside" 0'))
    with pytest.raises(LocationRefused):
        DiskReader.open(path)


def test_an_extent_that_is_the_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_text(descriptor('RW 1 FLAT "disk.vmdk" 0'))
    with pytest.raises(InvalidFormat):
        DiskReader.open(path)


@pytest.mark.parametrize(
    "create_type",
    ["fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRDM", "vmfsRawDeviceMap", "vmfsRDMP"],
)
def test_devices(tmp_path: Path, create_type: str) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_text(descriptor(r'RW 63 FLAT "\\.\PhysicalDrive0" 0', create_type=create_type))
    with pytest.raises(UnsupportedFeature) as caught:
        DiskReader.open(path)
    assert caught.value.feature == create_type


@pytest.mark.parametrize("type", ["VMFSRDM", "VMFSRAW"])
def test_device_maps(tmp_path: Path, type: str) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_text(descriptor(f'RW 63 {type} "disk-rdm.vmdk"', create_type="vmfs"))
    with pytest.raises(UnsupportedFeature) as caught:
        DiskReader.open(path)
    assert caught.value.feature == type


def test_deep_chain(run: Run, tmp_path: Path) -> None:
    """As deep as any chain may be; a read and a run come through it without recursion."""
    run("qemu-img", "create", "-q", "-f", "vmdk", tmp_path / "0.vmdk", "1M")
    qemu_io(run, tmp_path / "0.vmdk", "write -P 7 0 64k")
    first = (tmp_path / "0.vmdk").read_bytes()
    cid = first[first.index(b"CID=") + 4 :].partition(b"\n")[0].decode()
    for number in range(1, 200):
        text = f'RW 2048 SPARSE "s.vmdk"\n\nparentFileNameHint="{number - 1}.vmdk"'
        name = tmp_path / f"{number}.vmdk"
        name.write_text(descriptor(text, cid=cid).replace("parentCID=ffffffff", f"parentCID={cid}"))
    run("qemu-img", "create", "-q", "-f", "vmdk", tmp_path / "s.vmdk", "1M")
    with DiskReader.open(tmp_path / "199.vmdk") as reader:
        assert bytes(reader.read(0, 512)) == b"\7" * 512
        first_entry = next(reader.map())
        assert (first_entry.depth, first_entry.length) == (199, 65536)
        assert next(reader.runs(0, reader.size)).length == 65536
    for number in (200, 201):
        text = f'RW 2048 SPARSE "s.vmdk"\n\nparentFileNameHint="{number - 1}.vmdk"'
        content = descriptor(text, cid=cid).replace("parentCID=ffffffff", f"parentCID={cid}")
        (tmp_path / f"{number}.vmdk").write_text(content)
    with pytest.raises(GuestctlError):
        DiskReader.open(tmp_path / "201.vmdk")
