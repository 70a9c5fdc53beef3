"""Sockets that listen, and the socket files that servers leave behind."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass

from guestctl.core.errors import UnsupportedFeature

_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, not blocking; ``file`` is the one it made: path, device and inode."""

    socket: socket.socket
    file: tuple[str, int, int] | None = None

    def close(self) -> None:
        """Close it, and remove its file unless that is another's by now."""
        self.socket.close()
        if self.file is not None and _identity(self.file[0]) == self.file:
            os.unlink(self.file[0])


def listen_tcp(host: str, port: int) -> list[Listener]:
    """Listen on every address of `host`, at one port."""
    listeners: list[Listener] = []
    failure: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        place = (address[0], listeners[0].socket.getsockname()[1] if listeners else port, *address[2:])
        try:
            listener = socket.create_server(place, family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for one in listeners:
                    one.close()
                raise OSError(error.errno, os.strerror(error.errno or 0), f"{host}:{port}") from error
            failure = error  # the host has no such network
            continue
        listener.setblocking(False)
        listeners.append(Listener(listener))
    if failure is not None and not listeners:
        raise failure
    return listeners


def listen_unix(path: str) -> Listener:
    """Listen on the socket file `path`, in place of one that nobody listens on any more."""
    if not hasattr(socket, "AF_UNIX"):
        raise UnsupportedFeature(f"{path}: Python has no Unix sockets on this platform", feature="Unix sockets")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno is None:  # a path that is too long for a socket
            raise OSError(errno.ENAMETOOLONG, str(error), path) from error
        raise OSError(error.errno, os.strerror(error.errno), path) from error
    listener.setblocking(False)
    return Listener(listener, _identity(path))


def _is_stale(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _identity(path: str) -> tuple[str, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return path, status.st_dev, status.st_ino
