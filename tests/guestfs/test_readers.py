"""Hives, journals, Btrfs and inodes through the handle, beside libguestfs on the same disks."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestctl import guestfs
from guestfs_calls import Answer, Both, call, differences
from journal_files import make_journal, stream

_HIVES = ("NTUSER.DAT", "hivex-special")


@pytest.fixture(scope="module")
def drives(
    run: Callable[..., str], mount: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """sda: ext4 with hives and a journal; sdb: Btrfs with subvolumes."""
    folder = tmp_path_factory.mktemp("readers")
    tree = folder / "tree"
    (tree / "journal").mkdir(parents=True)
    (tree / "NTUSER.DAT").write_bytes(lzma.decompress((shared / "registry/NTUSER.DAT.xz").read_bytes()))
    (tree / "hivex-special").write_bytes((shared / "registry/hivex-special").read_bytes())
    make_journal(tree / "journal/system.journal", stream(1, 40))
    (tree / "link").symlink_to("NTUSER.DAT")
    ext4, btrfs = folder / "ext4.img", folder / "btrfs.img"
    for image, size in ((ext4, 32 << 20), (btrfs, 128 << 20)):
        with image.open("wb") as file:
            os.truncate(file.fileno(), size)
    run("mke2fs", "-q", "-t", "ext4", "-L", "readers", "-d", tree, ext4)
    run("mkfs.btrfs", "-q", btrfs)
    with mount(btrfs, "loop") as top:
        for name in ("root", "root/nested", "home"):
            run("btrfs", "subvolume", "create", top / name)
        run("btrfs", "subvolume", "snapshot", "-r", top / "home", top / "snap")
        (top / "root/file").write_text("in a subvolume\n")
    return [{"filename": str(image), "readonly": True, "format": "raw"} for image in (ext4, btrfs)]


def _hive_calls(drives: list[dict[str, Any]], path: str) -> list[Any]:
    """The whole hive: our numbers of nodes and values are right only where they are hivex's."""
    with guestfs.GuestFS() as handle:
        handle.add_drive_opts(**drives[0])
        handle.launch()
        handle.mount_ro("/dev/sda", "/")
        handle.hivex_open(path)
        pending, calls = [handle.hivex_root()], [call("hivex_open", path), call("hivex_root")]
        while pending and len(calls) < 3000:
            node = pending.pop()
            calls += [call(f"hivex_node_{what}", node) for what in ("name", "children", "values")]
            for value in [one["hivex_value_h"] for one in handle.hivex_node_values(node)]:
                calls += [call(f"hivex_value_{what}", value) for what in ("key", "type", "value")]
            children = [one["hivex_node_h"] for one in handle.hivex_node_children(node)]
            calls += [call("hivex_node_parent", child) for child in children]
            pending += children
        return [*calls, call("hivex_node_get_child", handle.hivex_root(), "none"), call("hivex_close")]


def _cut_off(theirs: Answer, ours: Answer) -> bool:
    return bool(ours["value"].partition("\0")[0] == theirs["value"])


# A string of C ends where a name has a NUL.
_KNOWN = {"hivex_node_name": _cut_off, "hivex_value_key": _cut_off}


@pytest.mark.long
@pytest.mark.root
def test_readers_beside_libguestfs(both_handles: Both, drives: list[dict[str, Any]]) -> None:
    calls = [
        *(call("get_e2label", device) for device in ("/dev/sda", "/dev/sdb")),
        call("get_e2uuid", "/dev/sda"),
        call("hivex_root"),
        call("mount_ro", "/dev/sda", "/"),
        *(one for hive in _HIVES for one in _hive_calls(drives, f"/{hive}")),
        call("hivex_open", "/link/none"),
        call("hivex_open", "/journal/system.journal"),
        call("hivex_node_name", 4132),
        call("journal_next"),
        call("journal_open", "/none"),
        call("journal_open", "/journal"),
        call("journal_get_data_threshold"),
        *[call("journal_next"), call("journal_get_realtime_usec"), call("journal_get")] * 12,
        call("journal_set_data_threshold", 20),
        call("journal_get"),
        call("journal_skip", 5),
        call("journal_get_realtime_usec"),
        call("journal_skip", -3),
        call("journal_get_realtime_usec"),
        call("journal_skip", 1000),
        call("journal_next"),
        call("journal_close"),
        call("journal_get"),
        call("list_filesystems"),
        call("btrfs_subvolume_list", "/dev/sdb"),
        call("btrfs_subvolume_get_default", "/dev/sdb"),
        call("btrfs_filesystem_show", "/dev/sdb"),
        call("umount", "/"),
        call("mount_ro", "btrfsvol:/dev/sdb/root", "/"),
        call("cat", "/file"),
        call("mounts"),
        call("mountpoints"),
        call("ntfs_3g_probe", False, "/dev/sda"),
        call("find_inode", "/dev/sda", 12),
    ]
    assert differences(both_handles(drives, calls), calls, _KNOWN) == ""


def test_a_filesystem_is_walked_without_a_mount(run: Callable[..., str], tmp_path: Path) -> None:
    image = tmp_path / "image"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"x" * 5000)
    (tmp_path / "tree/l").symlink_to("a")
    with image.open("wb") as file:
        os.truncate(file.fileno(), 8 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", image)
    with guestfs.GuestFS() as handle:
        handle.add_drive_ro(str(image))
        handle.launch()
        found = {one["tsk_name"]: one for one in handle.filesystem_walk("/dev/sda")}
        assert {name: (one["tsk_type"], one["tsk_link"]) for name, one in found.items()} == {
            ".": ("d", ""),
            "a": ("r", ""),
            "l": ("l", "a"),
            "lost+found": ("d", ""),
        }
        assert handle.find_inode("/dev/sda", found["a"]["tsk_inode"]) == [found["a"]]
        handle.download_inode("/dev/sda", found["a"]["tsk_inode"], str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == b"x" * 5000
        with pytest.raises(RuntimeError, match="inode"):
            handle.download_inode("/dev/sda", 9999, str(tmp_path / "out"))


def test_rules_match(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "data/debian-12.qcow2"
    rules = tmp_path / "rules"
    rules.write_text('rule debian { strings: $a = "Debian" condition: $a }\nrule nothing { condition: false }\n')
    with guestfs.GuestFS() as handle:
        handle.add_drive_ro(str(demo))
        handle.launch()
        handle.mount_ro("/dev/sda2", "/")
        with pytest.raises(RuntimeError, match="yara_load"):
            handle.yara_scan("/etc/os-release")
        handle.yara_load(str(rules))
        assert handle.yara_scan("/etc/os-release") == [{"yara_name": "/etc/os-release", "yara_rule": "debian"}]
        rules.write_text("no rule")
        with pytest.raises(RuntimeError, match="syntax error"):
            handle.yara_load(str(rules))
        handle.yara_destroy()
