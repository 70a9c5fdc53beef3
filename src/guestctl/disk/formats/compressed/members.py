"""gzip (RFC 1952) and bzip2: members one after the other, each with its checksum. Zeros may follow the last one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from guestctl.block.device import BlockDevice
from guestctl.core.errors import ChecksumMismatch, InvalidFormat, UnsupportedFeature
from guestctl.core.progress import Progress

PIECE_BYTES = 1 << 20  # of content, at most
_INPUT_BYTES = 256 << 10
_MAX_HEADER_BYTES = 1 << 20  # of names and comments

_FTEXT, _FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 1, 2, 4, 8, 16
_TRAILER = struct.Struct("<II")  # CRC32, ISIZE


class _Decoder(Protocol):
    """What `bz2`, `lzma` and `isal` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Input:
    """The file, read in order."""

    def __init__(self, device: BlockDevice, progress: Progress) -> None:
        self._device = device
        self._progress = progress
        self._position = 0
        self.data = b""

    @property
    def offset(self) -> int:
        """Of the first byte in ``data``."""
        return self._position - len(self.data)

    def more(self) -> bool:
        """Add to ``data``; False at the end of the file."""
        length = min(_INPUT_BYTES, self._device.size - self._position)
        if length:
            self.data += bytes(self._device.read(self._position, length))
            self._position += length
            self._progress.update(self._position, self._device.size)
        return bool(length)

    def next_member(self) -> bool:
        """Skip zeros; False at the end of the file."""
        while True:
            self.data = self.data.lstrip(b"\0")
            if self.data:
                return True
            if not self.more():
                return False

    def at_least(self, length: int, structure: str) -> None:
        while len(self.data) < length:
            if not self.more():
                raise _truncated(structure, self._position)


def gzip_content(device: BlockDevice, progress: Progress) -> Iterator[bytes]:
    """The content of all members, in pieces."""
    source = _Input(device, progress)
    new_decoder, crc32, errors = _deflate()
    while source.next_member():
        _skip_header(source)
        crc = size = 0
        for piece in _content(source, new_decoder(), errors, "gzip member"):
            crc = crc32(piece, crc)
            size += len(piece)
            yield piece
        source.at_least(_TRAILER.size, "gzip trailer")
        expected_crc, expected_size = _TRAILER.unpack_from(source.data)
        if crc != expected_crc:
            raise ChecksumMismatch(structure="gzip trailer", offset=source.offset, expected=expected_crc, actual=crc)
        if size & 0xFFFFFFFF != expected_size:
            message = f"the member holds {size} bytes, its trailer says {expected_size}"
            raise InvalidFormat(message, structure="gzip trailer", offset=source.offset + 4)
        source.data = source.data[_TRAILER.size :]


def bzip2_content(device: BlockDevice, progress: Progress) -> Iterator[bytes]:
    """The content of all streams, in pieces."""
    from bz2 import BZ2Decompressor

    source = _Input(device, progress)
    while source.next_member():
        yield from _content(source, BZ2Decompressor(), (OSError, ValueError), "bzip2 stream")


def _content(source: _Input, decoder: _Decoder, errors: tuple[type[Exception], ...], structure: str) -> Iterator[bytes]:
    while not decoder.eof:
        data = b""
        if decoder.needs_input:
            if not source.data and not source.more():
                raise _truncated(structure, source.offset)
            data, source.data = source.data, b""
        offset = source.offset - len(data)
        try:
            piece = decoder.decompress(data, PIECE_BYTES)
        except errors as error:
            raise InvalidFormat(f"cannot be decompressed: {error}", structure=structure, offset=offset) from error
        if piece:
            yield piece
    source.data = decoder.unused_data


def _skip_header(source: _Input) -> None:
    offset = source.offset
    source.at_least(10, "gzip header")
    magic, method, flags = source.data[:2], source.data[2], source.data[3]
    if magic != b"\x1f\x8b":
        raise InvalidFormat("bytes that are no member follow the last one", structure="gzip header", offset=offset)
    if method != 8:
        raise UnsupportedFeature(f"gzip compression method {method}", feature=f"gzip method {method}")
    if flags & 0xE0:
        raise UnsupportedFeature(f"gzip flags {flags:#x}", feature=f"gzip flags {flags:#x}")
    length = 10
    if flags & _FEXTRA:
        source.at_least(length + 2, "gzip header")
        length += 2 + int.from_bytes(source.data[length : length + 2], "little")
        source.at_least(length, "gzip header")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            length = _end_of_text(source, length)
    if flags & _FHCRC:
        source.at_least(length + 2, "gzip header")
        stored, actual = int.from_bytes(source.data[length : length + 2], "little"), zlib.crc32(source.data[:length])
        if stored != actual & 0xFFFF:
            raise ChecksumMismatch(structure="gzip header", offset=offset, expected=stored, actual=actual & 0xFFFF)
        length += 2
    source.data = source.data[length:]


def _end_of_text(source: _Input, start: int) -> int:
    end = -1
    while (end := source.data.find(b"\0", start)) < 0:
        if len(source.data) > _MAX_HEADER_BYTES or not source.more():
            raise _truncated("gzip header", source.offset + len(source.data))
    return end + 1


class _Deflate(NamedTuple):
    new_decoder: Callable[[], _Decoder]
    crc32: Callable[[bytes, int], int]
    errors: tuple[type[Exception], ...]


def _deflate() -> _Deflate:
    try:
        from isal import igzip_lib, isal_zlib
    except ImportError:
        return _Deflate(_ZlibDecoder, zlib.crc32, (zlib.error,))

    def new_decoder() -> Any:
        # igzip's own decoder of headers fails where one is not in one piece.
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)

    error: Any = igzip_lib.IsalError
    return _Deflate(new_decoder, isal_zlib.crc32, (error,))


class _ZlibDecoder:
    """zlib with the interface of the others."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(-15)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._engine.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._engine.decompress(self._engine.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length  # there may be more without input
        return piece


def _truncated(structure: str, offset: int) -> InvalidFormat:
    return InvalidFormat("the file ends in the middle of it", structure=structure, offset=offset)
