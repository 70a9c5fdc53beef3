"""Options that several commands share, and the opening of what they name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from guestctl.disk.filesystem import FileSystem
    from guestctl.disk.reader import DiskReader
    from guestctl.disk.volumes.keys import Key, Keys
    from guestctl.machine import Machine

F = TypeVar("F", bound=Callable[..., Any])


def size(text: str) -> int:
    """A number of bytes, as qemu-img takes it: the type of an option or argument."""
    from guestctl.disk.writer import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_format_options(texts: Iterable[str]) -> dict[str, str]:
    """The options of a format from ``key=value,flag`` texts; ``,,`` is a comma of a value."""
    options = {}
    for text in texts:
        for item in text.replace(",,", "\0").split(","):
            key, separator, value = item.replace("\0", ",").partition("=")
            if not key:
                raise click.UsageError(f"-o {text}: expected key=value")
            options[key] = value if separator else "on"
    return options


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How one image is to be opened."""

    format: str | None
    allow_dirs: tuple[str, ...]
    key: tuple[Key, ...]

    def keys(self) -> Keys:
        """Those of ``--key``, and on a terminal those that the user is asked for."""
        from guestctl.disk.volumes.keys import Keys

        return Keys(self.key, ask=_ask_for_key if sys.stdin.isatty() and sys.stderr.isatty() else None)

    def open(self, path: str, *, snapshot: str | None = None, metadata_only: bool = False) -> DiskReader:
        from guestctl.disk.reader import DiskReader

        return DiskReader.open(
            path,
            format=self.format,
            allow_dirs=self.allow_dirs,
            snapshot=snapshot,
            metadata_only=metadata_only,
            keys=self.keys(),
        )


class Tree(NamedTuple):
    """The files that a command works on, and the machine that they are part of."""

    filesystem: FileSystem[Any]
    machine: Machine


@dataclass(frozen=True, slots=True)
class GuestOptions(ImageOptions):
    """How the disks of a guest are to be opened."""

    add: tuple[str, ...]
    ignore_checksums: bool

    @contextmanager
    def machine(self, image: str, *more: str) -> Iterator[Machine]:
        from guestctl.disk.filesystem import Options
        from guestctl.machine import Machine

        options = Options(ignore_checksums=self.ignore_checksums)
        images = (image, *more, *self.add)
        with Machine.open(
            *images, format=self.format, allow_dirs=self.allow_dirs, options=options, keys=self.keys()
        ) as machine:
            yield machine


@dataclass(frozen=True, slots=True)
class TreeOptions(GuestOptions):
    """Which files of the guest are meant."""

    mount: str | None

    @contextmanager
    def tree(self, image: str) -> Iterator[Tree]:
        """The guest's tree, or the one filesystem that ``-m`` names. Warnings go to standard error."""
        from guestctl.cli.output import warn
        from guestctl.machine.choice import choose_tree

        with self.machine(image) as machine:
            try:
                yield Tree(choose_tree(machine, self.mount, how="-m"), machine)
            finally:
                for warning in machine.all_warnings():
                    warn(warning)


def _key(text: str) -> Key:
    from guestctl.disk.volumes.keys import parse_key

    try:
        return parse_key(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None  # never the text: it may hold a key
    except OSError as error:
        raise click.BadParameter(f"{error.filename}: {error.strerror}") from None


def _ask_for_key(device: str) -> bytes | None:
    answer: str = click.prompt(f"Key of {device}", hide_input=True, default="", show_default=False, err=True)
    return answer.encode("utf-8", "surrogateescape") or None


def _format_option(name: str) -> Callable[[Any], Any]:
    return click.option(name, "format", metavar="FMT", help="The image's format; without it the format is probed.")


_opening_options = (
    click.option(
        "--allow-dir",
        "allow_dirs",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False),
        multiple=True,
        help="Also open backing and data files below DIR, not only beside the image.",
    ),
    click.option(
        "--key",
        type=_key,
        metavar="ID:key:TEXT|ID:file:PATH",
        multiple=True,
        help="The key of an encrypted device or image, by its name or UUID; all for every one.",
    ),
)
_image_options = (_format_option("--format"), *_opening_options)
_checksums_option = click.option("--ignore-checksums", is_flag=True, help="Read metadata whose checksum is wrong.")
_guest_options = (_checksums_option, *_image_options)
_mount_option = click.option(
    "-m", "--mount", metavar="DEVICE", help="One filesystem, such as /dev/sda1, instead of the guest's tree."
)


def image_options(function: F) -> F:
    """``--format``, ``--allow-dir`` and ``--key``, as the argument `options`."""
    return _collected(function, ImageOptions, _image_options)


def guest_options(function: F) -> F:
    """Those, ``-a`` and ``--ignore-checksums``, as the argument `options`."""
    return _collected(function, GuestOptions, (_add_option("-a", "--add"), *_guest_options))


def document_options(function: F) -> F:
    """Those of a command whose ``--format`` is what it writes; the image's is ``--image-format``."""
    decorators = (_add_option("-a", "--add"), _checksums_option, _format_option("--image-format"), *_opening_options)
    return _collected(function, GuestOptions, decorators)


def tree_options(*add_names: str) -> Callable[[F], F]:
    """Those and ``-m``, as the argument `options`; `add_names` where ``-a`` means something else."""
    decorators = (_add_option(*(add_names or ("-a", "--add"))), _mount_option, *_guest_options)
    return lambda function: _collected(function, TreeOptions, decorators)


def _add_option(*names: str) -> Callable[[Any], Any]:
    return click.option(*names, "add", metavar="IMAGE", multiple=True, help="A further disk of the same machine.")


def _collected(function: F, kind: type[ImageOptions], decorators: tuple[Callable[[Any], Any], ...]) -> F:
    names = [field.name for field in fields(kind)]

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in names}
        return function(*args, options=kind(**values), **kwargs)

    for decorator in reversed(decorators):
        wrapper = decorator(wrapper)
    return wrapper  # type: ignore[return-value]
