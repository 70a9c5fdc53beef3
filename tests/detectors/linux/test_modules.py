"""Kernel modules beside depmod's lists, blacklists beside modprobe's configuration."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from boot_guests import memory_system
from conftest import Run
from guestctl.block import MemoryDevice
from guestctl.detectors.linux.kernels import find_kernels, image_version
from guestctl.detectors.linux.modules import built_in, dependencies, kernels
from memory_filesystem import Link, MemoryFileSystem

VERSION = "6.5.0-test"
CONFIGURATION = {
    "/etc/modprobe.d/blacklist.conf": "# no beep\nblacklist pcspkr\n  blacklist\tsnd-pcsp\ninstall floppy /bin/true\n",
    "/etc/modprobe.d/long.conf": "blacklist \\\n  nouveau\noptions kvm nested=1\ninstall usb /sbin/modprobe -i usb\n",
    "/etc/modprobe.d/notes.txt": "blacklist no\n",
    "/lib/modprobe.d/blacklist.conf": "blacklist hidden\n",
    "/lib/modprobe.d/other.conf": "blacklist evbug\n",
}


def test_lists_of_depmod(run: Run, tmp_path: Path) -> None:
    """The modules of this machine's kernel, as depmod lists them; modinfo tells the file and needs of each."""
    found = sorted(Path("/lib/modules").glob("*/kernel/drivers/virtio")) if Path("/lib/modules").is_dir() else []
    if not found:
        pytest.skip("needs a kernel's modules in /lib/modules")
    source = found[0].parents[2]
    target = tmp_path / f"lib/modules/{VERSION}"
    for path in (*source.glob("kernel/drivers/virtio/*.ko*"), *source.glob("kernel/drivers/block/virtio*.ko*")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    extra = target / "updates/dkms"
    extra.mkdir(parents=True)
    (extra / "own-disk.ko").write_bytes(next(source.glob("kernel/drivers/block/virtio_blk.ko*")).read_bytes())
    for name in ("modules.builtin", "modules.order"):
        (target / name).write_bytes((source / name).read_bytes())
    run("depmod", "-b", tmp_path, VERSION)
    lists = {f"/lib/modules/{VERSION}/{path.name}": path.read_bytes() for path in target.glob("modules.*")}
    system = memory_system({"/dev/sda1": lists}, {"/": "/dev/sda1"})
    (kernel,) = kernels(system).kernels
    files = [path.relative_to(target) for path in target.rglob("*.ko*")]
    assert kernel.modules == len(files)
    assert kernel.out_of_tree == ["updates/dkms/own-disk.ko"]
    assert kernel.built_in == len((source / "modules.builtin").read_text().splitlines())
    aliases = [run("modinfo", "-F", "alias", target / path).splitlines() for path in files]
    assert kernel.aliases == sum(map(len, aliases))
    needs = dependencies(system.tree, VERSION)
    assert needs is not None
    for path in files:
        name = path.name.partition(".ko")[0]
        direct = {one for one in run("modinfo", "-F", "depends", target / path).strip().split(",") if one}
        assert {one.replace("-", "_") for one in direct} <= set(needs[name.replace("-", "_")])


def test_configuration(run: Run, tmp_path: Path) -> None:
    for path, text in CONFIGURATION.items():
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).write_text(text)
    files = {
        **CONFIGURATION,
        "/etc/modules": "# /etc/modules\nloop max_loop=8\n\nfuse\n",
        "/etc/modules-load.d/own.conf": "; comment\nvirtio-rng\nloop\n",
        "/usr/lib/modules-load.d/own.conf": "hidden\n",
        "/usr/lib/modules-load.d/vendor.conf": "tun\n",
        "/usr/lib/modules-load.d/masked.conf": "hidden\n",
        "/etc/modules-load.d/masked.conf": Link("/dev/null"),
    }
    found = kernels(memory_system({"/dev/sda1": files}, {"/": "/dev/sda1"}))
    # modprobe reads one directory where it is told to; the names in /lib that /etc hides are left out by hand.
    shown = run("modprobe", "-c", "-C", tmp_path / "etc/modprobe.d") + "blacklist evbug\n"
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("blacklist ")} | {"floppy"}
    assert found.blacklist == sorted(listed)
    assert found.load == ["loop", "fuse", "virtio_rng", "tun"]
    assert found.kernels == []


def test_no_lists() -> None:
    tree = MemoryFileSystem({f"/usr/lib/modules/{VERSION}/kernel/x.ko": ""})
    assert built_in(tree, VERSION) is None
    assert dependencies(tree, VERSION) is None


def kernel_image(version: bytes) -> bytes:
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x100)
    image[0x300 : 0x300 + len(version)] = version
    return bytes(image)


def test_kernel_of_arch() -> None:
    """The name of its image has no version; the image itself does."""
    version = "6.6.1-arch1-1"
    tree = MemoryFileSystem(
        {
            "/boot/vmlinuz-linux": kernel_image(f"{version} (linux@archlinux) #1 SMP".encode()),
            "/boot/initramfs-linux.img": "",
            "/boot/vmlinuz-broken": kernel_image(b""),
            f"/usr/lib/modules/{version}/vmlinuz": "",
        }
    )
    found = [(one.version, one.path, one.initramfs, one.modules) for one in find_kernels(tree)]
    assert (version, "/boot/vmlinuz-linux", "/boot/initramfs-linux.img", True) in found
    assert ("broken", "/boot/vmlinuz-broken", None, False) in found
    assert len(found) == 2


def test_kernel_for_rescue() -> None:
    """Red Hat's is a copy of another kernel, under a name of its own."""
    image = kernel_image(b"5.14.0-427.el9.x86_64 (mockbuild@x86)")
    tree = MemoryFileSystem(
        {
            "/boot/vmlinuz-0-rescue-6ea2": image,
            "/boot/initramfs-0-rescue-6ea2.img": "",
            "/boot/vmlinuz-5.14.0-427.el9.x86_64": image,
            "/lib/modules/5.14.0-427.el9.x86_64/modules.dep": "",
        }
    )
    assert [(one.version, one.path) for one in find_kernels(tree)] == [
        ("0-rescue-6ea2", "/boot/vmlinuz-0-rescue-6ea2"),
        ("5.14.0-427.el9.x86_64", "/boot/vmlinuz-5.14.0-427.el9.x86_64"),
    ]


def test_version_in_a_kernel(run: Run) -> None:
    """As file(1) reads it."""
    images = sorted(Path("/boot").glob("vmlinuz-*"))
    if not images:
        pytest.skip("needs a kernel in /boot")
    described = run("file", "-b", images[0])
    assert f"version {image_version(MemoryDevice(images[0].read_bytes()))} " in described
