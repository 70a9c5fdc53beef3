"""Settings of a handle. Those of libguestfs's virtual machine are kept and given back, and mean nothing here."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from guestctl._version import __version__
from guestctl.guestfs.calls import GuestFSError, call
from guestctl.guestfs.handle import Handle

T = TypeVar("T")

_MIN_MEMSIZE, _MAX_SMP = 256, 255

# Environment variable -> setting, and how its text is read.
_ENVIRONMENT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "LIBGUESTFS_TRACE": ("trace", lambda text: _truth("LIBGUESTFS_TRACE", text)),
    "LIBGUESTFS_DEBUG": ("verbose", lambda text: _truth("LIBGUESTFS_DEBUG", text)),
    "LIBGUESTFS_APPEND": ("append", str),
    "LIBGUESTFS_BACKEND": ("backend", str),
    "LIBGUESTFS_BACKEND_SETTINGS": ("backend_settings", lambda text: text.split(":")),
    "LIBGUESTFS_HV": ("hv", str),
    "LIBGUESTFS_MEMSIZE": ("memsize", lambda text: _number("LIBGUESTFS_MEMSIZE", text)),
    "LIBGUESTFS_PATH": ("path", str),
    "LIBGUESTFS_TMPDIR": ("tmpdir", str),
    "LIBGUESTFS_CACHEDIR": ("cachedir", str),
}


def _truth(name: str, text: str) -> bool:
    try:
        return {"1": True, "0": False, "true": True, "false": False}[text.lower()]
    except KeyError:
        raise GuestFSError(f"{name}={text}: not a boolean", errno.EINVAL) from None


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise GuestFSError(f"non-numeric or too small value for {name}", errno.EINVAL) from None


def _memsize(value: int) -> None:
    if value < _MIN_MEMSIZE:
        raise GuestFSError(f"too small value for memsize (must be at least {_MIN_MEMSIZE})", errno.EINVAL)


def _smp(value: int) -> None:
    if value < 1:
        raise GuestFSError(f"invalid smp parameter: {value}", errno.EINVAL)
    if value > _MAX_SMP:
        raise GuestFSError(f"unsupported number of smp vcpus: {value}", errno.EINVAL)


def _identifier(value: str) -> None:
    if not re.fullmatch("[A-Za-z0-9_-]*", value):
        message = "identifier must contain only alphanumeric characters, underscore or minus sign"
        raise GuestFSError(message, errno.EINVAL)


def _setting(
    name: str, default: T, argument: str | None = None, check: Callable[[T], None] | None = None
) -> tuple[Callable[[Handle], T], Callable[[Handle, T | None], None]]:
    """``get_NAME`` and ``set_NAME``, whose `argument` is called otherwise where libguestfs calls it so."""
    argument = argument or name.replace("_", "")

    def get(self: Handle) -> T:
        value: T = self._settings.get(name, default)
        return value

    def set(self: Handle, /, *args: T | None, **named: T | None) -> None:
        bound = signature.bind(self, *args, **named)
        value: T | None = bound.arguments[argument]
        if value is not None and check is not None:
            check(value)
        self._settings[name] = default if value is None else bool(value) if isinstance(default, bool) else value

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    annotation = type(default).__name__
    signature = inspect.Signature(
        [inspect.Parameter("self", kind), inspect.Parameter(argument, kind, annotation=annotation)]
    )
    get.__name__, set.__name__ = f"get_{name}", f"set_{name}"
    get.__doc__ = f"What ``set_{name}`` set; {default!r} otherwise."
    set.__doc__ = f"Set what ``get_{name}`` gives; None is the default."
    setter = call(set)
    setter.__signature__ = signature  # type: ignore[attr-defined]
    return call(get), setter


class Settings(Handle):
    """``set_trace``, ``get_memsize`` and the like."""

    get_autosync, set_autosync = _setting("autosync", True)
    get_backend, set_backend = _setting("backend", "guestctl")
    get_backend_settings, set_backend_settings = _setting("backend_settings", list[str](), "settings")
    get_cachedir, set_cachedir = _setting("cachedir", "/var/tmp")
    get_direct, set_direct = _setting("direct", False)
    get_hv, set_hv = _setting("hv", "")
    get_identifier, set_identifier = _setting("identifier", "", check=_identifier)
    get_memsize, set_memsize = _setting("memsize", 1280, check=_memsize)
    get_network, set_network = _setting("network", False)
    get_path, set_path = _setting("path", "", "searchpath")
    get_pgroup, set_pgroup = _setting("pgroup", False)
    get_program, set_program = _setting("program", os.path.basename(sys.argv[0] if sys.argv else "python"))
    get_recovery_proc, set_recovery_proc = _setting("recovery_proc", True)
    get_selinux, set_selinux = _setting("selinux", False)
    get_smp, set_smp = _setting("smp", 1, check=_smp)
    get_tmpdir, set_tmpdir = _setting("tmpdir", "/tmp")
    get_trace, set_trace = _setting("trace", False)
    get_verbose, set_verbose = _setting("verbose", False)

    @call
    def get_append(self) -> str | None:
        """Kernel options that were set, or None."""
        return self._settings.get("append")

    get_attach_method, set_attach_method = get_backend, set_backend
    get_qemu, set_qemu = get_hv, set_hv

    @call
    def set_append(self, append: str | None) -> None:
        """Set kernel options, for `get_append` to give back."""
        self._settings["append"] = append

    @call
    def get_sockdir(self) -> str:
        """The directory of temporary files: there are no sockets."""
        directory: str = self.get_tmpdir()
        return directory

    @call
    def config(self, hvparam: str, hvvalue: str | None) -> None:
        """Nothing: there is no hypervisor to be told."""

    @call
    def get_backend_setting(self, name: str) -> str:
        """The value of the backend setting `name`; ``1`` where it is only named."""
        for key, separator, value in (one.partition("=") for one in self.get_backend_settings()):
            if key == name:
                return value if separator else "1"
        raise GuestFSError("setting not found", errno.ESRCH)

    @call
    def set_backend_setting(self, name: str, val: str) -> None:
        """Set the backend setting `name`. The one that means something is ``allow_dir``, a
        directory of backing files."""
        self.clear_backend_setting(name)
        self.set_backend_settings([*self.get_backend_settings(), f"{name}={val}"])

    @call
    def clear_backend_setting(self, name: str) -> int:
        """Remove the backend setting `name`. Gives how many there were."""
        before = self.get_backend_settings()
        after = [one for one in before if one.partition("=")[0] != name]
        self.set_backend_settings(after)
        return len(before) - len(after)

    @call
    def parse_environment(self) -> None:
        """Take over the settings that ``LIBGUESTFS_…`` variables make."""
        self._parse_environment(os.environ)

    @call
    def parse_environment_list(self, environment: Sequence[str]) -> None:
        """As `parse_environment`, from ``NAME=VALUE`` strings."""
        self._parse_environment(dict(one.split("=", 1) for one in environment if "=" in one))

    def _parse_environment(self, environment: Mapping[str, str]) -> None:
        for variable, (name, read) in _ENVIRONMENT.items():
            if environment.get(variable):
                self._settings[name] = read(environment[variable])

    @call
    def version(self) -> dict[str, Any]:
        """guestctl's version: ``major``, ``minor``, ``release`` and ``extra``."""
        major, minor, release = __version__.split(".")[:3]
        return {"major": int(major), "minor": int(minor), "release": int(release), "extra": "guestctl"}
