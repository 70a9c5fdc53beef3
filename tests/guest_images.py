"""Disks that hold a guest, made of files without root: the tools that make a filesystem fill it themselves."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import xfs_images
from memory_filesystem import Link

Run = Callable[..., str]
Files = Mapping[str, str | bytes | None]  # as `MemoryFileSystem` takes them
MIB = 1 << 20


class Part(NamedTuple):
    """A partition: sfdisk's word for its type, and what it holds; `more` is what sfdisk is to be told besides."""

    type: str
    content: Path | None
    more: str = ""


def disk(run: Run, image: Path, label: str, parts: Sequence[Part], label_id: str = "") -> Path:
    """A disk of partitions that follow each other from 1 MiB on; an empty one has 1 MiB."""
    lines, places, start = [f"label: {label}", *([f"label-id: {label_id}"] if label_id else [])], [], MIB
    for part in parts:
        size = -(-part.content.stat().st_size // MIB) * MIB if part.content else MIB
        lines.append(f"start={start // 512}, size={size // 512}, type={part.type}{part.more}")
        places.append(start)
        start += size
    with image.open("wb") as stream:
        stream.truncate(start + MIB)
    run("sfdisk", "--quiet", image, input="\n".join(lines) + "\n")
    for part, place in zip(parts, places, strict=True):
        if part.content:
            put(run, part.content, image, place)
    return image


def put(run: Run, content: Path, image: Path, place: int) -> None:
    """Move a file into another one, to a place that is a whole number of mebibytes."""
    options = ("bs=1M", f"seek={place // MIB}", "conv=notrunc,sparse", "status=none")
    run("dd", f"if={content}", f"of={image}", *options)
    content.unlink()


def tree(folder: Path, files: Files) -> Path:
    """The files as a directory."""
    for path, content in files.items():
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif isinstance(content, Link):
            place.symlink_to(content)
        else:
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def _empty(image: Path, size: int) -> Path:
    with image.open("wb") as stream:
        stream.truncate(size)
    return image


def ext4(run: Run, folder: Path, source: Path, uuid: str) -> Path:
    image = _empty(folder / f"{uuid}.ext4", 32 * MIB)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-d", source, image)
    return image


def btrfs(run: Run, folder: Path, source: Path, uuid: str) -> Path:
    image = _empty(folder / f"{uuid}.btrfs", 128 * MIB)
    run("mkfs.btrfs", "-q", "-f", "-U", uuid, "--rootdir", source, image)
    return image


def xfs(run: Run, folder: Path, files: Files, uuid: str) -> Path:
    items: dict[str, xfs_images.Item] = {}
    for path, content in sorted(files.items(), key=lambda item: item[0].split("/")):
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            items.setdefault("/".join(parts[:depth]), xfs_images.Item(stat.S_IFDIR | 0o755, 0, 0))
        name = "/".join(parts)
        if content is None:
            items.setdefault(name, xfs_images.Item(stat.S_IFDIR | 0o755, 0, 0))
        elif isinstance(content, Link):
            items[name] = xfs_images.Item(stat.S_IFLNK | 0o777, 0, 0, str(content))
        else:
            data = content if isinstance(content, bytes) else content.encode()
            items[name] = xfs_images.Item(stat.S_IFREG | 0o755, 0, 0, data)
    place = folder / uuid
    place.mkdir()
    return xfs_images.make(run, place, f"-m uuid={uuid}", items)


def logical_volume(run: Run, folder: Path, content: Path, group: str, name: str) -> Path:
    """A physical volume whose first logical volume has the content; LVM writes it without activating it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")
    image = _empty(folder / "volume", content.stat().st_size + 16 * MIB)
    loop = run("losetup", "--find", "--show", image).strip()
    options = ("--driverloaded", "n", "--devices", loop, "--config", "backup { backup=0 archive=0 }")
    size = f"{content.stat().st_size}b"
    try:
        run("lvm", "pvcreate", *options, "--dataalignment", "1m", loop)
        run("lvm", "vgcreate", *options, group, loop)
        run("lvm", "lvcreate", *options, "-an", "-Zn", "-Wn", "-n", name, "-L", size, group)
    finally:
        run("losetup", "--detach", loop)
    put(run, content, image, MIB)
    return image


def ufs2(run: Run, folder: Path, source: Path) -> Path:
    run("makefs", "-t", "ffs", "-s", "16m", "-o", "version=2", folder / "ufs", source)
    return folder / "ufs"


def ntfs(run: Run, folder: Path, files: Files) -> Path:
    """wimlib writes into the filesystem through libntfs-3g, which needs no mount."""
    folder.mkdir()
    image = _empty(folder / "ntfs", 64 * MIB)
    run("mkntfs", "-q", "-Q", "-F", "-s", "512", "-p", "0", "-H", "0", "-S", "0", image)
    run("wimcapture", tree(folder / "windows", files), folder / "windows.wim", "--compress=none")
    run("wimapply", folder / "windows.wim", "1", image)
    return image


def fat(run: Run, folder: Path, files: Files, volume_id: str) -> Path:
    image = _empty(folder / "fat", 36 * MIB)
    run("mkfs.vfat", "-F", "32", "-i", volume_id, image)
    top = tree(folder / "esp", files)
    run("mcopy", "-s", "-i", image, *sorted(top.iterdir()), "::/")
    shutil.rmtree(top)
    return image


def program(machine: int) -> bytes:
    """The least that is a Windows program: a DOS header, and a PE header behind it."""
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 0, 0, 0, 0, 240, 0x22)
    return (b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + coff).ljust(1024, b"\0")


def hive(run: Run, minimal: Path, place: Path, keys: Mapping[str, str]) -> bytes:
    """A hive that hivexregedit makes out of keys with the lines of their values."""
    shutil.copyfile(minimal, place)
    above = {"\\".join(key.split("\\")[:depth]) for key in keys for depth in range(1, key.count("\\") + 1)}
    lines = [f"[\\{key}]\n{keys.get(key, '')}\n" for key in sorted(above | set(keys))]
    run("hivexregedit", "--merge", place, input="\n".join(lines))
    return place.read_bytes()
