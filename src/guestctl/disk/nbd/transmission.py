"""The transmission phase of one connection: requests in, replies out, as they are ready.

A few threads share the connection. One at a time receives a request, one at a time sends; reading
the device lies between. As many requests as there are threads are in flight, the rest waits in the
socket: a client that does not take its replies stops its own connection, with bounded memory.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple

from guestctl.block.device import BlockDevice, Buffer, Run, WritableDevice
from guestctl.block.file import FileDevice
from guestctl.core.errors import GuestctlError
from guestctl.disk.nbd import layout
from guestctl.disk.nbd.negotiation import BASE_ALLOCATION_ID, Negotiation
from guestctl.disk.nbd.writing import RequestFailed, out_of_range, working, write_zeroes

_WORKERS = 2
# What is read at once; with the workers, what a client that does not take its replies can hold in memory.
_PIECE_BYTES = 1 << 20
# More parts than that cost less when they are joined, and the kernel takes 1024 at most.
_MAX_PARTS = 64
# From here on the kernel sends out of the page cache for less than it costs to read and send.
_MIN_FILE_BYTES = 64 << 10
_MSG_MORE = getattr(socket, "MSG_MORE", 0)
_MAX_DESCRIPTORS = 16 << 10
_WRITING_COMMANDS = {layout.CMD_WRITE, layout.CMD_TRIM, layout.CMD_WRITE_ZEROES, layout.CMD_RESIZE}


class _Request(NamedTuple):
    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    data: Buffer = b""  # the last piece of what is to be written
    failure: RequestFailed | None = None  # of the pieces before it


class Transmission:
    """Serves `device` to the client on `connection`, a blocking socket, as was negotiated."""

    def __init__(self, device: BlockDevice, connection: socket.socket, agreed: Negotiation) -> None:
        self._device = device
        self._socket = connection
        self._structured = agreed.structured
        self._allocation = agreed.allocation
        self._stream = connection.makefile("rb")
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._ending = False
        # Two threads may not use one TLS connection at the same time.
        self._secure = isinstance(connection, ssl.SSLSocket)
        self._sends_files = not self._secure and hasattr(os, "sendfile")
        self._writable = device if isinstance(device, WritableDevice) else None
        self._handlers: dict[int, tuple[Callable[[_Request], None], int]] = {
            layout.CMD_READ: (self._read, layout.CMD_FLAG_DF if self._structured else 0),
            layout.CMD_CACHE: (self._done, 0),
        }
        if self._allocation:
            self._handlers[layout.CMD_BLOCK_STATUS] = (self._block_status, layout.CMD_FLAG_REQ_ONE)
        if self._writable is not None:
            write = partial(self._change, self._writable)
            self._handlers |= {
                layout.CMD_WRITE: (write, 0),
                layout.CMD_TRIM: (write, 0),
                layout.CMD_WRITE_ZEROES: (write, layout.CMD_FLAG_NO_HOLE | layout.CMD_FLAG_FAST_ZERO),
                layout.CMD_FLUSH: (write, 0),
            }

    def run(self) -> None:
        """Serve until the client leaves or `finish` was called."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(0 if self._secure else _WORKERS - 1)]
        for thread in threads:
            thread.start()
        self._work()
        for thread in threads:
            thread.join()
        self._stream.close()

    def finish(self) -> None:
        """Take no further request."""
        self._ending = True

    def _work(self) -> None:
        with suppress(OSError):  # the client has vanished
            try:
                while request := self._receive():
                    self._answer(request)
            except BaseException:
                # SSLSocket.shutdown would go on in the clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                raise

    # Requests

    def _receive(self) -> _Request | None:
        """The next request; None where there is none."""
        with self._receiving:
            if self._ending:
                return None
            header = self._stream.read(layout.REQUEST.size)
            if len(header) == layout.REQUEST.size:
                magic, *fields = layout.REQUEST.unpack(header)
                request = _Request(*fields)
                if magic == layout.REQUEST_MAGIC and request.command != layout.CMD_DISC:
                    complete = self._with_data(request) if request.command == layout.CMD_WRITE else request
                    if complete is not None:
                        return complete
            self._ending = True
            return None

    def _with_data(self, request: _Request) -> _Request | None:
        """A write with its data; of a long one all but the last piece is written already."""
        offset, left = request.offset, request.length
        if left > layout.MAX_REQUEST_BYTES:
            return None
        failure = self._refusal(request)
        data = b""
        while left:
            data = self._stream.read(min(left, _PIECE_BYTES))
            left -= len(data)
            if not data:
                return None
            if left and failure is None and self._writable is not None:
                try:
                    with working():
                        self._writable.write(offset, data)
                except RequestFailed as error:
                    failure = error
            offset += len(data)
        return request._replace(offset=offset - len(data), length=len(data), data=data, failure=failure)

    def _refusal(self, request: _Request) -> RequestFailed | None:
        """Why the request cannot be tried."""
        if self._writable is None and request.command in _WRITING_COMMANDS:
            return RequestFailed(layout.EPERM, "the export is read-only")
        handler, known_flags = self._handlers.get(request.command, (None, 0))
        if handler is None:
            return RequestFailed(layout.EINVAL, "unknown command")
        if request.flags & ~(known_flags | (layout.CMD_FLAG_FUA if self._writable is not None else 0)):
            return RequestFailed(layout.EINVAL, "unknown command flag")
        if request.command != layout.CMD_FLUSH:
            return out_of_range(self._device, request.command, request.offset, request.length)
        return None

    def _answer(self, request: _Request) -> None:
        try:
            failure = request.failure or self._refusal(request)
            if failure is not None:
                raise failure
            self._handlers[request.command][0](request)
        except RequestFailed as error:
            self._fail(request.command, request.cookie, error)

    def _fail(self, command: int, cookie: int, error: RequestFailed) -> None:
        if not self._structured or command not in (layout.CMD_READ, layout.CMD_BLOCK_STATUS):
            self._send([layout.SIMPLE_REPLY.pack(layout.SIMPLE_REPLY_MAGIC, error.number, cookie)])
            return
        message = str(error).encode("utf-8", "replace")[:4096]
        fields = (layout.REPLY_FLAG_DONE, layout.REPLY_TYPE_ERROR, cookie, 6 + len(message), error.number, len(message))
        self._send([layout.ERROR_CHUNK.pack(layout.STRUCTURED_REPLY_MAGIC, *fields), message])

    # Commands

    def _done(self, request: _Request) -> None:
        self._send([layout.SIMPLE_REPLY.pack(layout.SIMPLE_REPLY_MAGIC, 0, request.cookie)])

    def _change(self, device: WritableDevice, request: _Request) -> None:
        flags, command, _, offset, length, data, _ = request
        with working():
            if command == layout.CMD_WRITE:
                device.write(offset, data)
            elif command == layout.CMD_TRIM:
                device.discard(offset, length)
            elif command == layout.CMD_WRITE_ZEROES:
                write_zeroes(device, flags, offset, length)
            if command == layout.CMD_FLUSH or flags & layout.CMD_FLAG_FUA:
                device.flush()
        self._done(request)

    def _block_status(self, request: _Request) -> None:
        limit = 1 if request.flags & layout.CMD_FLAG_REQ_ONE else _MAX_DESCRIPTORS
        states = self._states(request.offset, request.length, limit)
        payload = layout.UINT32.pack(BASE_ALLOCATION_ID)
        payload += b"".join(layout.STATUS_DESCRIPTOR.pack(*state) for state in states)
        fields = (layout.REPLY_FLAG_DONE, layout.REPLY_TYPE_BLOCK_STATUS, request.cookie, len(payload))
        self._send([layout.REPLY_CHUNK.pack(layout.STRUCTURED_REPLY_MAGIC, *fields), payload])

    def _states(self, offset: int, length: int, limit: int) -> list[list[int]]:
        """Lengths and flags, neighbours that are alike as one."""
        states: list[list[int]] = []
        try:
            for run in self._device.runs(offset, length):
                flags = layout.STATE_HOLE | layout.STATE_ZERO if run.source is None else 0
                if states and states[-1][1] == flags:
                    states[-1][0] += run.length
                elif len(states) == limit:
                    break
                else:
                    states.append([run.length, flags])
        except (GuestctlError, OSError):
            # The protocol lets unknown be 0: reading tells which requests the damage concerns.
            return states or [[length, 0]]
        return states

    def _read(self, request: _Request) -> None:
        flags, _, cookie, offset, length, *_ = request
        if length > layout.MAX_REQUEST_BYTES:
            raise RequestFailed(layout.EINVAL, "more than 32 MiB asked for")
        if not self._structured:
            self._read_simple(cookie, offset, length)
        elif flags & layout.CMD_FLAG_DF:
            if length > _PIECE_BYTES:
                raise RequestFailed(layout.EOVERFLOW, "more than 1 MiB asked for in one piece")
            data = self._load(offset, length)
            self._send([_data_chunk(layout.REPLY_FLAG_DONE, cookie, offset, length), *data])
        else:
            for start, part in _pieces(offset, length):
                self._read_piece(layout.REPLY_FLAG_DONE * (start + part == offset + length), cookie, start, part)

    def _load(self, offset: int, length: int) -> list[Buffer]:
        with working():
            return list(self._device.buffers(offset, length))

    def _read_piece(self, done: int, cookie: int, offset: int, length: int) -> None:
        """Send a range as chunks of data and of holes, the last one with the flags `done`."""
        with working():
            run, *more = islice(self._device.runs(offset, length), 2)
        if not more and run.source is None:
            self._send([_hole_chunk(done, cookie, offset, length)])
        elif not more and self._sends_files and isinstance(run.source, FileDevice) and length >= _MIN_FILE_BYTES:
            self._send_file(done, cookie, run, run.source)
        else:
            self._send(self._chunks(done, cookie, offset, length))

    def _chunks(self, done: int, cookie: int, offset: int, length: int) -> list[Buffer]:
        parts: list[Buffer] = []
        with working():
            for run, buffer in self._device.chunks(offset, length):
                flags = done if run.offset + run.length == offset + length else 0
                if run.source is None:
                    parts.append(_hole_chunk(flags, cookie, run.offset, run.length))
                else:
                    parts += (_data_chunk(flags, cookie, run.offset, run.length), buffer)
        return parts

    def _read_simple(self, cookie: int, offset: int, length: int) -> None:
        header = layout.SIMPLE_REPLY.pack(layout.SIMPLE_REPLY_MAGIC, 0, cookie)
        if length <= _PIECE_BYTES:
            self._send([header, *self._load(offset, length)])
            return
        # The header says that all of it can be read: see whether it can, without keeping it.
        for piece in _pieces(offset, length):
            self._load(*piece)
        with self._sending:
            self._socket.sendall(header)
            for piece in _pieces(offset, length):
                try:
                    parts = self._load(*piece)
                except RequestFailed as error:
                    raise ConnectionAbortedError(str(error)) from error
                for part in parts:
                    self._socket.sendall(part)

    # Replies

    def _send(self, parts: list[Buffer]) -> None:
        if len(parts) > _MAX_PARTS:
            parts = [b"".join(parts)]
        with self._sending:
            if self._secure or not hasattr(self._socket, "sendmsg"):
                for part in parts:
                    self._socket.sendall(part)
                return
            sent = self._socket.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._socket.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def _send_file(self, done: int, cookie: int, run: Run, source: FileDevice) -> None:
        """Let the kernel send a run as one chunk; whether all of it can be read is known only at its end."""
        offset, left = run.source_offset, run.length
        with self._sending:
            self._socket.sendall(_data_chunk(0, cookie, run.offset, run.length), _MSG_MORE)
            while left:
                try:
                    sent = os.sendfile(self._socket.fileno(), source.fileno(), offset, left)
                except OSError:
                    sent = 0
                if not sent:  # the file ends early, or it is damaged, or the client is gone
                    self._socket.sendall(bytes(left))
                    break
                offset, left = offset + sent, left - sent
            if done and not left:
                fields = (done, layout.REPLY_TYPE_NONE, cookie, 0)
                self._socket.sendall(layout.REPLY_CHUNK.pack(layout.STRUCTURED_REPLY_MAGIC, *fields))
        if left:
            raise RequestFailed(layout.EIO, f"{source.path}: cannot be read at {offset:#x}")


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + length, _PIECE_BYTES):
        yield start, min(_PIECE_BYTES, offset + length - start)


def _data_chunk(flags: int, cookie: int, offset: int, length: int) -> bytes:
    fields = (flags, layout.REPLY_TYPE_OFFSET_DATA, cookie, 8 + length, offset)
    return layout.OFFSET_DATA_CHUNK.pack(layout.STRUCTURED_REPLY_MAGIC, *fields)


def _hole_chunk(flags: int, cookie: int, offset: int, length: int) -> bytes:
    fields = (flags, layout.REPLY_TYPE_OFFSET_HOLE, cookie, 12, offset, length)
    return layout.OFFSET_HOLE_CHUNK.pack(layout.STRUCTURED_REPLY_MAGIC, *fields)
