"""The view of storage on disks that sfdisk, mke2fs, mkswap and mdadm made; fstab as findmnt reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import volume_images
from conftest import Run
from guestctl.detectors.report.storage import Storage
from guestctl.detectors.system import open_system
from guestctl.detectors.views import view
from guestctl.machine import Machine

MIB = 1 << 20
FSTAB = """\
# /etc/fstab: static file system information.
LABEL=root / ext4 errors=remount-ro 0 1
UUID=11111111-2222-4333-8444-555555555555 none swap sw,pri=5 0 0
/swap\\040file none swap defaults 0 0
/dev/vdz1\t/mnt/not\\040there xfs noauto
tmpfs /tmp tmpfs nosuid,size=10% 0 0
/home /srv none bind 0 0
"""
CRYPTTAB = """\
# <target name> <source device> <key file> <options>
data PARTLABEL=secret /etc/keys/data.key luks,discard
asks UUID=no-such-device none luks
plain /dev/sda2
"""
LVM = """\
devices {
	# filter = [ "a|.*|" ]
	filter = [ "a|^/dev/sd[ab]|", "r|.*|" ]
	global_filter = "r|/dev/drbd.*|"
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the guest's root holds; a test may add to it."""
    top = tmp_path / "root"
    for directory in ("bin", "etc/lvm", "etc/mdadm"):
        (top / directory).mkdir(parents=True)
    for path, text in {"fstab": FSTAB, "crypttab": CRYPTTAB, "lvm/lvm.conf": LVM, "os-release": "ID=x\n"}.items():
        (top / "etc" / path).write_text(text)
    return top


def make_disk(run: Run, root: Path, image: Path) -> None:
    """A GPT with the root, swap, a second swap that fstab does not name, and a partition with a label."""
    image.write_bytes(bytes(24 * MIB))
    sizes = "size=12MiB\n" + "size=2MiB, type=swap\n" * 2 + "size=2MiB, name=secret\n"
    run("sfdisk", "--quiet", image, input=f"label: gpt\n{sizes}")
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, "-E", f"offset={MIB}", image, "12M")
    for start, uuid in ((13, "11111111"), (15, "99999999")):
        swap = image.with_suffix(".swap")
        swap.write_bytes(bytes(2 * MIB))
        swap.chmod(0o600)
        run("mkswap", "-U", f"{uuid}-2222-4333-8444-555555555555", swap)
        with image.open("r+b") as file:
            file.seek(start * MIB)
            file.write(swap.read_bytes())


def read(*images: Path) -> Storage:
    with Machine.open(*images) as machine:
        (guest,) = machine.guests()
        system = open_system(machine, guest)
        found: Storage = view("storage", system)
        assert not system.warnings
        return found


def test_storage(run: Run, root: Path, tmp_path: Path) -> None:
    make_disk(run, root, tmp_path / "disk")
    found = read(tmp_path / "disk")
    listed = json.loads(
        run("findmnt", "--tab-file", root / "etc/fstab", "--json", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS")
    )
    assert [
        {"source": one.spec, "target": one.mountpoint, "fstype": one.type, "options": ",".join(one.options)}
        for one in found.mounts
    ] == [one for one in _flat(listed["filesystems"]) if one["fstype"] != "swap"]
    assert [one.device for one in found.mounts] == ["/dev/sda1", None, None, None]
    assert [(one.spec, one.device) for one in found.swap] == [
        ("UUID=11111111-2222-4333-8444-555555555555", "/dev/sda2"),
        ("/swap file", None),
        (None, "/dev/sda3"),
    ]
    assert found.swap[0].options == ["sw", "pri=5"]
    assert [(one.name, one.device, one.key_file, one.options) for one in found.encrypted] == [
        ("data", "/dev/sda4", "/etc/keys/data.key", ["luks", "discard"]),
        ("asks", None, None, ["luks"]),
        ("plain", "/dev/sda2", None, []),
    ]
    assert found.lvm == {"filter": '[ "a|^/dev/sd[ab]|", "r|.*|" ]', "global_filter": '"r|/dev/drbd.*|"'}
    assert found.arrays == []


def _flat(filesystems: list[dict[str, object]]) -> list[dict[str, object]]:
    """findmnt nests what is mounted below something; in the file's order here."""
    found = []
    for one in filesystems:
        children = one.pop("children", [])
        assert isinstance(children, list)
        found += [one, *_flat(children)]
    return found


def test_arrays(run: Run, root: Path, tmp_path: Path) -> None:
    """The lines that mdadm itself writes for an array, one of them continued, and one of no array here."""
    members = []
    for number, image in enumerate(volume_images.images("raid1-1.0")[:2]):
        members.append(tmp_path / f"member-{number}")
        members[-1].write_bytes(image)
    scanned = run("mdadm", "--examine", "--scan", "--config=none", *members)
    uuid = scanned.partition("UUID=")[2].split()[0]
    text = f"DEVICE partitions\n{scanned.replace(' name=', chr(10) + '  name=')}ARRAY <ignore> UUID=0:0:0:0 # gone\n"
    (root / "etc/mdadm/mdadm.conf").write_text(text)
    make_disk(run, root, tmp_path / "disk")
    found = read(tmp_path / "disk", *members).arrays
    assert [(one.uuid, one.device) for one in found] == [(uuid, "/dev/md127"), ("0:0:0:0", None)]
    assert found[0].tags["metadata"] == "1.0"
