"""Extended attributes as the kernel shows them on a mount, and damaged ones as it refuses them."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.core.errors import ChecksumMismatch, GuestctlError, InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystems.ext4 import xattrs

Run = Callable[..., str]
Mount = Callable[..., AbstractContextManager[Path]]
MAGIC = struct.pack("<I", 0xEA020000)


def no_value(inode: int, size: int, value_hash: int) -> bytes:
    raise AssertionError("no value lies in another inode")


class Raw(NamedTuple):
    """The parts of a file's attributes, cut from the image at the places that debugfs names."""

    area: memoryview
    area_offset: int
    block: memoryview | None
    block_number: int
    block_offset: int


class Image:
    """An unmounted image and its raw structures."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.run = run
        self.header = run("dumpe2fs", "-h", path)
        self.block_size = int(self.field("Block size"))
        self.inode_size = int(self.field("Inode size"))

    def field(self, name: str) -> str:
        found = re.search(rf"^{name}:\s*(.*)$", self.header, re.MULTILINE)
        assert found, name
        return found[1]

    def debugfs(self, command: str) -> str:
        return self.run("debugfs", "-R", command, self.path)

    def inode_offset(self, name: str) -> int:
        found = re.search(r"located at block (\d+), offset 0x([0-9a-f]+)", self.debugfs(f"imap {name}"))
        assert found
        return int(found[1]) * self.block_size + int(found[2], 16)

    def read(self, offset: int, length: int) -> memoryview:
        with self.path.open("rb") as file:
            file.seek(offset)
            return memoryview(file.read(length))

    def raw(self, name: str) -> Raw:
        offset = self.inode_offset(name)
        start = self.inode_size
        if self.inode_size > 128:
            start = 128 + struct.unpack("<H", self.read(offset + 128, 2))[0]
        found = re.search(r"File ACL: (\d+)", self.debugfs(f"stat {name}"))
        assert found
        number = int(found[1])
        return Raw(
            self.read(offset + start, self.inode_size - start),
            offset + start,
            self.read(number * self.block_size, self.block_size) if number else None,
            number,
            number * self.block_size,
        )

    def value(self, inode: int, size: int, value_hash: int) -> bytes:
        """From an attribute inode, whose access time holds the hash of the value."""
        found = re.search(r"^ *atime: 0x([0-9a-f]+)", self.debugfs(f"stat <{inode}>"), re.MULTILINE)
        assert found
        if int(found[1], 16) != value_hash:
            raise ChecksumMismatch(structure="ea_inode", offset=0, expected=value_hash, actual=int(found[1], 16))
        target = self.path.with_suffix(".value")
        self.debugfs(f"dump <{inode}> {target}")
        value = target.read_bytes()
        assert len(value) == size
        return value

    def parse(self, name: str) -> dict[str, bytes]:
        raw = self.raw(name)
        attributes = xattrs.parse_inode_body(raw.area, self.value, offset=raw.area_offset)
        if raw.block is not None:
            attributes = {**xattrs.parse_block(raw.block, self.value, offset=raw.block_offset), **attributes}
        return attributes


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def fill(root: Path, run: Run, *, large: bool) -> None:
    """Files whose attributes lie in the inode, in a block, in both, and in inodes of their own."""
    plain: dict[str, dict[bytes, bytes]] = {
        "none": {},
        "one": {b"user.a": b"1"},
        "empty": {b"user.empty": b"", b"user.after": b"x"},
        "in-block": {b"user.big": bytes(range(256)) * 3},
        "both": {b"user.small": b"s", b"trusted.t": b"T" * 20, b"user.large": b"L" * 700},
        "many": {b"user.%d" % number: b"%d" % (number * number) for number in range(25)},
        "names": {b"user.\xff\xfe": b"1", "user.имя".encode(): b"2", b"user." + b"n" * 250: b"3", b"user.a.b": b"4"},
        "security": {b"security.capability": CAPABILITY, b"security.selinux": b"system_u:object_r:etc_t:s0\0"},
    }
    if large:
        plain["large"] = {b"user.l1": os.urandom(40000), "user.ö".encode(): os.urandom(9000), b"user.s": b"small"}
    for name, values in plain.items():
        (root / name).write_bytes(b"content")
        for key, value in values.items():
            os.setxattr(root / name, key, value)
    (root / "acl").write_bytes(b"")
    run("setfacl", "-m", "u:1000:rw,u:4000000000:r,g:2000:r,m::rwx", root / "acl")
    (root / "acl-plain").write_bytes(b"")
    run("setfacl", "-m", "m::r", root / "acl-plain")
    (root / "dir").mkdir()
    run("setfacl", "-m", "u:33:rwx", "-m", "d:u:33:rwx,d:g:44:x,d:o::-", root / "dir")
    os.setxattr(root / "dir", b"user.d", b"directory")
    (root / "link").symlink_to("one")
    os.setxattr(root / "link", b"trusted.link", b"on a link", follow_symlinks=False)


VARIANTS = {
    "ext4": ("-t", "ext4"),
    "ea_inode": ("-t", "ext4", "-b", "1024", "-O", "ea_inode"),
    "inline_data": ("-t", "ext4", "-O", "inline_data,ea_inode", "-I", "1024"),
    "inodes of 128 bytes": ("-t", "ext3", "-I", "128"),
    "ext2": ("-t", "ext2"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def filled(
    request: pytest.FixtureRequest,
    run: Run,
    mount: Mount,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Image, dict[str, dict[str, bytes]]]:
    """An image, and what the kernel says of each file in it."""
    options = VARIANTS[request.param]
    path = tmp_path_factory.mktemp("xattrs") / "image"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    run("mke2fs", "-q", "-F", *options, path)
    with mount(path, "rw,loop") as root:
        fill(root, run, large=any("ea_inode" in option for option in options))
    truth = {}
    with mount(path) as root:
        for entry in root.iterdir():
            names = os.listxattr(entry, follow_symlinks=False)
            truth[entry.name] = {name: os.getxattr(entry, name, follow_symlinks=False) for name in names}
    return Image(path, run), truth


@pytest.mark.root
def test_as_the_kernel_shows_them(filled: tuple[Image, dict[str, dict[str, bytes]]]) -> None:
    image, truth = filled
    assert len(truth["many"]) == 25
    for name, expected in truth.items():
        found = image.parse(name)
        found.pop("system.data", None)
        assert found == expected, name


@pytest.mark.root
def test_where_they_lie(filled: tuple[Image, dict[str, dict[str, bytes]]]) -> None:
    """The fixture has attributes in the inode (unless it is too small), and in blocks."""
    image, _ = filled
    one = image.raw("one")
    assert (one.block is None) == (image.inode_size > 128)
    both = image.raw("both")
    if image.inode_size == 256:
        assert both.block is not None
        body = xattrs.parse_inode_body(both.area, no_value, offset=0)
        block = xattrs.parse_block(both.block, no_value, offset=0)
        assert "user.small" in body
        assert "user.large" in block


@pytest.mark.root
@pytest.mark.parametrize("filled", ["ext4", "ea_inode"], indirect=True)
def test_checksum_of_the_block(filled: tuple[Image, dict[str, dict[str, bytes]]]) -> None:
    image, _ = filled
    raw = image.raw("many")
    assert raw.block is not None
    uuid = bytes.fromhex(image.field("Filesystem UUID").replace("-", ""))
    seed = google_crc32c.value(uuid) ^ 0xFFFFFFFF
    xattrs.verify_block(raw.block, seed=seed, block_number=raw.block_number, offset=raw.block_offset)
    for position in (0x08, 0x10, 0x40, image.block_size - 1):
        damaged = bytearray(raw.block)
        damaged[position] ^= 0x10
        with pytest.raises(ChecksumMismatch) as caught:
            xattrs.verify_block(memoryview(damaged), seed=seed, block_number=raw.block_number, offset=raw.block_offset)
        assert (caught.value.structure, caught.value.offset) == ("ext4_xattr_header", raw.block_offset)
    with pytest.raises(ChecksumMismatch):
        xattrs.verify_block(raw.block, seed=seed, block_number=raw.block_number + 1, offset=0)


@pytest.mark.root
def test_inline_data(run: Run, mount: Mount, tmp_path: Path) -> None:
    """A file longer than i_block continues in system.data, an empty one has it with no value."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data", path)
    content = bytes(range(100))
    with mount(path, "rw,loop") as root:
        (root / "long").write_bytes(content)
        os.setxattr(root / "long", b"user.beside", b"1")
        (root / "short").write_bytes(content[:10])
        (root / "block").write_bytes(bytes(100000))
    image = Image(path, run)
    raw = image.raw("long")
    assert xattrs.raw_inline_data(raw.area) == content[60:]
    assert xattrs.parse_inode_body(raw.area, no_value, offset=0) == {
        "system.data": content[60:],
        "user.beside": b"1",
    }
    assert xattrs.raw_inline_data(image.raw("short").area) == b""
    assert xattrs.raw_inline_data(image.raw("block").area) is None


# Changes to the attributes of a file. In its inode h_magic is at 0, the entry of user.aaa at 4, of
# user.bbb at 24 and the end of the table at 44; in its block they are at 0, 32, 52 and 72.
BODY: dict[str, tuple[int, bytes | None]] = {
    "nothing": (0, b""),
    "no magic": (0, b"\0"),
    "name too long": (4, b"\xff"),
    "name of the rest": (24, b"\x38"),
    "name longer than the rest": (24, b"\x39"),
    "no name": (4, b"\0\1"),
    "name with a zero": (4 + 17, b"\0"),
    "index 0": (5, b"\0"),
    "index 5": (5, b"\5"),
    "index 9": (5, b"\x09"),
    "index 99": (5, b"\x63"),
    "index trusted": (5, b"\4"),
    "index gnu": (5, b"\x0a"),
    "value past the end": (6, b"\x60\1"),
    "value in the names": (6, b"\x20\0"),
    "value in the end mark": (6, b"\x28\0"),
    "value behind the end mark": (6, b"\x2c\0"),
    "value shared": (24 + 2, None),  # with user.aaa
    "value too long": (12, b"\x80"),
    "value one too long": (24 + 8, b"\x0d"),
    "value of the last byte": (6, b"\x5b\0\0\0\0\0\1"),  # its padding is past the end
    "value of the last word": (6, b"\x58\0\0\0\0\0\1"),
    "value of 4 GiB": (12, b"\xff\xff\xff\xff"),
    "value empty": (12, b"\0"),
    "empty value past the end": (6, b"\xff\xff\0\0\0\0\0\0\0\0"),
    "same name": (24 + 16, b"aaa"),
    "no end": (44, b"\1\1\1\1"),
    "hash": (16, b"\1\2\3\4"),
}
BLOCK: dict[str, tuple[int, bytes | None]] = {
    "nothing": (0, b""),
    "no magic": (0, b"\1"),
    "two blocks": (8, b"\2"),
    "no block": (8, b"\0"),
    "reference count": (4, b"\x63"),
    "name too long": (52, b"\xff"),
    "value in the names": (34, b"\x40\0"),
    "value past the end": (34, b"\xfe\xff"),
    "value too long": (40, b"\xff\xff"),
    "same name": (52 + 16, b"aaa"),
    "hash": (44, b"\1\2\3\4"),
    "hash of all": (12, b"\1\2\3\4"),
}
ACL: dict[str, tuple[int, bytes | None]] = {  # offsets in the value
    "nothing": (0, b""),
    "version 2": (0, b"\2"),
    "version 0": (0, b"\0"),
    "unknown tag": (4, b"\x40"),
    "named instead of short": (4, b"\2"),
    "permissions": (6, b"\7"),
}


def shown(path: Path) -> dict[str, bytes] | None:
    """What the kernel gives, or None where it refuses. It lists an empty ACL, and then says there is none."""
    found = {}
    try:
        for name in os.listxattr(path):
            try:
                found[name] = os.getxattr(path, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    except OSError:
        return None
    return found


@pytest.mark.root
def test_damage_as_the_kernel_meets_it(run: Run, mount: Mount, tmp_path: Path) -> None:
    """One change to one file each: the kernel's attributes, or a refusal where it refuses."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum", path)
    cases = {
        f"{kind} {case}": patch
        for kind, patches in (("body", BODY), ("block", BLOCK))
        for case, patch in patches.items()
    }
    acls = {f"acl {case}": patch for case, patch in ACL.items()} | {"acl empty": (0, b""), "acl cut off": (0, b"")}
    names = {case: f"f{number}" for number, case in enumerate([*cases, *acls])}
    with mount(path, "rw,loop") as root:
        for case, name in names.items():
            (root / name).write_bytes(b"")
            if case in acls:
                run("setfacl", "-m", "u:1000:rw", root / name)
            else:
                repeat = 30 if case.startswith("block") else 1
                os.setxattr(root / name, "user.aaa", b"AAAA" * repeat)
                os.setxattr(root / name, "user.bbb", b"B" * (12 * repeat))
    image = Image(path, run)
    with path.open("r+b") as file:
        for case, (offset, change) in (cases | acls).items():
            raw = image.raw(names[case])
            start = raw.area_offset
            assert (raw.block is None) != case.startswith("block"), case
            if case in acls:
                value, size = struct.unpack_from("<H4xI", raw.area, 6)
                if case in ("acl empty", "acl cut off"):
                    offset, change = 12, struct.pack("<I", 4 if case == "acl empty" else size - 2)
                else:
                    offset += 4 + value
            elif case.startswith("block"):
                start = raw.block_offset
            file.seek(start + offset)
            file.write(bytes(raw.area[6:8]) if change is None else change)
    outcomes = set()
    with mount(path) as root:
        for case, name in names.items():
            expected = shown(root / name)
            try:
                found = image.parse(name)
            except GuestctlError:
                found = None
            assert found == expected, case
            outcomes.add(found is None)
    assert outcomes == {True, False}


# Without a mount


def build(*entries: tuple[int, bytes, bytes], start: int = 4, size: int = 256) -> bytearray:
    """An area laid out as the specification says: entries from `start`, values from the end."""
    area = bytearray(size)
    area[:4] = MAGIC
    base = 0 if start == 32 else start
    if start == 32:
        area[4:12] = struct.pack("<II", 1, 1)
    position, end = start, size
    for index, name, value in entries:
        end -= len(value) + 3 & ~3
        area[end : end + len(value)] = value
        struct.pack_into("<BBHIII", area, position, len(name), index, end - base, 0, len(value), 0)
        area[position + 16 : position + 16 + len(name)] = name
        position += 16 + (len(name) + 3 & ~3)
    return area


BUILT = ((1, b"aaa", b"AAAA"), (1, b"bbb", b"BBBBBBBB"), (7, b"data", b"DD"))


@pytest.mark.parametrize("start", [4, 32])
@pytest.mark.parametrize(
    ("position", "change", "at", "message"),
    [
        (0, b"\xff", 0, "e_name_len is 255"),
        (16, b"\0", 0, "e_name_len is 3"),
        (8, b"\xff\xff\0\0", 0, "a value of 65535 bytes"),
        (8, b"\1\0\1\0", 0, "e_value_size is 65537"),
        (22, b"\xff\xff", 20, "a value of 8 bytes"),
        (22, b"\x10\0", 20, "a value of 8 bytes"),
        (28, b"\xff", 20, "a value of 255 bytes"),
    ],
)
def test_one_byte_changed(start: int, position: int, change: bytes, at: int, message: str) -> None:
    area = build(*BUILT, start=start)
    position += start
    area[position : position + len(change)] = change
    parse = xattrs.parse_block if start == 32 else xattrs.parse_inode_body
    with pytest.raises(InvalidFormat, match=message) as caught:
        parse(memoryview(area), no_value, offset=10000)
    assert (caught.value.structure, caught.value.offset) == ("ext4_xattr_entry", 10000 + start + at)


def test_block_header() -> None:
    for position, value in ((0, 0xEA020001), (8, 2), (8, 0)):
        area = build(*BUILT, start=32)
        struct.pack_into("<I", area, position, value)
        with pytest.raises(InvalidFormat) as caught:
            xattrs.parse_block(memoryview(area), no_value, offset=77)
        assert (caught.value.structure, caught.value.offset, caught.value.actual) == ("ext4_xattr_header", 77, value)
    with pytest.raises(InvalidFormat):
        xattrs.parse_block(memoryview(MAGIC), no_value, offset=0)


def test_table_without_an_end() -> None:
    area = MAGIC + struct.pack("<BBHIII4s", 4, 1, 0, 0, 0, 0, b"name")
    for length in range(len(area) + 1):
        data = memoryview(area[:length])
        if length < 4:
            assert xattrs.parse_inode_body(data, no_value, offset=0) == {}
        else:
            with pytest.raises(InvalidFormat):
                xattrs.parse_inode_body(data, no_value, offset=0)
    assert xattrs.parse_inode_body(memoryview(area + bytes(4)), no_value, offset=0) == {"user.name": b""}


def test_inline_data_in_another_inode() -> None:
    area = build((7, b"data", b"DD"))
    area[8:12] = struct.pack("<I", 12)
    with pytest.raises(InvalidFormat, match="another inode"):
        xattrs.raw_inline_data(memoryview(area), offset=5)


def test_values_in_other_inodes() -> None:
    """The hash that goes out is the entry's without the name: 0xff rotated by 16, or -1 where char is signed."""
    asked = []

    def read(inode: int, size: int, value_hash: int) -> bytes:
        asked.append((inode, size, value_hash))
        if value_hash != 0xFFFFFFFF:
            raise ChecksumMismatch(structure="ea_inode", offset=0, expected=0, actual=1)
        return b"v" * size

    for name, hashes in ((b"\xff", [0xFF0000, 0xFFFFFFFF]), (b"a", [0x610000])):
        area = build((1, name, b""))
        struct.pack_into("<II", area, 8, 12, 50)
        asked.clear()
        if name == b"a":
            with pytest.raises(ChecksumMismatch):
                xattrs.parse_inode_body(memoryview(area), read, offset=0)
        else:
            assert xattrs.parse_inode_body(memoryview(area), read, offset=0) == {"user.\udcff": b"v" * 50}
        assert asked == [(12, 50, value_hash) for value_hash in hashes]


def test_many_long_values_are_refused() -> None:
    area = bytearray(MAGIC)
    for number in range(1100):
        area += struct.pack("<BBHIII4s", 4, 1, 0, 12, 65536, 0, b"%04d" % number)
    area += bytes(4)
    with pytest.raises(UnsupportedFeature):
        xattrs.parse_inode_body(memoryview(area), lambda inode, size, value_hash: bytes(size), offset=0)


@pytest.mark.parametrize(
    "value",
    [b"\1", b"\2\0\0\0\1\0\7\0", b"\1\0\0\0\1\0", b"\1\0\0\0\2\0\7\0", b"\1\0\0\0\3\0\7\0", b"\1\0\0\0\x10\0\7"],
)
def test_bad_access_control_lists(value: bytes) -> None:
    area = build((2, b"", value))
    with pytest.raises(InvalidFormat, match="ext4_acl"):
        xattrs.parse_inode_body(memoryview(area), no_value, offset=0)


# u::rwx, u:1000:rw-, g::r--, m::rwx, o::--- as it is on the disk
ACL_ON_DISK = struct.pack("<I HH HHI HH HH HH", 1, 1, 7, 2, 6, 1000, 4, 4, 0x10, 7, 0x20, 0)


@given(st.sampled_from((4, 32)), st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6))
def test_hostile(start: int, changes: list[tuple[int, int]]) -> None:
    area = build(*BUILT, (2, b"", ACL_ON_DISK), start=start)
    for position, value in changes:
        area[position] = value
    parse = xattrs.parse_block if start == 32 else xattrs.parse_inode_body
    try:
        attributes = parse(memoryview(area), lambda inode, size, value_hash: bytes(size), offset=0)
    except GuestctlError:
        assert changes
    else:
        assert all(isinstance(name, str) and isinstance(value, bytes) for name, value in attributes.items())
    try:
        assert xattrs.raw_inline_data(memoryview(area)) == b"DD" or changes
    except GuestctlError:
        assert changes or start == 32


@given(st.binary(max_size=40))
def test_hostile_access_control_lists(value: bytes) -> None:
    area = memoryview(build((2, b"", b"\1\0\0\0" + value)))
    try:
        attributes = xattrs.parse_inode_body(area, no_value, offset=0)
    except InvalidFormat:
        return
    for acl in attributes.values():
        assert acl[:4] == b"\2\0\0\0"
        assert len(acl) % 8 == 4


@given(st.binary(max_size=120))
def test_hostile_tables(data: bytes) -> None:
    for area in (MAGIC + data, MAGIC + bytes((1, 0, 0, 0, 1)) + bytes(23) + data):
        for parse in (xattrs.parse_inode_body, xattrs.parse_block):
            try:
                parse(memoryview(area), lambda inode, size, value_hash: bytes(size), offset=0)
            except GuestctlError:
                pass


def test_access_control_lists_of_ancient_ids() -> None:
    """Ids are unsigned and pass unchanged, undefined ones are all ones."""
    value = struct.pack("<I HH HHI HHI HH HH", 1, 1, 7, 2, 6, 0xFFFFFFFE, 8, 4, 0, 0x10, 7, 0x20, 0)
    area = build((3, b"", value))
    found = xattrs.parse_inode_body(memoryview(area), no_value, offset=0)["system.posix_acl_default"]
    entries = list(struct.iter_unpack("<HHI", found[4:]))
    assert entries == [(1, 7, 2**32 - 1), (2, 6, 2**32 - 2), (8, 4, 0), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)]
