"""``NbdServer``: listens, and keeps clients within their limits.

The event loop accepts, times and ends connections. Each connection then has threads of its own with a
blocking socket: a reply costs no trip through the event loop, and a client that stalls stalls nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from functools import partial
from struct import Struct
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from guestctl.block.device import BlockDevice, WritableDevice
from guestctl.disk.nbd import layout
from guestctl.disk.nbd.listening import Listener, listen_tcp, listen_unix
from guestctl.disk.nbd.negotiation import MAX_OPTION_BYTES, Negotiation, State
from guestctl.disk.nbd.transmission import Transmission

if TYPE_CHECKING:
    import ssl

DEFAULT_PORT = 10809  # IANA's
# Each holds some threads; four connections are what nbdcopy makes.
MAX_CONNECTIONS = 128
_NEGOTIATION_SECONDS = 30.0
_SENDING_SECONDS = 300.0  # without a byte taken: the client is stopped, or gone
_CLOSING_SECONDS = 5.0
_ACCEPT_PAUSE_SECONDS = 0.1


_TIMEVAL = Struct("@ll")


class NbdServer:
    """Serves `device` as the NBD export `export` while it is entered; writes too, where it is a `WritableDevice`.

    On the Unix socket `path`, or else on every address of `host` at `port` (0 for any that is free).
    With `tls` a client gets nothing outside TLS. ``uri`` is what clients are to be given; the device
    stays open. Entering raises ``OSError`` where the address is taken; a socket file that a dead
    server left is replaced. ::

        async with NbdServer(device, path="/run/disk.sock") as server:
            print(server.uri)
            await server.left.wait()
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        path: str | None = None,
        host: str = "localhost",
        port: int = DEFAULT_PORT,
        export: str = "",
        tls: ssl.SSLContext | None = None,
        negotiation_seconds: float = _NEGOTIATION_SECONDS,
        sending_seconds: float = _SENDING_SECONDS,
    ) -> None:
        self.device = device
        self.path = path
        self.host = host
        self.port = port
        self.export = export
        self.tls = tls
        self.negotiation_seconds = negotiation_seconds
        self.sending_seconds = sending_seconds
        self.left = asyncio.Event()  # set when the last client has left
        self._listeners: list[Listener] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[_Connection] = set()

    @property
    def uri(self) -> str:
        """As the NBD URI specification has it."""
        scheme = "nbds" if self.tls else "nbd"
        name = quote(self.export, safe="", errors="surrogateescape")
        if self.path is not None:
            return f"{scheme}+unix:///{name}?socket={quote(self.path, errors='surrogateescape')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"{scheme}://{host}{port}/{name}"

    async def __aenter__(self) -> Self:
        if self.path is not None:
            self._listeners = [listen_unix(self.path)]
        else:
            self._listeners = listen_tcp(self.host, self.port)
            self.port = self._listeners[0].socket.getsockname()[1]
        self._accepting = [asyncio.create_task(self._accept(one.socket)) for one in self._listeners]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take no more requests, send the replies of those at work, and close."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.finish()
        if connections:
            _, busy = await asyncio.wait([one.ended for one in connections], timeout=_CLOSING_SECONDS)
            for connection in connections:
                connection.abort()
            if busy:
                await asyncio.wait(busy)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptor is left: one may be soon
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                client.close()
                continue
            connection = _Connection(self, client, loop)
            self._connections.add(connection)
            connection.ended.add_done_callback(partial(self._forget, connection))
            connection.start()

    def _forget(self, connection: _Connection, ended: asyncio.Future[None]) -> None:
        self._connections.discard(connection)
        if not self._connections and connection.served:
            self.left.set()


class _Connection:
    """One client, from its first byte to its last."""

    def __init__(self, server: NbdServer, client: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        client.setblocking(True)
        if os.name == "posix":
            seconds, rest = divmod(server.sending_seconds, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(rest * 1e6)))
        if client.family != getattr(socket, "AF_UNIX", None):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.ended: asyncio.Future[None] = loop.create_future()
        self.served = False
        self._server = server
        self._socket = client
        self._loop = loop
        self._transmission: Transmission | None = None
        self._ending = False
        self._timer = loop.call_later(server.negotiation_seconds, self.abort)

    def start(self) -> None:
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._end()

    def finish(self) -> None:
        """Let the requests at work end."""
        self._ending = True
        if self._transmission is None:
            self.abort()
        else:
            self._transmission.finish()
            self._shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """Wake whoever waits for the client."""
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self._socket, how)  # SSLSocket's would go on in the clear

    def _run(self) -> None:
        try:
            with suppress(OSError):  # the client has vanished, or was too slow
                self._serve()
        finally:
            self._loop.call_soon_threadsafe(self._end)

    def _serve(self) -> None:
        agreed = Negotiation(
            self._server.export.encode("utf-8", "surrogateescape"),
            self._server.device.size,
            writable=isinstance(self._server.device, WritableDevice),
            offers_tls=self._server.tls is not None,
        )
        self._socket.sendall(agreed.greeting())
        agreed.client_flags(self._receive(layout.CLIENT_FLAGS.size))
        while agreed.state in (State.OPTIONS, State.TLS):
            if agreed.state is State.TLS:
                self._secure()
                agreed.secure, agreed.state = True, State.OPTIONS
            magic, option, length = layout.OPTION.unpack(self._receive(layout.OPTION.size))
            if magic != layout.IHAVEOPT or length > MAX_OPTION_BYTES:
                return
            self._socket.sendall(agreed.answer(option, self._receive(length)))
        if agreed.state is State.TRANSMISSION:
            self._loop.call_soon_threadsafe(self._timer.cancel)
            self.served = True
            self._transmission = Transmission(self._server.device, self._socket, agreed)
            if not self._ending:
                self._transmission.run()

    def _secure(self) -> None:
        assert self._server.tls is not None
        secure = self._server.tls.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = secure  # before the handshake, so that it can be aborted
        secure.do_handshake()

    def _receive(self, length: int) -> bytes:
        """Exactly `length` bytes, and none of what comes after them: that may be TLS."""
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def _end(self) -> None:
        self._timer.cancel()
        self._socket.close()
        self.ended.set_result(None)
