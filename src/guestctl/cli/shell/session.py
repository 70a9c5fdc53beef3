"""A shell's session: one line after the other, each a call of the handle."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from guestctl.cli.options import TreeOptions
from guestctl.cli.output import fail, printable, warn
from guestctl.core.errors import DetectionError, GuestctlError
from guestctl.guestfs import GuestFS
from guestctl.guestfs.refused import REFUSED

# What a shell does by itself, or what makes no sense in one.
_NOT_COMMANDS = {"add_libvirt_dom", "close", "delete_event_callback", "last_errno", "last_error", "set_event_callback"}
_TRUE, _FALSE = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")


class Session(AbstractContextManager["Session"]):
    """A launched handle, with the guest's tree mounted, and the lines that work on it."""

    def __init__(self, image: str, options: TreeOptions) -> None:
        from guestctl.disk.filesystem import Options

        self.handle = GuestFS(
            python_return_dict=True, keys=options.keys(), options=Options(ignore_checksums=options.ignore_checksums)
        )
        try:
            self._open(image, options)
        except RuntimeError as error:
            self.handle.close()
            raise GuestctlError(str(error)) from error

    def _open(self, image: str, options: TreeOptions) -> None:
        for directory in options.allow_dirs:
            self.handle.set_backend_settings([*self.handle.get_backend_settings(), f"allow_dir={directory}"])
        for path in (image, *options.add):
            self.handle.add_drive(path, readonly=True, format=options.format)
        self.handle.launch()
        self._mount(options.mount)

    def _mount(self, device: str | None) -> None:
        if device is not None:
            self.handle.mount_ro(device, "/")
            return
        roots = self.handle.inspect_os()
        if not roots:
            warn("no operating system found; see list-filesystems, and mount one of them")
            return
        for path, mountable in sorted(self.handle.inspect_get_mountpoints(roots[0]).items()):
            try:
                self.handle.mount_ro(mountable, path)
            except RuntimeError as error:
                warn(str(error))

    def __exit__(self, *exc_info: object) -> None:
        self.handle.close()

    def run_script(self, lines: Iterable[str]) -> None:
        """Run the lines of a script; the first error ends it."""
        for line in lines:
            ignored = line.lstrip().startswith("-")
            try:
                if not self.run(line.lstrip().removeprefix("-") if ignored else line):
                    return
            except (RuntimeError, ValueError, GuestctlError) as error:
                if not ignored:
                    raise GuestctlError(str(error)) from error
                fail(error)

    def run_interactively(self, lines: Iterator[str]) -> None:
        """Run lines as a person types them; an error is shown, and nothing more."""
        for line in lines:
            try:
                if not self.run(line):
                    return
            except (RuntimeError, ValueError, OSError, GuestctlError) as error:
                fail(error)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)

    def run(self, line: str) -> bool:
        """Run a line. Whether there may be another one."""
        line = line.strip()
        if line.startswith("!"):
            subprocess.run(line[1:], shell=True, check=False)
            return True
        words = shlex.split(line, comments=True)
        if not words:
            return True
        name, arguments = words[0].replace("-", "_"), words[1:]
        if name in ("exit", "quit", "q"):
            return False
        if name == "help":
            _help(*arguments[:1])
        else:
            _print(_call(getattr(self.handle, find_command(name)), arguments))
        return True


def commands() -> list[str]:
    """The names of all commands, with underscores."""
    names = (name for name, _ in inspect.getmembers(GuestFS, callable) if not name.startswith("_"))
    return [name for name in names if name not in REFUSED and name not in _NOT_COMMANDS]


def find_command(name: str) -> str:
    """The call that a command means. Raises `DetectionError` where there is none."""
    if name in REFUSED:
        raise DetectionError(f"{name}: not supported: it {REFUSED[name]}")
    if name not in commands():
        raise DetectionError(f"{name}: no such command; help lists them")
    return name


def _help(name: str | None = None) -> None:
    if name is None:
        print("\n".join(one.replace("_", "-") for one in commands()))
        return
    call = getattr(GuestFS, find_command(name.replace("-", "_")))
    words = [_usage(parameter) for parameter in list(inspect.signature(call).parameters.values())[1:]]
    print(" ".join([name, *words]) + "\n\n" + inspect.cleandoc(call.__doc__ or ""))


def _usage(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"[{parameter.name}:VALUE]"


def _call(call: Callable[..., Any], words: list[str]) -> Any:
    """Make a call of words: first its arguments in their order, then ``name:value`` for its options."""
    parameters = list(inspect.signature(call).parameters.values())
    needed = [one for one in parameters if one.default is one.empty]
    optional = {one.name: one for one in parameters if one.default is not one.empty}
    if len(words) < len(needed):
        missing = " ".join(one.name for one in needed[len(words) :])
        raise ValueError(f"{call.__name__}: needs {missing}")
    values = [_convert(one, word) for one, word in zip(needed, words, strict=False)]
    options = {}
    for word in words[len(needed) :]:
        name, separator, value = word.partition(":")
        if not separator or name not in optional:
            raise ValueError(f"{call.__name__}: unknown argument {word}")
        options[name] = _convert(optional[name], value)
    return call(*values, **options)


def _convert(parameter: inspect.Parameter, word: str) -> Any:
    """A word as what the parameter takes: annotations are text, as no module evaluates them."""
    kind = str(parameter.annotation).partition(" |")[0]
    if kind == "int":
        return int(word, 0)
    if kind == "bool":
        if word.lower() not in _TRUE + _FALSE:
            raise ValueError(f"{parameter.name}: {word} is neither true nor false")
        return word.lower() in _TRUE
    if kind.startswith(("Sequence[str]", "list[str]")):
        return word.split()
    return word


def _print(value: Any, indent: str = "") -> None:
    """Print what a call gave, as guestfish does."""
    if isinstance(value, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
    elif isinstance(value, dict):
        for key, one in value.items():
            print(f"{indent}{printable(str(key))}: {_text(one)}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            if isinstance(one, dict):
                print(f"[{number}] = {{")
                _print(one, "  ")
                print("}")
            else:
                print(_text(one))
    elif isinstance(value, bool):
        print("true" if value else "false")
    elif value is not None:
        text = str(value)
        print(_text(text), end="" if text.endswith("\n") else "\n")


def _text(value: Any) -> str:
    """A value in one line; escape sequences of the guest are not for the terminal."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    text = str(value)
    return "\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text
