"""What is in directories: names, long lists, whole trees, patterns; and the space that is left."""

from __future__ import annotations

import datetime
import errno
import os
import stat
import struct
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from guestctl.disk.filesystem import FileSystem
from guestctl.disk.stat import FileStat
from guestctl.guestfs.calls import launched
from guestctl.guestfs.paths import Paths, write_all

_KINDS = {
    stat.S_IFBLK: "b",
    stat.S_IFCHR: "c",
    stat.S_IFDIR: "d",
    stat.S_IFIFO: "f",
    stat.S_IFLNK: "l",
    stat.S_IFREG: "r",
    stat.S_IFSOCK: "s",
}
_RDONLY_RELATIME = os.ST_RDONLY | 4096 if hasattr(os, "ST_RDONLY") else 4097  # as statvfs.f_flag
_FAT_NAME_BYTES = 1530  # 255 characters in the kernel's own encoding
# ls(1) shows the time of day of what is no older.
_HALF_YEAR_SECONDS = 31556952 // 2
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


class _Line(NamedTuple):
    """A file in a long list."""

    name: str
    status: FileStat
    has_acl: bool
    context: str
    target: str | None


class Listing(Paths):
    """``ls``, ``ll``, ``readdir``, ``find``, ``glob_expand``, ``df`` and the like."""

    @launched
    def ls(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""
        return _sorted(self._tree.listdir(self._path(directory)))

    @launched
    def ls0(self, dir: str, filenames: str) -> None:
        """Write the names in a directory to the host's file `filenames`, a zero byte after each."""
        self._write_names(filenames, self._tree.listdir(self._path(dir)))

    @launched
    def readdir(self, dir: str) -> list[dict[str, Any]]:
        """The entries of a directory with ``.`` and ``..``: ``ino``, ``ftyp`` (a letter) and ``name`` of each."""
        path = self._path(dir)
        entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in self._tree.scandir(path)]
        above = path if self._tree.realpath(path) in self._mounts else f"{path}/.."  # of a mount point, itself
        dots = [(".", self._tree.stat(path)), ("..", self._tree.stat(above))]
        return [
            {"ino": status.st_ino, "ftyp": _KINDS.get(stat.S_IFMT(status.st_mode), "u"), "name": name}
            for name, status in dots + entries
        ]

    def _write_names(self, file: str, names: Iterable[str]) -> None:
        content = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
        with self._host_file(file) as stream:
            write_all(stream, content)

    # Trees

    @launched
    def find(self, directory: str) -> list[str]:
        """The paths of everything below `directory`, relative to it, sorted."""
        return _sorted(self._below(directory))

    @launched
    def find0(self, directory: str, files: str) -> None:
        """Write what `find` gives to the host's file `files`, unsorted, a zero byte after each."""
        self._write_names(files, self._below(directory))

    def _below(self, directory: str) -> Iterator[str]:
        path = self._path(directory)
        if not self._status(path).is_dir():
            raise OSError(errno.ENOTDIR, "not a directory", path)
        skip = len("/" + path.strip("/")) + (path.strip("/") != "")
        found = self._tree.find(path)
        next(found)
        return (one[skip:] for one, _, _ in found)

    @launched
    def glob_expand(self, pattern: str, directoryslash: bool | None = None) -> list[str]:
        """The paths that match a shell pattern, with braces; a slash after directories unless told otherwise."""
        from guestctl.guestfs.globbing import expand

        return expand(self._tree, self._path(pattern), mark=directoryslash is None or directoryslash)

    glob_expand_opts = glob_expand

    # Long lists

    @launched
    def ll(self, directory: str) -> str:
        """What ``ls -la`` prints, with numbers for owners, times in UTC."""
        return self._long_list(directory, contexts=False)

    @launched
    def llz(self, directory: str) -> str:
        """What ``ls -laZ`` prints."""
        return self._long_list(directory, contexts=True)

    def _long_list(self, directory: str, *, contexts: bool) -> str:
        path = self._path(directory)
        if not self._status(path).is_dir():
            return _table([self._line("/sysroot" + self._tree.realpath(path), self._tree.resolve(path))], contexts)
        lines = [self._line(name, self._tree.resolve(f"{path}/{name}")) for name in (".", "..")]
        lines += [
            self._line(name, self._tree.resolve(f"{path}/{name}", follow=False))
            for name in _sorted(self._tree.listdir(path))
        ]
        total = sum(line.status.st_blocks for line in lines) // 2
        return f"total {total}\n" + _table(lines, contexts)

    def _line(self, name: str, node: Any) -> _Line:
        status = self._tree.node_stat(node)
        xattrs = self._tree.node_xattrs(node)
        has_acl = "system.posix_acl_access" in xattrs or "system.posix_acl_default" in xattrs
        context = xattrs.get("security.selinux", b"?").rstrip(b"\0").decode("utf-8", "surrogateescape")
        return _Line(name, status, has_acl, context, self._tree.node_target(node) if status.is_symlink() else None)

    # Space

    @launched
    def statvfs(self, path: str) -> dict[str, int]:
        """Sizes of the filesystem that holds `path`, as statvfs(3) gives them."""
        where, device, filesystem = self._mounted_at(path)
        usage, unit = filesystem.usage(), filesystem.block_size
        free_inodes = usage.inodes - usage.inodes_used
        return {
            "bsize": unit,
            "frsize": unit,
            "blocks": usage.size // unit,
            "bfree": (usage.size - usage.used) // unit,
            "bavail": usage.available // unit,
            "files": usage.inodes,
            "ffree": free_inodes,
            "favail": free_inodes,
            "fsid": _fsid(filesystem, self._device_number(where, device)),
            "flag": _RDONLY_RELATIME,
            "namemax": _FAT_NAME_BYTES if filesystem.type == "vfat" else 255,
        }

    @launched
    def df(self) -> str:
        """What df(1) prints of what is mounted, in KiB."""
        return self._df("1K-blocks", lambda size: str(-(-size // 1024)))

    @launched
    def df_h(self) -> str:
        """What ``df -h`` prints of what is mounted."""
        return self._df("Size", _human)

    def _df(self, size_title: str, shown: Any) -> str:
        available = "Avail" if size_title == "Size" else "Available"
        rows = [("Filesystem", size_title, "Used", available, "Use%", "Mounted on")]
        for where, (device, filesystem) in self._mounts.items():
            usage = filesystem.usage()
            total = usage.used + usage.available
            share = f"{-(-usage.used * 100 // total)}%" if total else "-"
            rows.append((device, shown(usage.size), shown(usage.used), shown(usage.available), share, where))
        smallest = (14, 5, 5, 5, 4)  # the widths that df(1) leaves where everything is short
        widths = [max(low, *(len(row[i]) for row in rows)) for i, low in enumerate(smallest)]
        return "".join(
            f"{row[0]:<{widths[0]}} "
            + " ".join(f"{value:>{width}}" for value, width in zip(row[1:5], widths[1:], strict=True))
            + f" {row[5]}\n"
            for row in rows
        )


def _sorted(names: Any) -> list[str]:
    return sorted(names, key=os.fsencode)


def _table(lines: list[_Line], contexts: bool) -> str:
    now = datetime.datetime.now(datetime.UTC).timestamp()
    mark = any(line.has_acl for line in lines)
    majors = [len(str(os.major(line.status.st_rdev))) for line in lines if _is_device(line.status)]
    minors = [len(str(os.minor(line.status.st_rdev))) for line in lines if _is_device(line.status)]
    device = (max(majors, default=0), max(minors, default=0))
    sizes = [_size(line.status, device) for line in lines]
    columns = [
        [stat.filemode(line.status.st_mode) + ("+" if line.has_acl else " " if mark else "") for line in lines],
        _right([str(line.status.st_nlink) for line in lines]),
        _right([str(line.status.st_uid) for line in lines], left=True),
        _right([str(line.status.st_gid) for line in lines], left=True),
        *([_right([line.context for line in lines], left=True)] if contexts else []),
        _right(sizes),
        [_time(line.status.st_mtime_ns, now) for line in lines],
        [line.name + (f" -> {line.target}" if line.target is not None else "") for line in lines],
    ]
    return "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True))


def _right(values: list[str], *, left: bool = False) -> list[str]:
    width = max(map(len, values))
    return [value.ljust(width) if left else value.rjust(width) for value in values]


def _is_device(status: FileStat) -> bool:
    return stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)


def _size(status: FileStat, device: tuple[int, int]) -> str:
    if _is_device(status):
        return f"{os.major(status.st_rdev):>{device[0]}}, {os.minor(status.st_rdev):>{device[1]}}"
    return str(status.st_size)


def _time(nanoseconds: int, now: float) -> str:
    seconds = nanoseconds // 10**9
    try:
        time = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return str(seconds)
    month = f"{_MONTHS[3 * time.month - 3 : 3 * time.month]} {time.day:>2}"
    recent = now - _HALF_YEAR_SECONDS < seconds <= now
    return f"{month} {time.hour:02}:{time.minute:02}" if recent else f"{month}  {time.year:>4}"


def _human(size: int) -> str:
    """As df(1) rounds: up, with one digit after the point below ten."""
    if size < 1024:
        return str(size)
    unit = next(power for power in range(1, 9) if size < 1024 ** (power + 1) or power == 8)
    tenths = -(-size * 10 // 1024**unit)
    shown = f"{tenths / 10:.1f}" if tenths < 100 else str(-(-size // 1024**unit))
    return shown + "KMGTPEZY"[unit - 1]


def _fsid(filesystem: FileSystem[Any], device: int) -> int:
    """As the kernel makes it: of ext the halves of the UUID, one upon the other; of Btrfs its quarters so, and the
    subvolume's number; of others the device's number; of NTFS, which ntfs-3g mounts, 0."""
    if not filesystem.type.startswith(("ext", "btrfs")):
        return 0 if filesystem.type == "ntfs" else device
    words = struct.unpack(">4I", uuid.UUID(filesystem.uuid or "0" * 32).bytes)
    if filesystem.type == "btrfs":
        subvolume = filesystem.subvolume_id or 0
        mixed = struct.pack("<2I", words[0] ^ words[2] ^ subvolume >> 32, words[1] ^ words[3] ^ subvolume & 0xFFFFFFFF)
    else:
        mixed = struct.pack(">2I", words[0] ^ words[2], words[1] ^ words[3])
    return int.from_bytes(mixed, "little", signed=True)
