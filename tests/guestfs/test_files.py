"""Files, directories and attributes: what libguestfs says of the same tree."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestctl import guestfs
from guestctl.guestfs import files
from guestctl.guestfs.globbing import component
from guestfs_calls import Answer, Both, call, differences

_PATHS = [
    "/", "/text", "/text/", "/text/lines", "/text/lines/", "//text//lines", "/text/empty", "/text/lines/x", "/missing",
    "/missing/x", "relative", "", "/looking/loop-a", "/looking/loop-a/x", "/looking/dangling", "/looking/absolute",
    "/looking/dir", "/looking/dir/lines", "/looking/through", "/looking/above", "/looking/to-fifo",
    "/looking/to-socket", "/special/fifo", "/special/socket", "/special/block-new", "/special/char-old", "/unreadable",
    "/names/Ünïcödé", "/names/new\nline", "/sparse/all-hole", "/sparse/several-gib", "/links/first", "/attributes/few",
]  # fmt: skip
_TEXTS = [
    f"/text/{name}"
    for name in ("lines", "unended", "crlf", "empty", "newline", "nul", "latin", "utf8", "zeros", "repeats", "re")
]
_CONTENTS = [
    *(path for path in _PATHS if "fifo" not in path and "several" not in path and not path.startswith("/special/b")),
    *_TEXTS,
    "/sizes/4095",
    "/sparse/holes-at-both-ends",
    "/sparse/unwritten",
]
_CONTENTS.remove("/special/char-old")  # the kernel of libguestfs's virtual machine has a driver for it
_DIRECTORIES = ["/glob", "/special", "/many", "/names", "/links", "/text", "/acls", "/looking", "/Case", "/bin"]
_PATTERNS = [
    "/glob/*", "/glob/a?", "/glob/[ab]1", "/glob/[!a]1", "/glob/[^a]1", "/glob/.*", "/glob/{a,b}*", "/glob/{a1,zz}",
    "/glob/*/in", "/*/in", "/glob/\\[x\\]", "/glob/st\\*r", "/text", "/text/", "/missing", "/missing*", "/g*/d*",
    "glob/*", "", "/*", "/glob/l*", "/glob/**", "/glob/[[:upper:]]1", "/glob/[a-c]*", "/glob/{d,a}{1,2}", "/glob/[x]",
    "/glob/[", "/glob/{a1", "/looking/*", "/looking/dir/*", "//glob//a1", "/glob/./a1", "/glob/../glob/a*",
    "/names/*é*", "/glob/d*/", "/glob/ld/", "/glob/z{y}", "/glob/z\\{y\\}", "/glob/{}", "/glob/{a1,{b1,A1}}",
    "/glob/{a,}1", "/glob/[]x]*", "/glob/a1/*",
]  # fmt: skip
_CASES = [
    "/case/mixed/file.txt", "/CASE/MIXED", "/Case/link/file.txt", "/case/missing", "/case/missing/x", "/case/mixed/",
    "case", "/case//mixed", "/case/./mixed", "/case/../case", "/", "/case/mixed/file.txt/x", "/LOOKING/DIR/LINES",
    "/looking/dangling", "/looking/loop-a", "/NAMES/ünïcödé",
]  # fmt: skip
_NAMES = ["to-1", "first", "missing", "to-60"]
_XATTRS = [
    ("/attributes/few", "user.short"), ("/attributes/few", "trusted.t"), ("/attributes/few", "user.none"),
    ("/attributes/few", "system.posix_acl_access"), ("/attributes/many", "security.capability"), ("/missing", "user.x"),
    ("/text", "bad"), ("/looking/dangling", "user.x"), ("/attributes", "system.posix_acl_default"),
]  # fmt: skip
_OTHERS = ("/deep", "/times", "/owners")  # vfat, Btrfs, NTFS
_KINDS = ("file", "dir", "fifo", "socket", "blockdev", "chardev")
_CALLS = [
    call("exists", "/text"),
    call("cat", "/text/lines"),
    call("pread_device", "/dev/sda", 16, 1024),
    call("is_zero_device", "/dev/sda"),
    call("mount_ro", "/dev/sda", "/"),
    *(call(name, path) for name in ("exists", "is_symlink") for path in _PATHS),
    *(call(f"is_{kind}", path) for kind in _KINDS for path in _PATHS),
    *(call(f"is_{kind}_opts", path, followsymlinks=True) for kind in _KINDS for path in _PATHS),
    *(
        call(name, path)
        for name in ("readlink", "realpath", "filesize", "stat", "lstat", "statns", "lstatns", "lgetxattrs")
        for path in _PATHS
    ),
    *(call(name, path) for name in ("get_e2attrs", "get_e2generation", "du", "readdir") for path in _PATHS[1:]),
    *(call(name, path) for name in ("find", "ls", "ll", "case_sensitive_path") for path in _PATHS[1:]),
    *(call("statvfs", path) for path in _PATHS[:12]),
    *(call(name, path) for name in ("cat", "read_file", "read_lines", "head", "tail", "is_zero") for path in _CONTENTS),
    *(
        call(name, count, path)
        for name in ("head_n", "tail_n")
        for path in ("/text/lines", "/text/unended", "/text/empty", "/text/crlf")
        for count in (0, 1, 3, 5, 25, 26, 100, -1, -3, -5, -25, -100)
    ),
    *(
        call(name, where, count, offset)
        for name, where in (("pread", "/text/lines"), ("pread_device", "/dev/sda"))
        for count, offset in ((10, 0), (0, 0), (10, 5), (1000, 0), (10, 10000), (5, -1), (-5, 0), (10, 1 << 62))
    ),
    call("pread", "/sparse/several-gib", 20, (1 << 30) - 4),
    *(call("pread", path, 1, 0) for path in ("/text", "/missing")),
    *(call("getxattrs", path) for path in _PATHS),
    *(call("pread_device", device, 1, 0) for device in ("/dev/sdz", "/text/lines")),
    *(call("is_zero_device", device) for device in ("/dev/sdz", "/text/lines")),
    *(call(name, path) for name in ("ls", "ll", "llz", "readdir", "find", "du") for path in _DIRECTORIES),
    *(call(name, path, "@host/list") for name in ("ls0", "find0") for path in _DIRECTORIES),
    *(call(name, path, "@host/list") for name in ("ls0", "find0") for path in ("/", "/missing", "rel", "/text/lines")),
    *(call("glob_expand", pattern) for pattern in _PATTERNS),
    *(call("glob_expand_opts", pattern, directoryslash=False) for pattern in _PATTERNS),
    *(
        call(name, path, names)
        for name in ("readlinklist", "lstatlist", "lstatnslist", "lxattrlist")
        for path, names in (("/links", _NAMES), ("/links", []), ("/links", ["../x"]), ("/attributes", ["few", "many"]))
    ),
    *(
        call(name, path, ["x"])
        for name in ("readlinklist", "lstatlist", "lstatnslist", "lxattrlist")
        for path in ("/missing", "/text/lines", "rel")
    ),
    *(call("case_sensitive_path", path) for path in _CASES),
    *(
        call("equal", first, second)
        for first, second in (
            ("/text/lines", "/text/lines"),
            ("/text/lines", "/text/unended"),
            ("/text", "/text/lines"),
            ("/text/empty", "/text/empty"),
            ("/sparse/all-hole", "/text/zeros"),
            ("/links/first", "/links/hard-1"),
            ("rel", "/text/lines"),
        )
    ),
    *(call(name, *which) for name in ("getxattr", "lgetxattr") for which in _XATTRS),
    *(call("acl_get_file", path, kind) for path in _PATHS for kind in ("access", "default")),
    *(call("acl_get_file", f"/acls/{name}", "access") for name in ("u", "g", "mask", "un")),
    *(call("acl_get_file", path, kind) for path in ("/acls", "/acls/u") for kind in ("access", "default")),
    call("acl_get_file", "/text", "bad"),
    *(call("cap_get_file", path) for path in ("/attributes/many", "/looking/absolute", "/missing", "rel", "/bin")),
    *(call("cap_get_file", f"/bin/{name}") for name in ("allcaps", "permcaps", "mixedcaps", "inhcaps", "nocaps")),
    *(call("get_e2attrs", f"/flags{flag}") for flag in ("", "/i", "/a", "/As", "/d")),
    *(call(name) for name in ("get_umask", "df", "df_h", "sync")),
    *(call("umask", mask) for mask in (0o77, 0o22, 0o1234, -1)),
    call("echo_daemon", ["a", "b  c"]),
    # Other filesystems, mounted on the first
    *(call("mount_ro", f"/dev/sd{letter}", where) for letter, where in zip("bcd", _OTHERS, strict=True)),
    *(
        call(name, f"{where}/{path}")
        for where in _OTHERS
        for path in ("", "file", "dir/other", "missing")
        for name in ("is_file", "filesize", "realpath", "getxattrs", "find", "ls", "read_lines")
    ),
    *(call(name, where) for where in _OTHERS for name in ("du", "get_e2attrs")),
    *(call("acl_get_file", f"{where}/file", "access") for where in _OTHERS),
    *(call("statvfs", where) for where in (_OTHERS[0], _OTHERS[2])),
    call("lstatns", _OTHERS[0]),
    call("case_sensitive_path", "/DEEP/FILE"),
    call("readdir", _OTHERS[1]),
    call("glob_expand", "/*/f*"),
    call("find0", "/", "@host/list"),
]  # fmt: skip


def _without_slash(theirs: Answer, ours: Answer) -> bool:
    """The manual's relative paths; Debian's version begins them with a slash, and its links lead out of the guest."""
    if "error" in theirs:
        return "error" in ours
    return [path.lstrip("/") for path in theirs.get("value", [])] == ours.get("value")


def _same_lists(theirs: Answer, ours: Answer) -> bool:
    """Lists of names whose order is that of the directory: the kernel's is that of hashes."""
    names = [bytes.fromhex(one["files"]["list"][2]).split(b"\0") if "files" in one else [] for one in (theirs, ours)]
    return sorted(name.lstrip(b"/") for name in names[0]) == sorted(names[1])


def _same_entries(theirs: Answer, ours: Answer) -> bool:
    return sorted(map(str, theirs.get("value", []))) == sorted(map(str, ours.get("value", [])))


def _last_line(theirs: Answer, ours: Answer) -> bool:
    """Of what is mounted, not of the virtual machine's own filesystems; widths are those of the longest."""
    last = theirs["value"].splitlines()[-1].replace("/sysroot", "/").split()
    return [last] == [line.split() for line in ours["value"].splitlines()[1:]]


_KNOWN = {
    "find": _without_slash,
    "ls0": _same_lists,
    "find0": _same_lists,
    "readdir": _same_entries,
    "df": _last_line,
    "df_h": _last_line,
    # The manual has it for ext alone, and so have we.
    "get_e2attrs": lambda theirs, ours: theirs.get("value") == "" and "not supported" in ours.get("error", ""),
    # cmp says nothing of a file that is not there.
    "equal": lambda theirs, ours: "error" in theirs and "error" in ours,
}


def without_decoding_errors(answers: list[tuple[Answer, Answer]]) -> list[tuple[Answer, Answer]]:
    """Where libguestfs's binding fails at bytes that are no UTF-8, we give them escaped."""
    return [
        (ours, ours) if theirs.get("error", "").startswith("'utf-8' codec") and "\\x" in str(ours) else (theirs, ours)
        for theirs, ours in answers
    ]


@pytest.fixture(scope="module")
def other_drives(run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Filesystems of other types."""
    folder = tmp_path_factory.mktemp("others")
    tree = folder / "tree"
    (tree / "dir").mkdir(parents=True)
    for name in ("file", "dir/other"):
        (tree / name).write_text(f"{name}\n")
    paths = [folder / name for name in ("fat.img", "btrfs.img", "ntfs.img")]
    for path in paths:
        run("truncate", "-s", "128M", path)
    run("mkfs.vfat", paths[0])
    run("mcopy", "-s", "-i", paths[0], tree / "file", tree / "dir", "::")
    run("mkfs.btrfs", "-q", "--rootdir", tree, paths[1])
    run("mkfs.ntfs", "-q", "-F", paths[2])
    run("ntfscp", "-q", paths[2], tree / "file", "file")
    return [{"filename": str(path), "readonly": True, "format": "raw"} for path in paths]


@pytest.mark.long
@pytest.mark.root
def test_files_beside_libguestfs(
    both_handles: Both, guest_drive: dict[str, Any], other_drives: list[dict[str, Any]]
) -> None:
    answers = without_decoding_errors(both_handles([guest_drive, *other_drives], _CALLS))
    assert not differences(answers, _CALLS, _KNOWN)
    assert sum("value" in theirs for theirs, _ in answers) > len(_CALLS) // 2


@pytest.fixture
def handle(run: Callable[..., str], tmp_path: Path) -> guestfs.GuestFS:
    """A handle with an ext4 filesystem that mke2fs filled, mounted."""
    top = tmp_path / "top"
    top.mkdir()
    with open(os.fsencode(top) + b"/caf\xe9", "wb") as stream:
        stream.write(b"one\xff\0two\nthree\n")
    (top / "link").symlink_to("missing")
    (top / "large").touch()
    os.truncate(top / "large", 16 << 20)
    image = tmp_path / "small.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", top, image, "8M")
    opened = guestfs.GuestFS(python_return_dict=True)
    opened.add_drive_ro(str(image))
    opened.launch()
    opened.mount_ro("/dev/sda", "/")
    return opened


def test_names_and_texts_that_are_no_utf8(handle: guestfs.GuestFS, tmp_path: Path) -> None:
    assert handle.ls("/") == ["caf\udce9", "large", "link", "lost+found"]
    assert handle.cat("/caf\udce9") == "one\udcff"  # as far as a string of C goes
    assert handle.read_lines("/caf\udce9") == ["one\udcff", "three"]
    assert handle.read_file("/caf\udce9") == b"one\xff\0two\nthree\n"
    assert handle.find("/") == ["caf\udce9", "large", "link", "lost+found"]
    assert handle.glob_expand("/caf*") == ["/caf\udce9"]
    handle.ls0("/", str(tmp_path / "names"))
    assert b"caf\xe9\0" in (tmp_path / "names").read_bytes()


def test_a_large_hole_costs_nothing_where_little_is_asked(
    handle: guestfs.GuestFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 8 << 20)
    assert handle.cat("/large") == ""
    assert handle.head("/large") == []
    assert handle.is_zero("/large")
    assert handle.pread("/large", 3, 12 << 20) == b"\0\0\0"
    assert handle.wc_l("/large") == handle.wc_w("/large") == 0
    assert handle.grep("", "/large") == []
    for name in ("read_file", "read_lines", "tail"):
        with pytest.raises(RuntimeError, match="File too large"):
            getattr(handle, name)("/large")


def test_errors_have_numbers(handle: guestfs.GuestFS) -> None:
    for name, args, number in (
        ("cat", ("/none",), 2),
        ("ls", ("/link/x",), 2),
        ("cat", ("/",), 21),
        ("ls", ("/large",), 20),
        ("getxattr", ("/large", "user.x"), 61),
        ("pread", ("none", 1, 0), 22),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: "):
            getattr(handle, name)(*args)
        assert handle.last_errno() == number


_LIBC = ctypes.CDLL(None)


@settings(max_examples=400, deadline=None)
@given(st.text("ab-]![^*?\\.", max_size=8), st.text("ab-]![^*?\\.", max_size=6))
def test_patterns_match_as_fnmatch_of_the_c_library(pattern: str, name: str) -> None:
    if pattern.endswith("\\") or re.search(r"\[[^]]*$|\[[!^]?\][^]]*$", pattern):
        return  # undefined
    expected = _LIBC.fnmatch(pattern.encode(), name.encode(), 0) == 0
    assert (component(pattern).fullmatch(name) is not None) == expected


def test_patterns_take_linear_time() -> None:
    assert not component("*a" * 30 + "b").fullmatch("a" * 255)


def test_braces_are_those_of_bash(handle: guestfs.GuestFS) -> None:
    done = subprocess.run(["bash", "-c", "echo /{large,link,none}"], capture_output=True, text=True)
    assert handle.glob_expand("/{large,link,none}") == [path for path in done.stdout.split() if path != "/none"]
    with pytest.raises(RuntimeError, match="too many alternatives"):
        handle.glob_expand("/" + "{a,b}" * 40)
