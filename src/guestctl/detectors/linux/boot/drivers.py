"""Which drivers a kernel has while it looks for its root: built in, or in its initramfs.

``modules.builtin`` and ``modules.dep`` are of kmod, beside the kernel's modules (modules.dep(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.linux.boot.pe import read_pe
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.linux.initramfs import read_initramfs
from guestctl.detectors.linux.initramfs.cpio import CpioEntry
from guestctl.detectors.linux.kernels import image_version
from guestctl.detectors.linux.modules import built_in, dependencies, module_name
from guestctl.detectors.report.boot import BootDriver, BootEntry

_DRIVERS = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "virtio_net"),
    *("ahci", "ata_piix", "nvme", "sd_mod", "mptspi", "mptsas", "megaraid_sas"),
    *("vmw_pvscsi", "vmxnet3", "hv_vmbus", "hv_storvsc", "hv_netvsc", "xen_blkfront", "xen_netfront"),
    *("dm_mod", "dm_crypt", "md_mod", "ext4", "xfs", "btrfs", "f2fs", "e1000", "e1000e"),
)
_VIRTIO_DISK = ("virtio_pci", "virtio_blk")


def find_drivers(places: Places, entry: BootEntry) -> tuple[list[BootDriver], bool | None]:
    """Drivers of the kernel that `entry` starts, and whether it would find a disk on virtio; None if unknown."""
    version = kernel_version(places, entry.kernel) if entry.kernel else None
    tree = places.system.tree
    within = built_in(tree, version) if version else None
    needs = (dependencies(tree, version) if version else None) or {}
    loaded = _in_initramfs(places, entry, version)
    ready = (within or set()) | (loaded or set())
    found = [
        BootDriver(
            name=name,
            ready=name in ready,
            where="built in" if within and name in within else "initramfs" if name in ready else "modules",
        )
        for name in _DRIVERS
        if name in ready or name in needs
    ]
    required = {*_VIRTIO_DISK, *(other for name in _VIRTIO_DISK for other in needs.get(name, ()))}
    known = within is not None and loaded is not None
    return found, True if required <= ready else False if known else None


def kernel_version(places: Places, kernel: str) -> str | None:
    """The version of a kernel, by what its image says, or by its name."""
    try:
        device = places.open(kernel)
        try:
            pe = read_pe(device)
        except InvalidFormat:  # no kernel for EFI
            return image_version(device) or _version_in_name(kernel)
        if version := pe.text(".uname"):
            return version
        return image_version(pe.section(".linux") or device) or _version_in_name(kernel)
    except (GuestctlError, OSError) as error:
        places.warn(kernel, error)
        return _version_in_name(kernel)


def _version_in_name(kernel: str) -> str | None:
    """``vmlinuz-6.1.0-10-amd64``, or ``6.1.0/linux``."""
    directory, _, name = kernel.rpartition("/")
    for text in (name.partition("-")[2], directory.rpartition("/")[2]):
        if re.match(r"\d+\.\d", text):
            return text
    return None


def read_files(places: Places, name: str) -> Iterator[CpioEntry]:
    """The files of an initramfs, which may be in a unified kernel image. Raises as `read_initramfs`."""
    return read_initramfs(_open(places, name))


def _open(places: Places, name: str) -> BlockDevice:
    device = places.open(name)
    if device.size < 2 or bytes(device.read(0, 2)) != b"MZ":
        return device
    section = read_pe(device).section(".initrd")
    if section is None:
        raise InvalidFormat(f"{name} has no section .initrd", structure="PE file", offset=0)
    return section


def _in_initramfs(places: Places, entry: BootEntry, version: str | None) -> set[str] | None:
    """The modules in the files that `entry` loads; None where one of them cannot be read."""
    found = set()
    directory = f"modules/{version}/" if version else "modules/"
    for name in entry.initramfs:
        try:
            files = (file.name for file in read_files(places, name))
            found |= {module_name(file) for file in files if ".ko" in file and directory in file}
        except (GuestctlError, OSError) as error:
            places.warn(name, error)
            return None
    return found
