"""What happens around every call of the handle: its state is checked, events are sent, errors become libguestfs's."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from guestctl.core.errors import DetectionError, GuestctlError, KeyRequired, UnsupportedFeature

if TYPE_CHECKING:
    from guestctl.guestfs.handle import Handle

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Handle")

_ERRNOS: dict[type[GuestctlError], int] = {
    UnsupportedFeature: errno.ENOTSUP,
    KeyRequired: errno.EPERM,
    DetectionError: errno.EINVAL,
}


class ClosedHandle(ValueError):
    """A method of a handle that was closed."""


class GuestFSError(RuntimeError):
    """A call that failed: a ``RuntimeError`` with libguestfs's message, and its ``errno`` (0 where there is none)."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


def call(function: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """A call that may be made before the launch."""
    return _call(function, needs_launch=False)


def launched(function: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """A call that works on the disks, and so only after the launch."""
    return _call(function, needs_launch=True)


def _call(function: Callable[Concatenate[H, P], R], *, needs_launch: bool) -> Callable[Concatenate[H, P], R]:
    name = function.__name__

    @functools.wraps(function)
    def method(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            if self._inside:  # one call that is made of others
                return function(self, *args, **kwargs)
            if self._closed:
                raise ClosedHandle("GuestFS: method called on closed handle")
            self._inside = True
            try:
                self._entered(name, args, kwargs)
                _check([*args, *kwargs.values()])
                if needs_launch and not self.is_ready():
                    raise GuestFSError(NOT_LAUNCHED)
                result = function(self, *args, **kwargs)
            except (GuestctlError, OSError, GuestFSError, NotImplementedError) as error:
                raise self._failed(as_guestfs_error(name, error)) from error
            finally:
                self._inside = False
            self._left(name, result)
            return result

    return method


def _check(arguments: Iterable[object]) -> None:
    """Refuse strings that no C library takes, and numbers past its 64 bits."""
    for value in arguments:
        if isinstance(value, str):
            if "\0" in value:
                raise GuestFSError(f"{value!r:.100}: NUL byte", errno.EINVAL)
            try:
                value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise GuestFSError(f"{value!r:.100}: {error.reason}", errno.EILSEQ) from error
        elif isinstance(value, list | tuple):
            _check(value)
        elif isinstance(value, int) and not -1 << 63 <= value < 1 << 63:
            raise GuestFSError(f"{value!r:.100}: out of range", errno.ERANGE)


NOT_LAUNCHED = "call launch before using this function\n(in guestfish, don't forget to use the 'run' command)"


def as_guestfs_error(name: str, error: Exception) -> RuntimeError:
    """The error of the call `name`, with the message that libguestfs's users know."""
    if isinstance(error, NotImplementedError):
        return error
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return GuestFSError(f"{name}: {where}{error.strerror or error}", error.errno or 0)
    number = error.errno if isinstance(error, GuestFSError) else _ERRNOS.get(type(error), errno.EIO)  # type: ignore[arg-type]
    return GuestFSError(f"{name}: {error}", number)
