"""Whose root a filesystem is: told by files that are only there, before any of them is read.

On a CD or DVD the root is that of a live system or of an installer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from guestctl.core.types import GuestType
from guestctl.disk.filesystem import FileSystem

_MEDIA_TYPES = ("iso9660", "udf")

# All the paths of a line are there in a root of that family; those of Linux come last, as others look like it.
_MARKS: tuple[tuple[GuestType, tuple[str, ...]], ...] = (
    (GuestType.HURD, ("/hurd/console", "/hurd/null")),
    (GuestType.OPENBSD, ("/bsd", "/etc/fstab")),
    (GuestType.NETBSD, ("/netbsd", "/etc/release")),
    (GuestType.FREEBSD, ("/etc/freebsd-update.conf", "/etc/fstab")),
    (GuestType.FREEBSD, ("/bin/freebsd-version",)),
    (GuestType.MINIX, ("/service/vm", "/etc/version")),
    (GuestType.SOLARIS, ("/etc/vfstab", "/etc/release")),
)
_LINUX_FILES = (
    "/etc/fstab",
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/passwd",
    "/etc/hosts",
    "/etc/machine-id",
)
_MACOS_FILE = "/System/Library/CoreServices/SystemVersion.plist"
_MACOS_INSTALLER = "/System/Installation"
_HAIKU_PACKAGES = "/system/packages"
_ANDROID_FILES = ("/build.prop", "/system/build.prop")

# A file of an installation medium -> the family that it installs.
_MEDIA_MARKS = (
    ("/.disk/info", GuestType.LINUX),
    ("/.treeinfo", GuestType.LINUX),
    ("/.discinfo", GuestType.LINUX),
    ("/.alpine-release", GuestType.LINUX),
    ("/media.1/media", GuestType.LINUX),
    ("/content", GuestType.LINUX),
    ("/arch/version", GuestType.LINUX),
    ("/LiveOS/squashfs.img", GuestType.LINUX),
    ("/sources/install.wim", GuestType.WINDOWS),
    ("/sources/install.esd", GuestType.WINDOWS),
    ("/sources/boot.wim", GuestType.WINDOWS),
    ("/i386/txtsetup.sif", GuestType.WINDOWS),
    ("/amd64/txtsetup.sif", GuestType.WINDOWS),
    ("/etc/boot.conf", GuestType.OPENBSD),
)


class Root(NamedTuple):
    """A root: the family, and whether it is what one installs from. ``path`` is the directory that OSTree deployed
    it in, ``boot`` the device that its boot entry is on."""

    type: GuestType
    installer: bool = False
    path: str = "/"
    boot: str | None = None


def find_root(filesystem: FileSystem[Any]) -> Root | None:
    """The root that `filesystem` holds, but for those of OSTree; None where it holds none."""
    if filesystem.is_dir(_HAIKU_PACKAGES) and any(filesystem.glob(f"{_HAIKU_PACKAGES}/haiku-*.hpkg")):
        return Root(GuestType.HAIKU)
    if filesystem.is_file(_MACOS_FILE):
        return Root(GuestType.MACOS, filesystem.is_dir(_MACOS_INSTALLER))
    medium = filesystem.type in _MEDIA_TYPES
    kind = _root_type(filesystem) or (_medium_type(filesystem) if medium else None)
    return Root(kind, medium) if kind else None


def windows_root(filesystem: FileSystem[Any]) -> str | None:
    """The directory that holds Windows, in any of the names that it had, as it is written; None where there is none."""
    for name in ("Windows", "WINNT", "WIN32", "WIN"):
        if filesystem.is_file(f"/{name}/system32/config/system") or filesystem.is_file(f"/{name}/system32/cmd.exe"):
            written = [entry for entry in filesystem.listdir("/") if entry.casefold() == name.casefold()]
            return f"/{min(written, key=lambda entry: entry != name, default=name)}"
    return None


def _root_type(filesystem: FileSystem[Any]) -> GuestType | None:
    if filesystem.is_dir("/etc"):
        for kind, paths in _MARKS:
            if all(filesystem.exists(path) for path in paths):
                return kind
        if filesystem.is_file("/boot/kernel/kernel") and _is_dragonfly(filesystem):
            return GuestType.DRAGONFLY
        if _is_linux_root(filesystem):
            return GuestType.LINUX
    elif any(filesystem.exists(path) for path in _ANDROID_FILES) or filesystem.exists("/nix/var/nix/profiles/system"):
        return GuestType.LINUX
    if windows_root(filesystem):
        return GuestType.WINDOWS
    return GuestType.DOS if filesystem.type == "vfat" and _is_dos_root(filesystem) else None


def _is_linux_root(filesystem: FileSystem[Any]) -> bool:
    if not (filesystem.is_dir("/bin") or filesystem.is_symlink("/bin") or filesystem.is_dir("/usr/bin")):
        return filesystem.exists("/etc/os-release") or filesystem.exists("/nix/var/nix/profiles/system")
    return any(filesystem.exists(path) for path in (*_LINUX_FILES, *_ANDROID_FILES, "/nix/var/nix/profiles/system"))


def _is_dragonfly(filesystem: FileSystem[Any]) -> bool:
    """At each start the first line of the message of the day is set to the kernel's name."""
    if not filesystem.is_file("/etc/motd"):
        return False
    motd = filesystem.device("/etc/motd")
    return bytes(motd.read(0, min(9, motd.size))) == b"DragonFly"


def _is_dos_root(filesystem: FileSystem[Any]) -> bool:
    """DOS starts the two files, or the one, that its boot sector looks for, and then its command interpreter."""
    kernel = filesystem.is_file("/KERNEL.SYS") or (filesystem.is_file("/IO.SYS") and filesystem.is_file("/MSDOS.SYS"))
    return kernel and filesystem.is_file("/COMMAND.COM")


def _medium_type(filesystem: FileSystem[Any]) -> GuestType | None:
    return next((kind for path, kind in _MEDIA_MARKS if filesystem.is_file(path)), None)
