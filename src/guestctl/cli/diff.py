"""``guestctl diff``."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from guestctl.cli.options import Tree, TreeOptions, json_option, tree_options

if TYPE_CHECKING:
    from guestctl.detectors.diff import Change, FileChange
    from guestctl.disk.filesystem import WalkError
    from guestctl.machine import Guest


@click.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--files/--no-files", "with_files", default=True, help="Compare the files as well; done unless told not.")
@click.option("--path", metavar="PATH", help="Compare only the files at PATH and below it, and nothing else.")
@click.option("--quick", is_flag=True, help="Take files of one size, mtime and ctime for the same.")
@click.option("--text", "with_text", is_flag=True, help="Show how small public texts below /etc differ.")
@tree_options()
@json_option
def command(
    first: str,
    second: str,
    with_files: bool,
    path: str | None,
    quick: bool,
    with_text: bool,
    options: TreeOptions,
    as_json: bool,
) -> int:
    """Show what differs between the guests on two images, such as a guest and an earlier state of it.

    Packages, services, users, network, boot and security, then every file whose type, content, mode, owner or
    extended attributes differ. What lies in one place of a backing file that both images share is not read.
    With -m only the files of one filesystem are compared; -a and --key are for both images.

    Exits 0 where nothing differs, 1 where something does, 2 where something cannot be compared.
    """
    from guestctl.cli.output import fail
    from guestctl.core.errors import GuestctlError

    trouble = _Trouble()
    try:
        with options.tree(first) as left, options.tree(second) as right:
            page = _Json() if as_json else _Page()
            page.head(first, second)
            if path is None and options.mount is None:
                for section, changes in _facts(left, right, trouble):
                    page.section(section, changes)
            if with_files:
                page.files(_files(left, right, path or "/", quick, with_text, trouble))
            page.end()
    except (GuestctlError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        fail(error)
        return 2
    return 2 if trouble.found else int(page.differs)


class _Trouble:
    """Says what cannot be compared, and remembers that there was something."""

    found = False

    def __call__(self, text: str) -> None:
        from guestctl.cli.output import fail

        self.found = True
        fail(text)

    def at(self, failure: WalkError) -> None:
        self(f"{failure.path}: {failure.error}")


def _facts(left: Tree, right: Tree, trouble: _Trouble) -> Iterator[tuple[str, list[Change]]]:
    """What differs in the views, where there is one guest on each side."""
    from guestctl.detectors import inspect
    from guestctl.detectors.diff import diff_guests
    from guestctl.detectors.system import open_system

    guests: list[Guest] = [guest for tree in (left, right) for guest in tree.machine.guests()]
    if len(guests) == 1:
        trouble("only one of the images has an operating system: only files are compared")
    if len(guests) != 2:
        return
    systems = [open_system(tree.machine, guest) for tree, guest in zip((left, right), guests, strict=True)]
    known = [set(tree.machine.warnings) for tree in (left, right)]
    reports = [inspect(tree.machine, with_applications=guests[0].type == "windows").guests[0] for tree in (left, right)]
    # What could not be inspected would look like what is not there; options.tree says what it was.
    trouble.found |= any(set(tree.machine.warnings) - old for tree, old in zip((left, right), known, strict=True))
    yield from diff_guests(systems[0], systems[1], (reports[0], reports[1]), trouble)
    for system in systems:
        for warning in system.warnings:
            trouble(f"{system.guest.root}: {warning}")


def _files(left: Tree, right: Tree, top: str, quick: bool, with_text: bool, trouble: _Trouble) -> Iterator[FileChange]:
    from guestctl.detectors.diff import Places, diff_files

    yield from diff_files(
        left.filesystem,
        right.filesystem,
        top,
        places=Places(left.machine, right.machine),
        onerror=trouble.at,
        quick=quick,
        with_text=with_text,
    )


class _Page:
    """The differences as lines to read: ``+`` added, ``-`` removed, ``~`` changed."""

    differs = False

    def head(self, first: str, second: str) -> None:
        self._names = (first, second)

    def _title(self, text: str) -> None:
        from guestctl.cli.output import printable

        if self.differs:
            print()
        else:
            print(f"--- {printable(self._names[0])}\n+++ {printable(self._names[1])}\n")
        self.differs = True
        print(f"{text}:")

    def section(self, name: str, changes: list[Change]) -> None:
        from guestctl.cli.output import printable

        self._title(name.capitalize())
        for change in changes:
            print(printable(_line(change)))

    def files(self, changes: Iterator[FileChange]) -> None:
        from guestctl.cli.output import printable

        for number, change in enumerate(changes):
            if not number:
                self._title("Files")
            print(printable(_file_line(change)))
            for line in change.diff.splitlines():
                print(f"    {printable(line)}")

    def end(self) -> None:
        pass


class _Json(_Page):
    """The differences as one JSON object, written as they are found: a list of changes a section."""

    def head(self, first: str, second: str) -> None:
        import json

        print(f'{{"a": {json.dumps(first)},\n"b": {json.dumps(second)}', end="")

    def section(self, name: str, changes: list[Change]) -> None:
        import json

        import msgspec

        self.differs = True
        print(f',\n"{name}": {json.dumps(msgspec.to_builtins(changes))}', end="")

    def files(self, changes: Iterator[FileChange]) -> None:
        import json

        import msgspec

        print(',\n"files": [', end="")
        for number, change in enumerate(changes):
            self.differs = True
            print(",\n" if number else "\n", end="")
            print(json.dumps(msgspec.to_builtins(change)), end="")
        print("]", end="")

    def end(self) -> None:
        print("}")


def _line(change: Change) -> str:
    if change.before is None and not change.field:
        return f"+ {change.name}  {_text(change.after)}".rstrip()
    if change.after is None and not change.field:
        return f"- {change.name}  {_text(change.before)}".rstrip()
    field = f" {change.field}" if change.field else ""
    return f"~ {change.name}{field}: {_text(change.before) or 'none'} → {_text(change.after) or 'none'}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={_text(one)}" for key, one in value.items() if one not in ("", None, []))
    return "" if value is None else str(value)


def _file_line(change: FileChange) -> str:
    old, new = change.before, change.after
    state = new or old
    assert state is not None
    name = f"{change.path}/" if stat.S_ISDIR(state.mode) and change.path != "/" else change.path
    if old is None or new is None:
        return f"{'+' if old is None else '-'} {name}"
    words = []
    for what in change.differs:
        if what == "mode":
            words.append(f"mode {stat.S_IMODE(old.mode):04o} → {stat.S_IMODE(new.mode):04o}")
        elif what == "owner":
            words.append(f"owner {old.uid}:{old.gid} → {new.uid}:{new.gid}")
        elif what == "content" and old.size != new.size:
            words.append(f"content, {old.size} → {new.size} bytes")
        else:
            words.append(what)
    return f"~ {name}  ({'; '.join(words)})"
