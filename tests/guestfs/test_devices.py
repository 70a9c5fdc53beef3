"""Devices, partitions, volumes and guests: what libguestfs says of the same disks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volume_images
from guestctl import guestfs
from guestfs_calls import Answer, Both, call, differences

_DEMO = Path(__file__).parents[1] / "data/debian-12.qcow2"
_MBR = """label: dos
label-id: 0x12345678
start=2048,size=20480,type=83,bootable
start=24576,type=5
start=26624,size=20480,type=7
start=51200,size=10240,type=82
"""
_GPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
size=4M,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name="EFI sys"
size=8M,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,uuid=AAAAAAAA-0000-0000-0000-00000000000B,name=root
size=1M,type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE
size=16M
"""
_EXT4_UUID = "0b0b0b0b-1111-2222-3333-444444444444"


@pytest.fixture(scope="module")
def drives(run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """sda: the Debian guest; sdb: MBR; sdc: GPT; sdd to sdf: LVM on MD; sdg, sdh: LUKS."""
    folder = tmp_path_factory.mktemp("drives")
    shutil.copy(_DEMO, folder)
    mbr, gpt = folder / "mbr.img", folder / "gpt.img"
    for image, table in ((mbr, _MBR), (gpt, _GPT)):
        image.write_bytes(b"")
        run("truncate", "-s", "64M", image)
        run("sfdisk", "-q", image, input=table)
    run("mkfs.vfat", "-n", "EFI", "-i", "abcd1234", "--offset", "2048", gpt, "4096")
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-U", _EXT4_UUID, "-E", f"offset={5 << 20}", gpt, "8M")
    members = [*volume_images.images("lvm-on-md"), *volume_images.images("luks")]
    raw = [folder / f"member{number}.img" for number in range(len(members))]
    for path, content in zip(raw, members, strict=True):
        path.write_bytes(content)
    return [
        {"filename": str(folder / _DEMO.name), "readonly": True},
        {"filename": str(mbr), "readonly": True, "label": "mbrdisk"},
        *({"filename": str(path), "readonly": True, "format": "raw"} for path in (gpt, *raw)),
    ]


_DISKS = ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"]
_PARTITIONS = ["/dev/sda1", "/dev/sda2", "/dev/sdb1", "/dev/sdb6", "/dev/sdc1", "/dev/sdc2", "/dev/sdc4"]
_NAMES = [*_DISKS, *_PARTITIONS, "/dev/nope", "/dev/vdc2", "/dev/md127", "/dev/vg/root", "/dev/mapper/vg-root"]
_NUMBERED = [("/dev/sdb", 1), ("/dev/sdb", 2), ("/dev/sdb", 5), ("/dev/sdc", 1), ("/dev/sdc", 2), ("/dev/sdc", 9)]
_ROOT = "/dev/sda2"

_CALLS = [
    *map(call, ("list_devices", "list_partitions", "list_filesystems", "list_md_devices", "list_disk_labels")),
    *map(call, ("list_ldm_partitions", "list_ldm_volumes", "nr_devices", "pvs", "vgs", "lvs")),
    *(call(name, device) for name in ("vfs_type", "vfs_label", "vfs_uuid", "is_lv", "blkid") for device in _NAMES),
    *(call(name, device) for name in ("blockdev_getsize64", "blockdev_getsz", "blockdev_getss") for device in _NAMES),
    *(call("is_whole_device", device) for device in _NAMES),
    *(call("canonical_device_name", device) for device in ("/dev/vda1", "/dev/hdb", "/dev/mapper/vg-root", "/dev/sda")),
    *(call("device_index", device) for device in ("/dev/sdb", "/dev/sdaa")),
    *(
        call(name, device)
        for name in ("part_list", "part_get_parttype")
        for device in ("/dev/sda", "/dev/sdb", "/dev/sdc")
    ),
    call("part_get_parttype", "/dev/sdc2"),
    *(call("part_get_bootable", *which) for which in _NUMBERED),
    *(call("part_get_mbr_id", "/dev/sdb", number) for number in (1, 2, 6)),
    *(call("part_get_mbr_part_type", "/dev/sdb", number) for number in (1, 2, 5)),
    *(call(name, "/dev/sdc", 2) for name in ("part_get_gpt_type", "part_get_gpt_guid", "part_get_gpt_attributes")),
    *(call("part_get_name", "/dev/sdc", number) for number in (1, 3)),
    call("part_get_disk_guid", "/dev/sdc"),
    *(call(name, device) for name in ("part_to_dev", "part_to_partnum") for device in ("/dev/sdb5", "/dev/sdb")),
    call("findfs_label", "rootfs"),
    call("findfs_label", "none"),
    call("findfs_uuid", _EXT4_UUID),
    *(
        call(name, m)
        for name in ("mountable_device", "mountable_subvolume")
        for m in ("btrfsvol:/dev/sda1/a/b", "/dev/sda1")
    ),
    *(call("lvm_canonical_lv_name", name) for name in ("/dev/mapper/vg-root", "/dev/vg/data", "/dev/sda1")),
    *(call(name, "vg") for name in ("vguuid", "vgpvuuids", "vglvuuids")),
    call("vguuid", "none"),
    call("pvuuid", "/dev/md127"),
    call("lvuuid", "/dev/vg/root"),
    call("md_detail", "/dev/md127"),
    call("md_stat", "/dev/md127"),
    *(call("luks_uuid", device) for device in ("/dev/sdg", "/dev/sda")),
    call("cryptsetup_open", "/dev/sdg", "wrong", "secret"),
    call("cryptsetup_open", "/dev/sdg", "guestctl", "secret"),
    call("list_dm_devices"),
    call("blockdev_getsize64", "/dev/mapper/secret"),
    call("cryptsetup_close", "/dev/mapper/secret"),
    call("list_dm_devices"),
    call("cryptsetup_close", "/dev/mapper/secret"),
    call("available", ["lvm2"]),
    call("available", ["nosuch"]),
    call("available_all_groups"),
    *(call("filesystem_available", name) for name in ("ext4", "vfat", "nosuch")),
    call("inspect_get_type", _ROOT),
    call("inspect_os"),
    call("inspect_get_roots"),
    call("inspect_get_type", "/dev/sda1"),
    *(call(f"inspect_get_{what}", _ROOT) for what in ("type", "distro", "arch", "product_name", "product_variant")),
    *(
        call(f"inspect_get_{what}", _ROOT)
        for what in ("major_version", "minor_version", "hostname", "osinfo", "format")
    ),
    *(call(f"inspect_get_{what}", _ROOT) for what in ("package_format", "package_management", "drive_mappings")),
    *(call(f"inspect_get_{what}", _ROOT) for what in ("mountpoints", "filesystems", "windows_systemroot")),
    *(call(f"inspect_is_{what}", _ROOT) for what in ("live", "netinst", "multipart")),
    call("mountpoints"),
    call("mount_ro", "/dev/vda2", "/"),
    call("inspect_list_applications2", _ROOT),
    call("inspect_list_applications", _ROOT),
    call("mountpoints"),
    call("mounts"),
    call("mount", "/dev/sda1", "/nope"),
    call("umount", "/dev/sda2"),
    call("mounts"),
    call("mount_options", "ro", "/dev/sda1", "/"),
    call("umount", "/"),
    call("mkmountpoint", "/a"),
    call("mount", "/dev/sda1", "/a"),
    call("ls", "/a"),
    call("ls", "/"),
    call("umount", "/a"),
    call("rmmountpoint", "/a"),
    call("rmmountpoint", "/nope"),
]


def _subset(theirs: Answer, ours: Answer) -> bool:
    """Whether we say nothing that libguestfs does not; it writes a space in a value as ``blkid -o export`` does."""
    known = {key: value.replace("\\ ", " ") for key, value in theirs.get("value", {}).items()}
    known |= {key: "512" for key in ("MINIMUM_IO_SIZE",) if key in known}
    return "value" in theirs and {"DEVNAME", "uuid"} & ours["value"].keys() and {**known, **ours["value"]} == known


def _same_members(theirs: Answer, ours: Answer) -> bool:
    """The kernel has them in the order in which it found them."""
    return "value" in theirs and sorted(theirs["value"], key=lambda one: str(one["mdstat_index"])) == ours["value"]


# blkid's library gives more about what it finds than who it is, and mdadm about the members. A logical volume that was
# named /dev/mapper/VG-LV is called so there.
_KNOWN = {
    "blkid": lambda theirs, ours: _subset(theirs, ours) or "/dev/mapper/vg-root" in str(theirs),
    "md_detail": _subset,
    "md_stat": _same_members,
}


@pytest.mark.long
def test_devices_beside_libguestfs(both_handles: Both, drives: list[dict[str, Any]]) -> None:
    assert differences(both_handles(drives, _CALLS), _CALLS, _KNOWN) == ""


def test_drives_are_added_before_the_launch(tmp_path: Path) -> None:
    with guestfs.GuestFS() as handle:
        handle.add_drive_ro(str(_DEMO))
        with pytest.raises(RuntimeError, match="call launch before using this function"):
            handle.list_devices()
        assert handle.is_config() and handle.get_state() == 0
        handle.launch()
        assert handle.is_ready() and handle.get_state() == 2
        with pytest.raises(RuntimeError, match="after launch"):
            handle.add_drive_ro(str(_DEMO))
        handle.shutdown()
        with pytest.raises(RuntimeError, match="call launch"):
            handle.list_devices()
    with pytest.raises(guestfs.ClosedHandle, match="method called on closed handle"):
        handle.list_devices()
    with pytest.raises(RuntimeError, match="No such file or directory") as caught:
        guestfs.GuestFS().add_drive(str(tmp_path / "none"))
    assert caught.value.args == (f"add_drive: {tmp_path / 'none'}: No such file or directory",)


def test_tables_are_pairs_unless_dicts_are_asked_for() -> None:
    for as_dict, expected in ((True, {"/dev/sda2": "/"}), (False, [("/dev/sda2", "/")])):
        with guestfs.GuestFS(python_return_dict=as_dict) as handle:
            handle.add_drive_opts(str(_DEMO), readonly=True)
            handle.launch()
            handle.mount_ro("/dev/sda2", "/")
            assert handle.mountpoints() == expected


def test_events() -> None:
    heard: list[tuple[int, str]] = []
    handle = guestfs.GuestFS()
    number = handle.set_event_callback(
        lambda event, _handle, text, _numbers: heard.append((event, text)), guestfs.EVENT_ALL
    )
    handle.set_trace(True)
    handle.add_drive_ro(str(_DEMO))
    handle.launch()
    assert (guestfs.EVENT_TRACE, f'add_drive_ro "{_DEMO}"') in heard
    assert (guestfs.EVENT_TRACE, "add_drive_ro = 0") in heard
    assert (guestfs.EVENT_LAUNCH_DONE, "") in heard
    assert (guestfs.EVENT_ENTER, "launch") in heard
    heard.clear()
    handle.delete_event_callback(number)
    handle.set_trace(False)
    handle.close()
    assert heard == []


def test_errors_are_kept() -> None:
    with guestfs.GuestFS() as handle:
        handle.add_drive_ro(str(_DEMO))
        handle.launch()
        with pytest.raises(guestfs.GuestFSError) as caught:
            handle.mount("/dev/sdz", "/")
        assert handle.last_error() == str(caught.value) == "mount: /dev/sdz: No such file or directory"
        assert handle.last_errno() == caught.value.errno == 2
        with pytest.raises(NotImplementedError, match="write"):
            handle.write("/x", b"")


def test_disks_of_a_libvirt_domain(tmp_path: Path) -> None:
    image = tmp_path / "root.qcow2"
    shutil.copy(_DEMO, image)
    xml = f"""<domain type='kvm'><name>x</name><devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/></disk>
      <disk type='file' device='cdrom'><source file='/none.iso'/><target dev='sda'/><readonly/></disk>
      <disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdb'/></disk>
    </devices></domain>"""

    class Domain:
        def XMLDesc(self, flags: int) -> str:
            return xml

    with guestfs.GuestFS() as handle:
        assert handle.add_libvirt_dom(Domain(), readonly=True) == 1
        handle.launch()
        assert handle.inspect_os() == ["/dev/sda2"]


def test_settings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBGUESTFS_MEMSIZE", "2048")
    handle = guestfs.GuestFS()
    assert handle.get_memsize() == 2048
    assert guestfs.GuestFS(environment=False).get_memsize() == 1280
    handle.set_backend_setting("force_tcg", "1")
    assert handle.get_backend_settings() == ["force_tcg=1"]
    assert handle.get_backend_setting("force_tcg") == "1"
    assert handle.clear_backend_setting("force_tcg") == 1
    with pytest.raises(RuntimeError, match="setting not found"):
        handle.get_backend_setting("force_tcg")


def test_backing_files_elsewhere_are_opened_only_when_allowed(run: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base, overlay = tmp_path / "base/base.qcow2", tmp_path / "overlay.qcow2"
    shutil.copy(_DEMO, base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    with guestfs.GuestFS() as handle:
        handle.add_drive_ro(str(overlay))
        with pytest.raises(RuntimeError, match="not beside the image"):
            handle.launch()
        handle.set_backend_setting("allow_dir", str(base.parent))
        handle.launch()
        assert handle.inspect_os() == ["/dev/sda2"]


def test_disk_images(run: Callable[..., str], tmp_path: Path) -> None:
    handle = guestfs.GuestFS()
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    handle.disk_create(str(base), "qcow2", 1 << 30, clustersize=4096)
    handle.disk_create(str(overlay), "qcow2", -1, backingfile=str(base), backingformat="qcow2")
    for image in (base, overlay):
        assert handle.disk_format(str(image)) == "qcow2"
        assert handle.disk_virtual_size(str(image)) == 1 << 30
        assert "corrupt" not in run("qemu-img", "check", image)
    assert (handle.disk_has_backing_file(str(base)), handle.disk_has_backing_file(str(overlay))) == (False, True)
    with pytest.raises(RuntimeError, match="size is not -1"):
        handle.disk_create(str(overlay), "qcow2", 5, backingfile=str(base))
