"""The calls of libguestfs that are refused, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from guestctl.guestfs.calls import call

WRITES = "changes a disk"

# What a call does, as it is said after "it" -> the calls.
_REASONS: dict[str, str] = {
    WRITES: """
        acl_delete_def_file acl_set_file base64_in blkdiscard btrfs_balance_cancel btrfs_balance_pause
        btrfs_balance_resume btrfs_device_add btrfs_device_delete btrfs_filesystem_balance
        btrfs_filesystem_defragment btrfs_filesystem_resize btrfs_fsck btrfs_image btrfs_qgroup_assign
        btrfs_qgroup_create btrfs_qgroup_destroy btrfs_qgroup_limit btrfs_qgroup_remove btrfs_quota_enable
        btrfs_quota_rescan btrfs_replace btrfs_rescue_chunk_recover btrfs_rescue_super_recover btrfs_scrub_cancel
        btrfs_scrub_resume btrfs_scrub_start btrfs_set_seeding btrfs_subvolume_create btrfs_subvolume_create_opts
        btrfs_subvolume_delete btrfs_subvolume_set_default btrfs_subvolume_snapshot btrfs_subvolume_snapshot_opts
        btrfstune_enable_extended_inode_refs btrfstune_enable_skinny_metadata_extent_refs btrfstune_seeding
        cap_set_file chmod chown copy_attributes copy_device_to_device copy_device_to_file copy_file_to_device
        copy_file_to_file copy_in copy_size cp cp_a cp_r dd e2fsck e2fsck_f extlinux f2fs_expand fallocate fallocate64
        fill fill_dir fill_pattern fsck fstrim grub_install hivex_commit hivex_node_add_child hivex_node_delete_child
        hivex_node_set_value lchown ln ln_f ln_s ln_sf lremovexattr lsetxattr luks_add_key luks_format
        luks_format_cipher luks_kill_slot lvcreate lvcreate_free lvm_remove_all lvremove lvrename lvresize
        lvresize_free md_create mkdir mkdir_mode mkdir_p mkdtemp mke2fs mke2fs_J mke2fs_JL mke2fs_JU mke2journal
        mke2journal_L mke2journal_U mkfifo mkfs mkfs_b mkfs_btrfs mkfs_opts mklost_and_found mknod mknod_b mknod_c
        mkswap mkswap_L mkswap_U mkswap_file mkswap_opts mktemp mv ntfsclone_in ntfsfix ntfsresize ntfsresize_opts
        ntfsresize_size part_add part_del part_disk part_expand_gpt part_init part_resize part_set_bootable
        part_set_disk_guid part_set_disk_guid_random part_set_gpt_attributes part_set_gpt_guid part_set_gpt_type
        part_set_mbr_id part_set_name pvchange_uuid pvchange_uuid_all pvcreate pvremove pvresize pvresize_size pwrite
        pwrite_device removexattr rename resize2fs resize2fs_M resize2fs_size rm rm_f rm_rf rmdir rsync rsync_in
        scrub_device scrub_file scrub_freespace selinux_relabel set_e2attrs set_e2generation set_e2label set_e2uuid
        set_label set_uuid set_uuid_random setxattr sfdisk sfdiskM sfdisk_N syslinux tar_in tar_in_opts tgz_in touch
        truncate truncate_size tune2fs txz_in upload upload_offset utimens vgchange_uuid vgchange_uuid_all vgcreate
        vgremove vgrename wipefs write write_append write_file xfs_admin xfs_growfs xfs_repair zero zero_device
        zero_free_space zerofree
    """,
    "needs the Augeas library, which no Python wheel has": """
        aug_clear aug_close aug_defnode aug_defvar aug_get aug_init aug_insert aug_label aug_load aug_ls aug_match
        aug_mv aug_rm aug_save aug_set aug_setm aug_transform
    """,
    "is about Windows dynamic disks, which are not assembled": """
        ldmtool_create_all ldmtool_diskgroup_disks ldmtool_diskgroup_name ldmtool_diskgroup_volumes
        ldmtool_remove_all ldmtool_scan ldmtool_scan_devices ldmtool_volume_hint ldmtool_volume_partitions
        ldmtool_volume_type
    """,
    "prints what sfdisk says; there are part_list and its kin": "sfdisk_disk_geometry sfdisk_kernel_geometry sfdisk_l",
    "estimates what a resizing tool could do": "vfs_minimum_size",
    "is about quota groups of Btrfs, which are not read": "btrfs_qgroup_show",
    "stops an array, and all are always there": "md_stop",
    "hides devices, and all are always looked at": "lvm_set_filter",
    "runs a program of the guest": "command command_lines sh sh_lines",
    "needs a running kernel": """
        blkdiscardzeroes blockdev_setbsz blockdev_setra blockdev_setro blockdev_setrw btrfs_balance_status
        btrfs_scrub_status dmesg drop_caches inotify_add_watch inotify_close inotify_files inotify_init
        inotify_read inotify_rm_watch modprobe swapoff_device swapoff_file swapoff_label swapoff_uuid
        swapon_device swapon_file swapon_label swapon_uuid
    """,
    "takes a drive out of a running virtual machine": "remove_drive",
    "is about directories that a host shares with a virtual machine": "list_9p mount_9p",
    "is about the SELinux context of libguestfs's daemon": "getcon setcon",
    "gives the address of a C structure": "c_pointer",
    "is about passwords that libvirt asks for": """
        get_libvirt_requested_credential_challenge get_libvirt_requested_credential_defresult
        get_libvirt_requested_credential_prompt get_libvirt_requested_credentials set_libvirt_requested_credential
        set_libvirt_supported_credentials
    """,
    "needs the program rsync": "rsync_out",
    "needs the program mksquashfs": "mksquashfs",
    "needs the program ntfsclone": "ntfsclone_out",
    "is what libguestfs keeps for its own tests": """
        debug debug_drives debug_upload internal_exit internal_test internal_test_63_optargs
        internal_test_close_output internal_test_only_optargs internal_test_rbool internal_test_rboolerr
        internal_test_rbufferout internal_test_rbufferouterr internal_test_rconstoptstring
        internal_test_rconstoptstringerr internal_test_rconststring internal_test_rconststringerr
        internal_test_rhashtable internal_test_rhashtableerr internal_test_rint internal_test_rint64
        internal_test_rint64err internal_test_rinterr internal_test_rstring internal_test_rstringerr
        internal_test_rstringlist internal_test_rstringlisterr internal_test_rstruct internal_test_rstructerr
        internal_test_rstructlist internal_test_rstructlisterr internal_test_set_output
    """,
}

REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def refusal(name: str, reason: str) -> Callable[..., Any]:
    """A method that only says that, and why, there is no such call."""

    def refuse(self: Any, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"{name}: not supported: it {reason}")

    refuse.__name__ = name
    refuse.__doc__ = f"Refused with ``NotImplementedError``: it {reason}."
    return call(refuse)
