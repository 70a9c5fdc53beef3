"""What libguestfs's LVM2 reports of the same groups, which its own appliance makes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import volume_images
from guestctl import guestfs
from guestctl.disk.volumes.lvm2.text import Section, parse_metadata
from guestfs_calls import Answer, Both, call, differences

# sda belongs to no group; sde and sdf are the group "other".
_COMMANDS = """
    pvcreate -y /dev/sda
    pvcreate -y --metadatacopies 2 /dev/sdb
    pvcreate -y --metadatacopies 0 /dev/sdd
    vgcreate -s 1m -l 20 -p 10 --addtag t1 --addtag t2 vg /dev/sdb /dev/sdc /dev/sdd
    vgcreate --alloc contiguous -s 256k other /dev/sde /dev/sdf
    pvchange --addtag pvtag --addtag again /dev/sdb
    pvchange -x n /dev/sde
    lvcreate -y -l 4 -n one vg /dev/sdb
    lvcreate -y -l 2 -i 2 -n striped vg
    lvcreate -y -l 2 -n two vg /dev/sdb
    lvextend -l +2 vg/one /dev/sdc
    lvchange --addtag lt --addtag la vg/two
    lvchange -k y vg/two
    lvcreate -y -l 1 -n contiguous -C y -p r vg
    lvcreate -y -l 1 -n cling --alloc cling vg
    lvcreate -y -l 1 -n minor -M y --major 253 --minor 100 vg
    lvcreate -y -l 1 --type zero -n zeros vg
    lvcreate -y -l 1 --type mirror -m 1 -n mirrored vg
    lvcreate -y -l 1 --type raid1 -m 1 -n raid vg
    lvcreate -y -l 1 -s -n snap vg/two
    lvcreate -y -l 2 -T vg/pool -V 4m -n thin
    lvcreate -y -s -k n -n thinsnap vg/thin
    lvcreate -y -l 2 -T vg/emptypool
    lvcreate -y -l 2 -n plain other
    vgextend vg /dev/sdg
    vgreduce vg /dev/sdg
""".strip().splitlines()

_NAMES = {"pvs_full": "pv_name", "vgs_full": "vg_name", "lvs_full": "lv_name"}
_CALLS = [
    *(call("debug", "sh", ["lvm", *command.split()]) for command in _COMMANDS),
    *map(call, ("pvs", "vgs", "lvs", *_NAMES)),
    *(call("vgmeta", name) for name in ("vg", "none")),
]
_KERNEL = {"lv_kernel_major": -1, "lv_kernel_minor": -1, "snap_percent": None, "copy_percent": None}


def _same_tables(name: str) -> Any:
    """Their order is that of what LVM2 looked at first."""

    def compare(theirs: Answer, ours: Answer) -> bool:
        tables = [table | _KERNEL if "lv_attr" in table else table for table in theirs["value"]]
        return sorted(tables, key=lambda table: str(table[name])) == sorted(
            ours["value"], key=lambda table: str(table[name])
        )

    return compare


def _same_metadata(theirs: Answer, ours: Answer) -> bool:
    """libguestfs's are a backup with comments, which names devices as they are now."""

    def parse(answer: Answer) -> Section:
        group = parse_metadata(bytes.fromhex(answer["value"]["bytes"]), 0).section("vg")
        for volume in group.sections("physical_volumes").values():
            del volume["device"]
        return group

    return parse(theirs) == parse(ours)


@pytest.mark.long
def test_reports_beside_libguestfs(both_handles: Both, tmp_path: Path) -> None:
    drives = []
    for letter in "abcdefg":
        image = tmp_path / f"{letter}.img"
        with image.open("wb") as stream:
            stream.truncate(32 << 20)
        drives.append({"filename": str(image), "format": "raw"})
    answers = both_handles(drives, _CALLS)
    failed = [theirs["error"] for theirs, _ in answers[: len(_COMMANDS)] if "error" in theirs]
    assert failed == []
    known = {name: _same_tables(key) for name, key in _NAMES.items()}
    known |= {"debug": lambda theirs, ours: True, "vgmeta": _same_metadata}
    assert differences(answers, _CALLS, known) == ""


def _handle(tmp_path: Path, *images: bytes) -> guestfs.GuestFS:
    handle = guestfs.GuestFS(python_return_dict=True)
    for number, content in enumerate(images):
        image = tmp_path / f"{number}.img"
        image.write_bytes(content)
        handle.add_drive_opts(str(image), readonly=True, format="raw")
    handle.launch()
    return handle


def test_two_groups_of_one_name(tmp_path: Path) -> None:
    """As libguestfs 1.48 gives them, but that it activates neither; the first is ours."""
    with _handle(tmp_path, *volume_images.images("lvm-mirror"), *volume_images.images("lvm-thin")) as handle:
        assert handle.vgs() == ["vg", "vg"]
        assert handle.pvs() == [f"/dev/sd{letter}" for letter in "abcde"]
        thin = ["empty", "external", "files", "frozen", "full", "grown", "holes", "snap"]
        assert handle.lvs() == sorted(
            f"/dev/vg/{name}" for name in [*thin, "core", "cracked", "disk", "linear", "snap"]
        )
        assert [table["lv_count"] for table in handle.vgs_full()] == [5, 9]
        assert [table["lv_attr"][4] for table in handle.lvs_full()] == ["a"] * 5 + ["-"] * 9
        for name in ("vguuid", "vglvuuids", "vgmeta"):
            with pytest.raises(guestfs.GuestFSError, match="Multiple VGs found with the same name"):
                getattr(handle, name)("vg")


def test_a_physical_volume_is_missing(tmp_path: Path) -> None:
    """As libguestfs 1.48 gives it, but that a mirror is read from the leg that there is."""
    with _handle(tmp_path, *volume_images.images("lvm-mirror")[1:]) as handle:
        volumes = [(table["pv_name"], table["pv_attr"], table["dev_size"]) for table in handle.pvs_full()]
        assert volumes == [("[unknown]", "a-m", 0), ("/dev/sda", "a--", 10485760), ("/dev/sdb", "a--", 10485760)]
        assert [table["vg_attr"] for table in handle.vgs_full()] == ["wz-pn-"]
        attributes = [table["lv_attr"] for table in handle.lvs_full()]
        assert attributes == ["mwi-a-m-p-", "mwi-a-m-p-", "-wi-----p-", "owi---s-p-", "swi---s-p-"]


def test_damaged_metadata_give_reports_or_errors(tmp_path: Path) -> None:
    """Words of the text changed, with its checksum put right, so that they reach the reports."""
    from guestctl.disk.volumes.lvm2 import physical

    first = volume_images.images("lvm-mirror")[0]
    text = next(iter(physical.read_physical_volume("x", volume_images.members("lvm-mirror")[0].device).areas)).text
    rng = random.Random(7)
    area, at = 4096, first.rindex(text)
    for _ in range(40):
        words = text.split(b" ")
        words[rng.randrange(len(words))] = rng.choice(
            [b"[]", b"-1", b"{", b'"x"', b"[1, 2]", b"7", b"9999999999999999"]
        )
        changed = b" ".join(words)
        image = bytearray(first)
        image[at : at + len(changed)] = changed
        header = bytearray(image[area : area + 512])
        physical._RAW_LOCN.pack_into(header, 40, at - area, len(changed), physical._crc(changed), 0)
        header[:4] = physical._crc(bytes(header[4:])).to_bytes(4, "little")
        image[area : area + 512] = header
        with _handle(tmp_path, bytes(image)) as handle:
            for name in (*_NAMES, "vgs", "lvs"):
                try:
                    getattr(handle, name)()
                except RuntimeError as error:
                    assert str(error).startswith(f"{name}: ")
