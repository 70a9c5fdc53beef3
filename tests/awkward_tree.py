"""A tree with every awkward case, and how it looks from the kernel's mount and from guestctl: to be compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

from guestctl.disk import FileSystem

_PIECE = 1 << 16
NAMES = ("plain", "with space", "Ünïcödé", "日本語", "עברית", "🐧", "new\nline", "back\\slash", "x" * 255, "é" * 127)


def populate(top: Path, block_size: int, *, large_values: bool, many_files: int = 10_000) -> None:
    """Every awkward case once; file contents carry their place, so that a wrong block shows.

    One directory has had `many_files`, of which every seventh is gone.
    """
    contents = b"".join(b"%07d\n" % number for number in range(40_000))
    sizes = top / "sizes"
    sizes.mkdir()
    for size in (0, 1, 59, 60, 61, 150, block_size - 1, block_size, block_size + 1, 13 * block_size + 5, 300_000):
        (sizes / str(size)).write_bytes(contents[:size])
    sparse = top / "sparse"
    sparse.mkdir()
    for name, places, size in (
        ("holes-at-both-ends", (5 * block_size,), 9 * block_size + 7),
        ("hole-in-the-middle", (0, 8 * block_size), 9 * block_size),
        ("all-hole", (), 100_000),
        ("several-gib", (0, 1 << 30, 3 << 30), (3 << 30) + 12345),
        ("many-extents", tuple(range(0, 800 * block_size, 2 * block_size)), 900 * block_size),
    ):
        with (sparse / name).open("wb") as stream:
            for place in places:
                stream.seek(place)
                stream.write(contents[:block_size])
            stream.truncate(size)
    with (sparse / "unwritten").open("wb") as stream:
        stream.write(contents[: 2 * block_size])
        try:
            os.posix_fallocate(stream.fileno(), 0, 20 * block_size)
        except OSError:
            stream.truncate(20 * block_size)
    links = top / "links"
    links.mkdir()
    for length in (1, 58, 59, 60, 61, 255, 1000):
        (links / f"to-{length}").symlink_to("t" * length if length < 256 else "/".join(["u" * 99] * (length // 100)))
    (links / "first").write_bytes(b"linked")
    for number in range(5):
        os.link(links / "first", links / f"hard-{number}")
    special = top / "special"
    special.mkdir()
    os.mkfifo(special / "fifo", 0o600)
    for name, major, minor in (("old", 1, 3), ("new", 300, 70_000)):
        os.mknod(special / f"char-{name}", 0o640 | stat.S_IFCHR, os.makedev(major, minor))
        os.mknod(special / f"block-{name}", 0o640 | stat.S_IFBLK, os.makedev(major, minor))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(special, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    names = top / "names"
    names.mkdir()
    for name in NAMES:
        (names / name).write_text(name)
    for raw in (b"\xff\xfe", b"latin-\xe9", b"\x01\x7f"):
        with open(os.fsencode(names) + b"/" + raw, "wb") as stream:
            stream.write(raw)
    many = top / "many"
    many.mkdir()
    for number in range(many_files):
        os.close(os.open(many / f"file-{number:05}", os.O_CREAT | os.O_WRONLY))
    (many / "gone").touch()
    (many / "gone").unlink()
    for number in range(0, many_files, 7):
        (many / f"file-{number:05}").unlink()
    (many / "file-00000").touch()
    deep = top / "deep"
    deep.mkdir()
    for _ in range(100):
        deep = deep / "d"
        deep.mkdir()
    times = top / "times"
    times.mkdir()
    for number, seconds in enumerate((-(2**31), -1, 0, 1, 2**31 - 1, 2**31, 2**32 + 5, 2**33)):
        path = times / str(number)
        path.touch()
        os.utime(path, ns=(seconds * 10**9 + 123456789, seconds * 10**9 + 987654321))
    owners = top / "owners"
    owners.mkdir()
    for number, (uid, gid, mode) in enumerate(((1000, 1000, 0o4755), (65536, 70000, 0o2775), (2**32 - 2, 1, 0o1777))):
        path = owners / str(number)
        path.touch()
        os.chown(path, uid, gid)
        path.chmod(mode)
    _set_attributes(top, block_size, large_values=large_values)


def _set_attributes(top: Path, block_size: int, *, large_values: bool) -> None:
    attributes = top / "attributes"
    attributes.mkdir()
    few = attributes / "few"
    few.write_bytes(b"content")
    os.setxattr(few, "user.short", b"v")
    os.setxattr(few, "trusted.t", b"\0\xff")
    many = attributes / "many"
    many.touch()
    for number in range(8):
        os.setxattr(many, f"user.attribute-{number}", bytes([number]) * (block_size // 20))
    if shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", "u:1234:rwx,g:daemon:r", attributes / "few"], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:1234:r-x", attributes], check=True)
    if shutil.which("setcap"):
        subprocess.run(["setcap", "cap_net_raw+ep", attributes / "many"], check=True)
    if large_values:
        os.setxattr(many, "user.large", os.urandom(50_000))


def from_mount(top: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    prefix = len(str(top))
    pending = [str(top)]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        digest: str | None = None
        if stat.S_ISDIR(status.st_mode):
            pending.extend(entry.path for entry in os.scandir(path))
        elif stat.S_ISLNK(status.st_mode):
            digest = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as stream:
                digest = _digest(stream.fileno(), status.st_size)
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _listxattr(path)}
        found[path[prefix:] or "/"] = (*_attributes(status), status.st_rdev, digest, xattrs)
    return found


def _listxattr(path: str) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _attributes(status: Any) -> tuple[int, ...]:
    return (
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_blocks,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _digest(fd: int, size: int) -> str:
    """SHA-256 of the parts with data and where they are: gigabytes of holes cost nothing."""
    digest = hashlib.sha256()
    position = 0
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            break
        end = min(os.lseek(fd, position, os.SEEK_HOLE), size)
        while position < end:
            piece = os.pread(fd, min(_PIECE - position % _PIECE, end - position), position)
            _add(digest, position, piece)
            position += len(piece)
    return digest.hexdigest()


def _add(digest: Any, position: int, piece: bytes) -> None:
    """Units that are not all zeros, wherever the piece was cut off."""
    for start in range(0, len(piece), 512):
        unit = piece[start : start + 512]
        if any(unit):
            digest.update(b"%d:" % (position + start) + unit)


def from_guestctl(filesystem: FileSystem[Any]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path, node, status in filesystem.find("/"):
        digest: str | None = None
        if status.is_symlink():
            digest = filesystem.node_target(node)
        elif status.is_file():
            digest = _device_digest(filesystem.node_data(node))
        found[path] = (*_attributes(status), status.st_rdev, digest, filesystem.node_xattrs(node))
    return found


def _device_digest(device: Any) -> str:
    digest = hashlib.sha256()
    for run in device.runs(0, device.size):
        if run.source is None:
            continue
        position, end = run.offset, run.offset + run.length
        while position < end:
            piece = bytes(device.read(position, min(_PIECE - position % _PIECE, end - position)))
            _add(digest, position, piece)
            position += len(piece)
    return digest.hexdigest()
