"""Installed kernels: images in /boot, each with its initramfs and modules.

An image for x86 says its version itself (Linux/x86 boot protocol, ``kernel_version``).
"""

from __future__ import annotations

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import Tree, list_directory
from guestctl.detectors.report import Guest, Kernel

_IMAGE_PREFIXES = ("vmlinuz-", "vmlinux-", "bzImage-", "kernel-", "Image-", "zImage-")
_INITRAMFS_NAMES = ("initrd.img-{}", "initramfs-{}.img", "initramfs-{}", "initrd-{}", "initrd-{}.img")
_SETUP_HEADER_OFFSET = 0x202
_SETUP_HEADER_MAGIC = b"HdrS"
_VERSION_POINTER_OFFSET = 0x20E
_VERSION_BASE = 0x200
_MAX_VERSION_BYTES = 256


def detect_kernels(tree: Tree, guest: Guest) -> None:
    """Every kernel that has an image or modules, oldest version first."""
    guest.kernels = find_kernels(tree)


def find_kernels(tree: Tree) -> list[Kernel]:
    """Every kernel that has an image or modules, oldest version first."""
    boot = list_directory(tree, "/boot")
    names = set(boot)
    modules = {
        version
        for base in ("/lib/modules", "/usr/lib/modules")
        for version in list_directory(tree, base)
        if tree.is_dir(f"{base}/{version}")
    }
    images: dict[str, str | None] = dict.fromkeys(modules)
    unmatched = []
    for name in boot:
        prefix = next((prefix for prefix in _IMAGE_PREFIXES if name.startswith(prefix)), None)
        # A link such as vmlinuz-lts -> vmlinuz-6.1.0 names no kernel of its own.
        if prefix and not tree.is_symlink(f"/boot/{name}"):
            version = name.removeprefix(prefix)
            # Alpine writes vmlinuz-lts where the modules are in 6.1.0-0-lts.
            full = [known for known in modules if known.endswith("-" + version)]
            if version in modules or len(full) == 1:
                images[version if version in modules else full[0]] = f"/boot/{name}"
            else:
                unmatched.append((version, f"/boot/{name}"))
    for version, path in unmatched:
        # Arch writes vmlinuz-linux; the copy of another kernel that is for rescue keeps its name.
        known = _version_in(tree, path)
        images[known if known in modules and images[known] is None else version] = path
    for version in modules:
        # Where the image lies with its modules: Fedora, openSUSE.
        for path in (f"/lib/modules/{version}/vmlinuz", f"/usr/lib/modules/{version}/vmlinuz"):
            if images[version] is None and tree.is_file(path):
                images[version] = path
    return [
        Kernel(version, path, _initramfs(names, version, path), version in modules)
        for version, path in sorted(images.items(), key=lambda item: _version_key(item[0]))
    ]


def image_version(image: BlockDevice) -> str | None:
    """The version in a kernel image, or None where it has none, as those for other machines than x86."""
    if image.size < _VERSION_POINTER_OFFSET + 2:
        return None
    header = bytes(image.read(0, _VERSION_POINTER_OFFSET + 2))
    if header[_SETUP_HEADER_OFFSET : _SETUP_HEADER_OFFSET + 4] != _SETUP_HEADER_MAGIC:
        return None
    offset = _VERSION_BASE + int.from_bytes(header[_VERSION_POINTER_OFFSET:], "little")
    if offset == _VERSION_BASE or offset >= image.size:
        return None
    text = bytes(image.read(offset, min(_MAX_VERSION_BYTES, image.size - offset))).partition(b"\0")[0]
    return text.decode("ascii", "replace").partition(" ")[0] or None


def _version_in(tree: Tree, path: str) -> str | None:
    try:
        return image_version(tree.device(path))
    except (GuestctlError, OSError):
        return None


def _initramfs(names: set[str], version: str, image: str | None) -> str | None:
    versions = [version]
    if image is not None:
        versions.append(image.rpartition("/")[2].partition("-")[2])
    for candidate in versions:
        for pattern in _INITRAMFS_NAMES:
            if pattern.format(candidate) in names:
                return "/boot/" + pattern.format(candidate)
    return None


def _version_key(version: str) -> list[tuple[int, str]]:
    """Digits compare as numbers, so that 6.10 comes after 6.9."""
    import re

    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", version)]
