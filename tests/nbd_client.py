"""A client of NBD that can also misbehave, and a server of this process for it; numbers are the protocol's own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any, Self

from guestctl.block import BlockDevice
from guestctl.disk.nbd import NbdServer

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT = (
    *range(1, 4),
    *range(5, 11),
)
ACK = 1
DONT_FRAGMENT, REQ_ONE = 4, 8


@contextmanager
def serving(device: BlockDevice, path: Any, **how: Any) -> Iterator[NbdServer]:
    """A server on the Unix socket `path`, in a thread of its own."""
    started: Queue[tuple[NbdServer, asyncio.AbstractEventLoop, asyncio.Event]] = Queue()

    async def main() -> None:
        stop = asyncio.Event()
        async with NbdServer(device, path=str(path), **how) as server:
            started.put((server, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    server, loop, stop = started.get(timeout=10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()


class Client:
    """One connection over the Unix socket `path`."""

    def __init__(self, path: Any, flags: int | None = 3) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        greeting = self.receive(18)
        if greeting != b"NBDMAGICIHAVEOPT\0\3":
            self.close()
            raise ConnectionRefusedError(greeting)
        if flags is not None:
            self.socket.sendall(struct.pack(">I", flags))

    def receive(self, length: int) -> bytes:
        """Exactly so many bytes; less where the server closed the connection."""
        data = bytearray()
        while len(data) < length:
            try:
                part = self.socket.recv(length - len(data))
            except ConnectionResetError:
                break
            if not part:
                break
            data += part
        return bytes(data)

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """The replies: types and data, up to the last one; empty where the server closed the connection."""
        self.socket.sendall(struct.pack(">QII", 0x49484156454F5054, number, len(data)) + data)
        replies = []
        while header := self.receive(20):
            magic, answered, kind, length = struct.unpack(">QIII", header)
            assert (magic, answered) == (0x3E889045565A9, number)
            replies.append((kind, self.receive(length)))
            if kind == ACK or kind >> 31:
                break
        return replies

    def go(self, name: bytes = b"", *, structured: bool = True, allocation: bool = True) -> Self:
        """Negotiate the transmission phase."""
        if structured:
            assert self.option(STRUCTURED_REPLY) == [(ACK, b"")]
        if structured and allocation:
            replies = self.option(SET_META_CONTEXT, meta_query(name, b"base:allocation"))
            assert [kind for kind, _ in replies] == [4, ACK]
        assert self.option(GO, struct.pack(">I", len(name)) + name + bytes(2))[-1] == (ACK, b"")
        return self

    def send(self, command: int, offset: int, length: int, *, flags: int = 0, cookie: int = 7) -> None:
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length))

    def simple_reply(self) -> int:
        """The error of a simple reply."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert (magic, cookie) == (0x67446698, 7)
        return int(error)

    def chunks(self) -> list[tuple[int, bytes]]:
        """Types and payloads of a structured reply."""
        chunks = []
        while True:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.receive(20))
            assert (magic, cookie) == (0x668E33EF, 7)
            chunks.append((kind, self.receive(length)))
            if flags & 1:
                return chunks

    def read(self, offset: int, length: int, *, flags: int = 0) -> bytes | int:
        """The bytes or the error."""
        self.send(READ, offset, length, flags=flags)
        return content_of(self.chunks())

    def ended(self) -> bool:
        """Whether the server closes the connection, after whatever it still sends."""
        while True:
            try:
                if not self.socket.recv(1 << 16):
                    return True
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def meta_query(name: bytes, *queries: bytes) -> bytes:
    packed = b"".join(struct.pack(">I", len(query)) + query for query in queries)
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + packed


def content_of(chunks: list[tuple[int, bytes]]) -> bytes | int:
    """What the chunks of data and of holes are together, in whatever order they came; or the error."""
    parts = {}
    for kind, payload in chunks:
        if kind >> 15:
            return int(struct.unpack_from(">I", payload)[0])
        if kind:
            (offset,) = struct.unpack_from(">Q", payload)
            parts[offset] = payload[8:] if kind == 1 else bytes(struct.unpack_from(">I", payload, 8)[0])
    ends = [offset + len(part) for offset, part in sorted(parts.items())]
    assert ends[:-1] == sorted(parts)[1:]
    return b"".join(part for _, part in sorted(parts.items()))
