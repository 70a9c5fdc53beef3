"""Installed kernels: images in /boot, each with its initramfs and modules."""

from __future__ import annotations

from guestctl.detectors.files import Tree, list_directory
from guestctl.detectors.report import Guest, Kernel

_IMAGE_PREFIXES = ("vmlinuz-", "vmlinux-", "bzImage-", "kernel-", "Image-", "zImage-")
_INITRAMFS_NAMES = ("initrd.img-{}", "initramfs-{}.img", "initramfs-{}", "initrd-{}", "initrd-{}.img")


def detect_kernels(tree: Tree, guest: Guest) -> None:
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
    for name in boot:
        prefix = next((prefix for prefix in _IMAGE_PREFIXES if name.startswith(prefix)), None)
        # A link such as vmlinuz-lts -> vmlinuz-6.1.0 names no kernel of its own.
        if prefix and not tree.is_symlink(f"/boot/{name}"):
            version = name.removeprefix(prefix)
            # Alpine writes vmlinuz-lts where the modules are in 6.1.0-0-lts.
            full = [known for known in modules if known.endswith("-" + version)]
            images[full[0] if len(full) == 1 else version] = f"/boot/{name}"
    for version in modules:
        # Where the image lies with its modules: Fedora, openSUSE.
        for path in (f"/lib/modules/{version}/vmlinuz", f"/usr/lib/modules/{version}/vmlinuz"):
            if images[version] is None and tree.is_file(path):
                images[version] = path
    guest.kernels = [
        Kernel(version, path, _initramfs(names, version, path), version in modules)
        for version, path in sorted(images.items(), key=lambda item: _version_key(item[0]))
    ]


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
