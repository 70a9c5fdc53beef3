"""What commands for text and sums say of files: beside libguestfs's, and beside the host's own commands."""

from __future__ import annotations

import hashlib
import os
import random
import re
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guest_tree
from guestctl import guestfs
from guestctl.block import MemoryDevice
from guestctl.core.errors import GuestctlError
from guestctl.guestfs.attributes import _acl_text, _capabilities_text
from guestctl.guestfs.calls import GuestFSError
from guestctl.guestfs.contents import _architecture
from guestctl.guestfs.initrds import read_files
from guestctl.guestfs.patterns import Pattern
from guestctl.guestfs.text import _gunzip
from guestfs_calls import Answer, Both, call, differences

_BASIC = [
    "foo", "^foo", "foo$", "^foo$", "bar.*baz", "a+b", "a\\+b", "a*b", "(x)", "\\(x\\)", "x{2}", "x\\{2\\}", "[z]",
    "[[z]", "[]z]", "foo\\.bar", "^", "$", "^$", "", ".", "\\bfoo\\b", "\\<foo", "foo\\>", "\\w\\+", "\\W", "\\s",
    "\\S",
    "[[:upper:]]", "[[:digit:]]", "A|B", "A\\|B", "foo\\|^A", "^caret", "\\^caret", "dollar\\$", "back\\\\", "*q",
    "\\*q", "\\", "[a", "a\\{", "a\\{1", "\\{2\\}", "\\(", "\\)", "\\(a", "x\\{2,\\}", "x\\{,2\\}", "[z-a]", "[^a-z]",
    "a**b", "\\(foo\\|bar\\) ", "foo\nbar", "\t", "[[.a.]]", "[[=a=]]", "[[:nope:]]", "[:space:]", "\\d", "a^b", "a$b",
    "\\(^foo\\)", "\\(bar$\\)", "x*", "\\`foo", "baz\\'", "\\Boo", "++",
]  # fmt: skip
_EXTENDED = [
    "a+b", "a\\+b", "(x)", "\\(x\\)", "x{2}", "a|b", "foo|^A", "()", "(", "a(", "a)", "a{", "a{1", "a{,2}", "{2}",
    "x{2}$", "*q", "+q", "a**", "a+?", "(foo|bar) ", "^*", "a|", "|a", "(|a)b", "^(foo|bar)$", "\\w+$", "[a\\]",
    "x{1,2", "x{2,1}", "(a+)+b", "a{1}{2}", "^.{3}$", "x{0}", "x{99999}", "$a", "a^", "(^foo)", "\\<foo\\>",
]  # fmt: skip
_FILES = [
    f"/text/{name}"
    for name in ("lines", "empty", "utf8", "latin", "nul", "repeats", "zeros", "crlf", "unended", "newline", "binary")
]
_ABSENT = ["/missing", "rel", "/looking/loop-a", "/special/socket"]
_GREPS = ("grep", "grepi", "egrep", "egrepi", "fgrep", "fgrepi")
_SUMS = ("crc", "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "gost", "MD5")
_ZIPPED = ("/text/re.gz", "/text/re", "/text/re.bz2", "/text/empty", "/missing")
_PROGRAMS = [
    "elf-386", "ppc64le", "ppc64", "arm", "aarch64", "riscv64", "s390x", "sparc64", "ia64", "x86_64", "ko", "ko.gz",
    "ko.xz", "pe32", "pe64", "script",
]  # fmt: skip
_CALLS = [
    call("mount_ro", "/dev/sda", "/"),
    *(call("grep", regex, "/text/re") for regex in _BASIC),
    *(call("grep", regex, "/text/re", extended=True) for regex in _EXTENDED),
    *(call(name, text, "/text/re") for name in ("fgrep", "fgrepi") for text in ("foo", "a+b", ".", "", "foo\nA")),
    *(call(name, "FOO", "/text/re") for name in ("grepi", "egrepi", "egrep")),
    *(call("grep", regex, "/text/re", insensitive=True) for regex in ("[[:upper:]]", "UPPER f", "a\\+b", "[A-F]oo")),
    *(call(f"z{name}", "foo", path) for name in _GREPS for path in _ZIPPED),
    call("grep_opts", "FOO", "/text/re.gz", compressed=True, insensitive=True),
    call("grep_opts", "A", "/text/re", extended=True, fixed=True),
    *(call("grep", regex, path) for regex in ("a", "line", "e$", "^") for path in (*_FILES, *_ABSENT)),
    *(call("grep", regex, "/text/late-nul") for regex in ("line", "last")),
    *(call(name, regex, "/text/utf8") for name in _GREPS[:2] for regex in ("über", "ÜBER", ".ber", "^.BER", "[Ü]")),
    *(call(name, path) for name in ("strings", "wc_c", "wc_l", "wc_w", "hexdump") for path in (*_FILES, *_ABSENT[1:])),
    *(call("strings_e", encoding, path) for encoding in "sSblBL" for path in _FILES),
    *(call("strings_e", encoding, "/text/lines") for encoding in ("x", "", "ss")),
    *(call("file", path) for path in (*_FILES, *_ABSENT, "/text", "/special/fifo", "/text/re.gz")),
    *(call("file", f"/arch/{name}") for name in ("script", "pe32", "x86_64", "initrd.gz")),
    *(call("zfile", method, path) for method in ("gzip", "bzip2", "bad") for path in ("/text/re.gz", "/text/re.bz2")),
    *(call("file_architecture", f"/arch/{name}") for name in _PROGRAMS),
    *(call("file_architecture", path) for path in (*_ABSENT, "/text/empty", "/text", "/looking/absolute")),
    *(
        call("checksum", kind, path)
        for kind in _SUMS
        for path in ("/text/lines", "/text/empty", "/sizes/300000", "/missing", "rel", "/looking/absolute")
    ),
    *(call("checksum_device", "md5", device) for device in ("/dev/sda", "/dev/sdz", "/text/lines")),
    call("checksum_device", "crc", "/dev/sda"),
    *(
        call("checksums_out", kind, path, "@host/sums")
        for kind in ("md5", "crc", "sha256", "gost")
        for path in ("/text", "/names", "/glob", "/links", "/missing", "/text/lines", "rel")
    ),
    call("initrd_list", "/arch/initrd.gz"),
    *(call("initrd_cat", "/arch/initrd.gz", name) for name in ("init", "dir/file", "missing", "/init", "dir", "link")),
    *(call("initrd_list", path) for path in ("/text/lines", "/missing", "/text/empty")),
]  # fmt: skip


def _same_lines(theirs: Answer, ours: Answer) -> bool:
    """Of the files in a directory in whatever order."""
    if "files" not in theirs or "files" not in ours:
        return False
    lines = [bytes.fromhex(one["files"]["sums"][2]).splitlines() for one in (theirs, ours)]
    return sorted(lines[0]) == sorted(lines[1])


# hexdump's own complaint comes in libguestfs's result; cpio's does not come at all.
_KNOWN: dict[str, Callable[[Answer, Answer], Any]] = {
    "checksums_out": _same_lines,
    "initrd_list": lambda theirs, ours: "error" in theirs and "error" in ours,
    "hexdump": lambda theirs, ours: "No such" in theirs.get("value", "") and "No such" in ours["error"],
}


@pytest.mark.long
@pytest.mark.root
def test_text_beside_libguestfs(both_handles: Both, guest_drive: dict[str, Any]) -> None:
    pytest.importorskip("magic", exc_type=ImportError)
    answers = [
        (ours, ours) if theirs.get("error", "").startswith("'utf-8' codec") and "\\x" in str(ours) else (theirs, ours)
        for theirs, ours in both_handles([guest_drive], _CALLS)
    ]
    assert not differences(answers, _CALLS, _KNOWN)
    assert sum("value" in theirs for theirs, _ in answers) > len(_CALLS) // 2


# Beside the host's commands


def _grep(regex: bytes, content: bytes, *flags: str) -> list[bytes] | None:
    """What grep(1) finds, or None where it refuses the expression."""
    words: list[bytes | str] = ["grep", *flags, "-e", regex]
    done = subprocess.run(words, input=content, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    return None if done.returncode == 2 else done.stdout.split(b"\n")[:-1]


_LINES = [
    *(b"", b"a", b"b", b"ab", b"aab", b"a b", b"abab", b"ba-ab", b"A", b"a+b"),
    *(b"(a)", b"a{1}", b"^a$", b"b_a*", b".\\"),
]
_PIECES = st.sampled_from(
    re.findall(
        r"\S+",
        r"a b _ * + ? . ^ $ | ( ) [ab] [^a] [[:alpha:]] {1,2} {2} {,1}"
        r" \( \) \| \+ \? \{2\} \{1,\} \b \< \> \B \w \W \. \` \'",
    )
)
_REPEATED_ASSERTION = re.compile(rb"(\\[bB<>`']|\^|\$)\(*\\?[*+?{]")


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=7), st.booleans(), st.booleans())
def test_expressions_match_as_grep_has_it(pieces: list[str], extended: bool, insensitive: bool) -> None:
    regex = "".join(pieces).encode()
    if _REPEATED_ASSERTION.search(regex):
        return  # undefined
    flags = ["-E" if extended else "-G", *(["-i"] if insensitive else [])]
    expected = _grep(regex, b"\n".join(_LINES) + b"\n", *flags)
    try:
        found = Pattern(regex, extended=extended, insensitive=insensitive).matching(_LINES)
    except GuestFSError:
        assert expected is None
    else:
        assert found == expected


def test_back_references_are_refused() -> None:
    with pytest.raises(GuestctlError, match="back-references"):
        Pattern(b"\\(a\\)\\1")


@pytest.mark.parametrize("regex", [b"(a*)*b", b"(a|a)*b", b"(x+x+)+y", b".*.*.*.*z", b"(){32767}{32767}{32767}b"])
def test_no_line_takes_more_than_linear_time(regex: bytes) -> None:
    started = time.process_time()
    Pattern(regex, extended=True).matching([b"a" * 200_000, b"x" * 200_000])
    assert time.process_time() - started < 5


@pytest.mark.parametrize("regex", [b"a" + b"*" * 5000, b"(" * 5000 + b")" * 5000, b"(a{100}){100}"])
def test_expressions_have_bounds(regex: bytes) -> None:
    with pytest.raises(GuestFSError, match="too big"):
        Pattern(regex, extended=True)


@pytest.fixture
def handle(run: Callable[..., str], tmp_path: Path) -> guestfs.GuestFS:
    """A handle with files whose bytes are random in runs."""
    source = random.Random(6)
    top = tmp_path / "top"
    top.mkdir()
    for size in (0, 1, 15, 16, 17, 1000, 300_000):
        runs = [
            source.choice((b"\0", b"text here ", b"\n", source.randbytes(7))) * source.randrange(40)
            for _ in range(9000)
        ]
        (top / str(size)).write_bytes(b"".join(runs)[:size])
    (top / "odd\nname\\").write_bytes(b"x")
    image = tmp_path / "small.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", top, image, "8M")
    opened = guestfs.GuestFS()
    opened.add_drive_ro(str(image))
    opened.launch()
    opened.mount_ro("/dev/sda", "/")
    return opened


def _said(argv: list[str], path: Path) -> str:
    done = subprocess.run(argv, input=path.read_bytes(), capture_output=True, env={**os.environ, "LC_ALL": "C"})
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, 300_000])
def test_commands_say_the_same(handle: guestfs.GuestFS, tmp_path: Path, size: int, run: Callable[..., str]) -> None:
    run("hexdump", "--version"), run("strings", "--version")
    name, path = f"/{size}", tmp_path / "top" / str(size)
    assert handle.hexdump(name) == _said(["hexdump", "-C"], path)
    assert handle.checksum("crc", name) == _said(["cksum"], path).split()[0]
    assert [str(handle.wc_c(name)), str(handle.wc_l(name)), str(handle.wc_w(name))] == [
        _said(["wc", f"-{letter}"], path).strip() for letter in "clw"
    ]
    for encoding in "sSblBL":
        assert handle.strings_e(encoding, name) == _said(["strings", "-e", encoding], path).splitlines()


def test_sums_of_odd_names_are_those_of_coreutils(handle: guestfs.GuestFS, tmp_path: Path) -> None:
    handle.checksums_out("sha1", "/", str(tmp_path / "sums"))
    done = subprocess.run(["sha1sum", "--strict", "-c", tmp_path / "sums"], cwd=tmp_path / "top", capture_output=True)
    assert done.returncode == 0, done.stderr


def test_architectures_of_windows_programs_for_arm() -> None:
    assert _architecture(MemoryDevice(guest_tree.pe(0xAA64, 0x20B))) == "aarch64"
    assert _architecture(MemoryDevice(guest_tree.pe(0x1C4, 0x10B))) == "arm"


# Damage


def test_fuzz() -> None:
    """ACLs, capabilities, programs, archives and what gzip wrote, with bytes changed: an answer or our own error."""
    packer = zlib.compressobj(wbits=31)
    archive = b"070701" + b"%08X" % 0 * 11 + b"00000005" + b"%08X" % 0 + b"init\0" + bytes(200)
    seeds: list[tuple[bytes, Callable[[bytes], object]]] = [
        (struct.pack("<I", 2) + struct.pack("<HHI", 1, 6, 0) * 4, _acl_text),
        (struct.pack("<6I", 0x03000001, 5, 6, 7, 8, 9), _capabilities_text),
        (guest_tree.pe(0x8664, 0x20B), lambda data: _architecture(MemoryDevice(data))),
        (guest_tree.elf(2, 1, 62), lambda data: _architecture(MemoryDevice(data))),
        (archive, lambda data: list(read_files(MemoryDevice(data), lambda name: True))),
        (packer.compress(b"text" * 999) + packer.flush(), lambda data: _gunzip(MemoryDevice(data), "/x")),
    ]
    source = random.Random(1)
    end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
    outcomes = set()
    while time.monotonic() < end:
        seed, read = source.choice(seeds)
        mutant = bytearray(seed)
        for _ in range(source.randrange(4)):
            mutant[source.randrange(len(mutant))] = source.randrange(256)
        del mutant[source.choice((len(mutant), source.randrange(len(mutant)))) :]
        try:
            read(bytes(mutant))
            outcomes.add("read")
        except GuestctlError as error:
            outcomes.add(type(error).__name__)
    assert {"read", "InvalidFormat"} <= outcomes


def test_grep_takes_what_begins_with_a_dash_for_a_pattern(handle: guestfs.GuestFS) -> None:
    assert handle.grep("--help", "/1000") == []
    assert hashlib.md5(handle.read_file("/1000"), usedforsecurity=False).hexdigest() == handle.checksum("md5", "/1000")


def test_lists_have_bounds(handle: guestfs.GuestFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.guestfs.files.MAX_LINES", 100)
    monkeypatch.setattr("guestctl.guestfs.text.MAX_LINES", 100)
    for name, *args in (("read_lines", "/300000"), ("strings", "/300000"), ("tail_n", 200, "/300000")):
        with pytest.raises(RuntimeError, match="more than 100 lines"):
            getattr(handle, name)(*args)


def test_grep_of_a_file_that_is_read_in_pieces(
    handle: guestfs.GuestFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = handle.read_file("/300000").replace(b"\0", b"") + b"no end"
    monkeypatch.setattr(handle, "_content", lambda path: MemoryDevice(content))
    monkeypatch.setattr("guestctl.guestfs.text._STEP_BYTES", 5000)
    for regex in ("text", "^t", "end$", ""):
        expected = _grep(regex.encode(), content)
        assert expected is not None
        assert handle.grep(regex, "/x") == [line.decode("utf-8", "surrogateescape") for line in expected]
