"""A guest's tree for calls about files: each file exists for a case that some call may get wrong."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import awkward_tree

_RE = (
    b"foo\nfoobar\nbar foo baz\na+b\naab\n(x)\nx{2}\nxx\n[z]\nfoo.bar\nabcabc\nabcab\n a\tb \n^caret\ndollar$\n"
    b"back\\slash\nA|B\nUPPER foo\nq*q\n\n"
)
_TEXTS = {
    "lines": b"".join(b"%d line\n" % number for number in range(1, 26)),
    "unended": b"one\ntwo\r\nthree\n\n\nlast",
    "crlf": b"a\r\nb\r\r\n\r\nc\n",
    "empty": b"",
    "newline": b"\n",
    "nul": b"before\0after\nsecond\0 line\nthird\n",
    "late-nul": b"a line of text\n" * 15_000 + b"\0\nlast\n",  # past what grep reads at once
    "latin": b"caf\xe9\nplain\n",
    "utf8": "Straße\nÜBER über\nİstanbul\nжЖ\n日本語 text\n".encode(),
    "re": _RE,
    "re.gz": gzip.compress(_RE, mtime=0),
    "re.bz2": bz2.compress(_RE),
    "re.xz": lzma.compress(_RE),
    "repeats": b"0123456789abcdef" * 10 + b"x" * 48 + b"tail",
    "zeros": bytes(100_000),
    "binary": bytes(range(256)) * 3
    + b"hidden string here\0"
    + "wide text".encode("utf-16-le")
    + b"\0\0"
    + "big wide".encode("utf-16-be")
    + b"\0\0\0"
    + "quad text".encode("utf-32-le")
    + b"\xff\0tab\there\n four\n abc\0abcd\0",
}
_LINKS = {
    "loop-a": "loop-b",
    "loop-b": "loop-a",
    "dangling": "nowhere",
    "absolute": "/text/lines",
    "dir": "../text",
    "through": "dir/lines",
    "above": "../../../..//text/lines",
    "to-fifo": "../special/fifo",
    "to-block": "../special/block-old",
    "to-socket": "../special/socket",
}
_GLOBBED = ("a1", "a2", "b1", ".hidden", "A1", "c-d", "[x]", "st*r", "with space", "_u", "z{y}")
_CAPABILITIES = {
    "allcaps": "all=ep",
    "permcaps": "cap_net_raw,cap_chown=p",
    "mixedcaps": "cap_net_raw=p cap_chown=i",
    "inhcaps": "cap_sys_admin=eip cap_kill+ei",
    "nocaps": "=",
}
_ACLS = {"u": "u:1000:rwx", "g": "g:1000:r--", "mask": "u:1:rwx,m::r--", "un": "u:4242:---,g:4343:-wx"}
_FLAGS = {"i": "+i", "a": "+a", "As": "+As", "d": "+dcuS"}
# ELF class, byte order, e_machine
_ELFS = {
    "elf-386": (1, 1, 3),
    "ppc64le": (2, 1, 21),
    "ppc64": (2, 2, 21),
    "arm": (1, 1, 40),
    "aarch64": (2, 1, 183),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
    "sparc64": (2, 2, 43),
    "ia64": (2, 1, 50),
    "x86_64": (2, 1, 62),
}


def populate(top: Path) -> None:
    """All of it; needs root, setfacl, setcap and chattr."""
    awkward_tree.populate(top, 4096, large_values=False, many_files=70)
    for name, content in _TEXTS.items():
        _write(top / "text" / name, content)
    (top / "looking").mkdir()
    for name, target in _LINKS.items():
        (top / "looking" / name).symlink_to(target)
    _write(top / "Case/MiXed/File.TXT", b"x")
    (top / "Case/LINK").symlink_to("MiXed")
    for name in _GLOBBED:
        _write(top / "glob" / name, name.encode())
    for name in ("d1", "d2"):
        _write(top / "glob" / name / "in", b"")
    (top / "glob/ld").symlink_to("d1")
    (top / "glob/lx").symlink_to("gone")
    _write(top / "unreadable", b"secret")
    (top / "unreadable").chmod(0)
    _set_metadata(top)
    _add_programs(top / "arch")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _set_metadata(top: Path) -> None:
    for name, words in _CAPABILITIES.items():
        _write(top / "bin" / name, b"x")
        subprocess.run(["setcap", words, top / "bin" / name], check=True)
    _write(top / "bin/suid", b"x")
    (top / "bin/suid").chmod(0o4755)
    for name, words in _ACLS.items():
        _write(top / "acls" / name, b"")
        subprocess.run(["setfacl", "-m", words, top / "acls" / name], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx,g:77:rx,m::r", top / "acls"], check=True)
    for name, words in _FLAGS.items():
        _write(top / "flags" / name, b"x")
        subprocess.run(["chattr", words, top / "flags" / name], check=True)
    subprocess.run(["chattr", "+DT", top / "flags"], check=True)


def _add_programs(top: Path) -> None:
    for name, kind in _ELFS.items():
        _write(top / name, elf(*kind))
    module = elf(2, 1, 62, type=1)
    for name, content in (("ko", module), ("ko.gz", gzip.compress(module)), ("ko.xz", lzma.compress(module))):
        _write(top / name, content)
    _write(top / "pe32", pe(0x14C, 0x10B))
    _write(top / "pe64", pe(0x8664, 0x20B))
    _write(top / "script", b"#!/bin/sh\necho hi\n")
    folder = top / "unpacked"
    _write(folder / "init", b"#!/bin/sh\nexec\n")
    _write(folder / "dir/file", b"a\0b")
    (folder / "link").symlink_to("init")
    archive = subprocess.run(
        "find . | sort | cpio -o -H newc --quiet", shell=True, cwd=folder, capture_output=True, check=True
    )
    shutil.rmtree(folder)
    _write(top / "initrd.gz", gzip.compress(archive.stdout))


def elf(size: int, order: int, machine: int, type: int = 2) -> bytes:
    """A program that has its header alone (System V gABI, chapter 4)."""
    mark = "<" if order == 1 else ">"
    head = b"\x7fELF" + bytes([size, order, 1, 0]) + bytes(8) + struct.pack(mark + "HHI", type, machine, 1)
    numbers = "QQQIHHHHHH" if size == 2 else "IIIIHHHHHH"
    return head + struct.pack(mark + numbers, 0, 0, 0, 0, 64 if size == 2 else 52, 0, 0, 0, 0, 0) + bytes(64)


def pe(machine: int, magic: int) -> bytes:
    """A console program for Windows that has its headers alone (PE Format)."""
    optional = (struct.pack("<H", magic) + bytes(66) + struct.pack("<H", 3)).ljust(
        240 if magic == 0x20B else 224, b"\0"
    )
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 1, 0, 0, 0, len(optional), 0x22)
    return b"MZ" + bytes(58) + struct.pack("<I", 128) + bytes(64) + header + optional + bytes(200)
