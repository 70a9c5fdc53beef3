"""What commands for text print of files: grep, strings, wc, hexdump. As in the C locale: a byte is a character."""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from guestctl.block import BlockDevice, MemoryDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.files import MAX_BYTES, MAX_LINES, text, whole
from guestctl.guestfs.paths import Paths

_GZIP, _COMPRESS = b"\x1f\x8b", b"\x1f\x9d"
# grep(1) reads so much at once, and gives up where there is a zero byte in it.
_GREP_BYTES = 96 << 10
_STEP_BYTES = 40 * _GREP_BYTES
_MAX_LINE_BYTES = 64 << 20
# A dump is five times as large as what it shows.
_MAX_DUMP_BYTES = 64 << 20
_STRINGS = {
    "s": b"[\\t -~]{4,}",
    "S": b"[\\t -~\\x80-\\xff]{4,}",
    "b": b"(?:\\0[\\t -~]){4,}",
    "l": b"(?:[\\t -~]\\0){4,}",
    "B": b"(?:\\0\\0\\0[\\t -~]){4,}",
    "L": b"(?:[\\t -~]\\0\\0\\0){4,}",
}
_STRING_CHARACTERS = {"s": (0, 1), "S": (0, 1), "b": (1, 2), "l": (0, 2), "B": (3, 4), "L": (0, 4)}  # first, step
_SPACES = b" \t\n\r\v\f"
_UNSEEN = bytes(byte for byte in range(256) if not 0x20 < byte < 0x7F and byte not in _SPACES)
_DOTS = bytes(byte if 0x20 <= byte < 0x7F else 0x2E for byte in range(256))


class Text(Paths):
    """``grep`` and its kin, ``strings``, ``wc_l``, ``hexdump``."""

    @launched
    def grep(
        self,
        regex: str,
        path: str,
        extended: bool | None = None,
        fixed: bool | None = None,
        insensitive: bool | None = None,
        compressed: bool | None = None,
    ) -> list[str]:
        """The lines of a file that match `regex`; a pattern that begins with ``-`` is one too, and no option.

        `fixed` takes it for text. `compressed` reads what gzip wrote. In a file with zero bytes nothing is found, as
        grep(1) does not print of it either. Back-references are refused.
        """
        if extended and fixed:
            raise GuestFSError("can't use 'extended' and 'fixed' flags at the same time", errno.EINVAL)
        device = self._content(path)
        if compressed:
            device = MemoryDevice(_gunzip(device, path))
        matching = _matcher(regex, bool(extended), bool(fixed), bool(insensitive))
        found: list[str] = []
        for lines in _lines_of_text(device):
            found += map(text, matching(lines))
            _check_count(found)
        return found

    grep_opts = grep

    @launched
    def grepi(self, regex: str, path: str) -> list[str]:
        """`grep` that takes small and capital letters for the same."""
        return self.grep(regex, path, insensitive=True)

    @launched
    def egrep(self, regex: str, path: str) -> list[str]:
        """`grep` with extended regular expressions."""
        return self.grep(regex, path, extended=True)

    @launched
    def egrepi(self, regex: str, path: str) -> list[str]:
        """`egrep` that takes small and capital letters for the same."""
        return self.grep(regex, path, extended=True, insensitive=True)

    @launched
    def fgrep(self, pattern: str, path: str) -> list[str]:
        """`grep` for text."""
        return self.grep(pattern, path, fixed=True)

    @launched
    def fgrepi(self, pattern: str, path: str) -> list[str]:
        """`fgrep` that takes small and capital letters for the same."""
        return self.grep(pattern, path, fixed=True, insensitive=True)

    @launched
    def zgrep(self, regex: str, path: str) -> list[str]:
        """`grep` in what gzip wrote."""
        return self.grep(regex, path, compressed=True)

    @launched
    def zgrepi(self, regex: str, path: str) -> list[str]:
        """`grepi` in what gzip wrote."""
        return self.grep(regex, path, insensitive=True, compressed=True)

    @launched
    def zegrep(self, regex: str, path: str) -> list[str]:
        """`egrep` in what gzip wrote."""
        return self.grep(regex, path, extended=True, compressed=True)

    @launched
    def zegrepi(self, regex: str, path: str) -> list[str]:
        """`egrepi` in what gzip wrote."""
        return self.grep(regex, path, extended=True, insensitive=True, compressed=True)

    @launched
    def zfgrep(self, pattern: str, path: str) -> list[str]:
        """`fgrep` in what gzip wrote."""
        return self.grep(pattern, path, fixed=True, compressed=True)

    @launched
    def zfgrepi(self, pattern: str, path: str) -> list[str]:
        """`fgrepi` in what gzip wrote."""
        return self.grep(pattern, path, fixed=True, insensitive=True, compressed=True)

    # strings, wc, hexdump

    @launched
    def strings(self, path: str) -> list[str]:
        """Runs of four printable ASCII characters or more."""
        return self.strings_e("s", path)

    @launched
    def strings_e(self, encoding: str, path: str) -> list[str]:
        """`strings` of characters of 7 (``s``), 8 (``S``), 16 (``b``, ``l``) or 32 (``B``, ``L``) bits."""
        if encoding not in _STRINGS:
            raise GuestFSError(f"{encoding}: invalid encoding", errno.EINVAL)
        first, step = _STRING_CHARACTERS[encoding]
        found: list[str] = []
        for one in re.finditer(_STRINGS[encoding], whole(self._content(path), path)):
            found.append(text(one[0][first::step]))
            _check_count(found)
        return found

    @launched
    def wc_c(self, path: str) -> int:
        """How many bytes a file has."""
        return self._content(path).size

    @launched
    def wc_l(self, path: str) -> int:
        """How many newlines a file has."""
        return sum(content.count(b"\n") for content in _without_holes(self._content(path)))

    @launched
    def wc_w(self, path: str) -> int:
        """How many words a file has: between blanks, with a printable ASCII character in them."""
        words, inside = 0, False
        for content in _without_holes(self._content(path)):
            seen = content.translate(None, _UNSEEN)
            words += len(seen.split()) - (inside and seen[:1] not in _SPACES_OR_NONE)
            inside = seen[-1:] not in _SPACES_OR_NONE if seen else inside
        return words

    @launched
    def hexdump(self, path: str) -> str:
        """What ``hexdump -C`` prints."""
        device = self._content(path)
        if device.size > _MAX_DUMP_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return _dump(bytes(device.read(0, device.size)))


_SPACES_OR_NONE = (b"", *(bytes([byte]) for byte in _SPACES))


def _without_holes(device: BlockDevice) -> Iterator[bytes]:
    """The bytes in order, but for zeros that are in no block."""
    return (bytes(buffer) for run, buffer in device.chunks(0, device.size) if run.source is not None)


def _check_count(found: list[str]) -> None:
    if len(found) > MAX_LINES:
        raise GuestFSError(f"more than {MAX_LINES} lines", errno.EFBIG)


def _lines_of_text(device: BlockDevice) -> Iterator[list[bytes]]:
    """The lines that come before grep(1) takes a file for binary."""
    rest = b""
    for at in range(0, device.size, _STEP_BYTES):
        piece = bytes(device.read(at, min(_STEP_BYTES, device.size - at)))
        zero = piece.find(b"\0")
        if zero >= 0:
            piece = piece[: zero // _GREP_BYTES * _GREP_BYTES]
            yield (rest + piece).split(b"\n")[:-1]
            return
        lines = piece.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        if len(rest) > _MAX_LINE_BYTES:
            raise InvalidFormat(f"a line of more than {_MAX_LINE_BYTES} bytes", structure="text", offset=at)
        yield lines
    if rest:
        yield [rest]


def _matcher(regex: str, extended: bool, fixed: bool, insensitive: bool) -> Callable[[list[bytes]], list[bytes]]:
    """What picks the lines that match."""
    pattern = regex.encode("utf-8", "surrogateescape")
    if fixed:
        return partial(_with_text, pattern, insensitive)
    from guestctl.guestfs.patterns import Pattern

    return Pattern(pattern, extended=extended, insensitive=insensitive).matching


def _with_text(pattern: bytes, insensitive: bool, lines: list[bytes]) -> list[bytes]:
    wanted = [one.lower() if insensitive else one for one in pattern.split(b"\n")]
    return [line for line in lines if any(one in (line.lower() if insensitive else line) for one in wanted)]


def _gunzip(device: BlockDevice, path: str) -> bytes:
    """What is in a gzip file; the bytes of any other as they are."""
    data = whole(device, path)
    if data.startswith(_COMPRESS):
        raise UnsupportedFeature("what compress(1) wrote", feature="compress")
    if not data.startswith(_GZIP):
        return data
    parts: list[bytes] = []
    room = MAX_BYTES
    while data.startswith(_GZIP):
        decoder: Any = zlib.decompressobj(wbits=31)
        try:
            part = decoder.decompress(data, room)
        except zlib.error as error:
            raise InvalidFormat(str(error), structure="gzip", offset=0) from error
        room -= len(part)
        if not decoder.eof:
            message = "too large" if room <= 0 else "ends too early"
            raise InvalidFormat(message, structure="gzip", offset=0)
        parts.append(part)
        data = decoder.unused_data
    return b"".join(parts)


def _dump(content: bytes) -> str:
    lines: list[str] = []
    at = 0
    while at < len(content):
        line = content[at : at + 16]
        digits = line.hex(" ")
        shown = line.translate(_DOTS).decode("ascii")
        lines.append(f"{at:08x}  {digits[:23]:23}  {digits[24:]:23}  |{shown}|\n")
        at += 16
        if content[at : at + 16] == line:
            repeated = re.compile(b"(?:%s)*" % re.escape(line), re.DOTALL).match(content, at)
            at = repeated.end() if repeated else at
            lines.append("*\n")
    return "".join(lines) + (f"{len(content):08x}\n" if content else "")
