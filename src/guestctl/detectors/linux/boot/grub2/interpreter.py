"""Runs GRUB 2's configuration as far as its menu depends on it (GRUB manual, "Writing full configuration files").

What a hostile one can cost is bounded: commands run, files read, the length of values, entries, calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile

from guestctl.core.errors import InvalidFormat
from guestctl.detectors.linux.boot.grub2 import devices, script
from guestctl.detectors.linux.boot.places import Places

_MAX_COMMANDS = 30_000
_MAX_CHARACTERS = 2 << 20  # of all files
_MAX_VALUE_CHARACTERS = 16 << 10
_MAX_ENTRIES = 2_000
_MAX_LEVELS = 40  # of statements, functions and files within one another
_ENTRY_OPTIONS_WITH_VALUE = ("--class", "--users", "--hotkey", "--id", "--source")
_FEATURES = (
    *("chainloader_bpb", "ntldr", "platform_search_hint", "default_font_path", "all_video_module", "menuentry_id"),
    *("menuentry_options", "200_final", "nativedisk_cmd", "timeout_style"),
)


@dataclass(slots=True)
class MenuEntry:
    """A line of the menu: what to run when it is chosen."""

    title: str
    id: str
    block: list[script.Node]
    arguments: list[str]
    source: str


@dataclass(slots=True)
class Loaded:
    """What an entry loads, under the guest's names."""

    kernel: str | None = None
    command_line: str = ""
    initrds: list[str] = field(default_factory=list)


class Break(Exception):
    """Leaves a loop."""


class Return(Exception):
    """Leaves a function or file."""


class NewMenu(Exception):
    """Leaves everything: another configuration has taken over."""


Command = Callable[["Interpreter", str, list[str]], bool]


class Interpreter:
    """The state of a GRUB: variables, functions, the menu, what is loaded.

    `platform` is "efi" or "pc"; `command` runs a simple command, and tells whether it succeeds.
    """

    def __init__(self, places: Places, platform: str, command: Command) -> None:
        self.places = places
        self._run_command = command
        self.variables = {"grub_platform": platform, "grub_cpu": "x86_64" if platform == "efi" else "i386"}
        self.variables |= dict.fromkeys((f"feature_{name}" for name in _FEATURES), "y")
        self.menu: list[MenuEntry] = []
        self.loaded = Loaded()
        self.source = ""  # the file that is run
        self._arguments: list[str] = []
        self._functions: dict[str, list[script.Node]] = {}
        self._commands = self._characters = self._level = 0

    def start(self, name: str) -> None:
        """Run the configuration file `name` from the beginning."""
        try:
            self.run_file(name)
        except NewMenu:
            pass

    def choose(self, entry: MenuEntry) -> None:
        """Run an entry: ``loaded`` is the result, or of a submenu ``menu``."""
        self.menu, self.loaded, self.source = [], Loaded(), entry.source
        try:
            self._call(entry.block, entry.arguments)
        except NewMenu:
            pass

    def run_file(self, name: str) -> bool:
        """Run a file in place; False where there is none."""
        text = self.read(name)
        if text is None:
            return False
        before, self.source = self.source, name
        status = self._call(script.parse(text), [])
        self.source = before
        return status

    def read(self, name: str) -> str | None:
        """The text of a file, or None where there is none."""
        text = self.places.read_text(name)
        self._characters += 100 + len(text or "")
        if self._characters > _MAX_CHARACTERS:
            raise _invalid(f"files of more than {_MAX_CHARACTERS} characters")
        return text

    def _call(self, nodes: list[script.Node], arguments: list[str]) -> bool:
        before, self._arguments = self._arguments, arguments
        try:
            return self._run(nodes)
        except (Return, Break):
            return True
        finally:
            self._arguments = before

    # Statements

    def _run(self, nodes: list[script.Node]) -> bool:
        self._level += 1
        if self._level > _MAX_LEVELS:
            raise _invalid(f"more than {_MAX_LEVELS} levels")
        try:
            return self._run_all(nodes)
        finally:
            self._level -= 1

    def _run_all(self, nodes: list[script.Node]) -> bool:
        status = True
        for node in nodes:
            self.count()
            if isinstance(node, script.Command):
                status = self._command(self.expand(node.words), node.block)
            elif isinstance(node, script.If):
                self._run(next((body for condition, body in node.branches if self._run(condition)), node.otherwise))
            elif isinstance(node, script.Function):
                self._functions[node.name] = node.body
            else:
                self._loop(node)
        return status

    def count(self, commands: int = 1) -> None:
        """Note that something was done which costs as much as so many commands."""
        self._commands += commands
        if self._commands > _MAX_COMMANDS:
            raise _invalid(f"more than {_MAX_COMMANDS} commands")

    def _loop(self, node: script.Loop | script.For) -> None:
        try:
            if isinstance(node, script.For):
                for value in self.expand(node.words):
                    self.assign(node.name, value)
                    self._run(node.body)
                return
            while self._run(node.condition) is not node.until:
                self.count()
                self._run(node.body)
        except Break:
            pass

    def _command(self, words: list[str], block: list[script.Node] | None) -> bool:
        if words[:1] == ["!"]:
            rest = list(dropwhile(lambda word: word == "!", words))
            return self._command(rest, block) is ((len(words) - len(rest)) % 2 == 0)
        if not words:
            return True
        name, *arguments = words
        if block is not None:
            self._add_entry(arguments, block)
            return True
        if name in self._functions:
            return self._call(self._functions[name], arguments)
        if re.match(r"[A-Za-z_][A-Za-z0-9_]*=", name):
            self.assign(*name.split("=", 1))
            return True
        return self._run_command(self, name, arguments)

    def _add_entry(self, arguments: list[str], block: list[script.Node]) -> None:
        positional, id_ = [], ""
        words = iter(arguments)
        for word in words:
            option, equals, value = word.partition("=")
            if option in _ENTRY_OPTIONS_WITH_VALUE:
                value = value if equals else next(words, "")
                id_ = value if option == "--id" else id_
            elif not word.startswith("--"):
                positional.append(word)
        title = positional[0] if positional else ""
        self.add(MenuEntry(title, id_ or title, block, positional, self.source))

    def add(self, entry: MenuEntry) -> None:
        """Add an entry to the menu."""
        if len(self.menu) >= _MAX_ENTRIES:
            raise _invalid(f"more than {_MAX_ENTRIES} entries")
        self.menu.append(entry)

    # Words and variables

    def expand(self, words: Sequence[script.Word]) -> list[str]:
        """The words with the values of variables, which split at blanks where they are not quoted."""
        result: list[str] = []
        for word in words:
            pieces: list[str] = []
            joins = False  # the next part goes on with the last piece
            for part in word:
                value = self._value(part.text) if part.variable else part.text
                splits = part.variable and not part.quoted
                fields = value.split() if splits else [value]
                if fields and joins and not (splits and value[0].isspace()):
                    pieces[-1] += fields.pop(0)
                pieces += fields
                if value or not splits:
                    joins = not (splits and value[-1].isspace())
            result += pieces
        if sum(map(len, result)) > 4 * _MAX_VALUE_CHARACTERS:
            raise _invalid(f"words of more than {4 * _MAX_VALUE_CHARACTERS} characters")
        return result

    def _value(self, name: str) -> str:
        if name in ("@", "*"):
            return " ".join(self._arguments)
        if name == "#":
            return str(len(self._arguments))
        if name.isdecimal():
            index = int(name[:4])
            return self._arguments[index - 1] if 0 < index <= len(self._arguments) else ""
        return self.variables.get(name, "")

    def assign(self, name: str, value: str) -> None:
        """Set a variable."""
        if len(value) > _MAX_VALUE_CHARACTERS:
            raise _invalid(f"a value of more than {_MAX_VALUE_CHARACTERS} characters")
        self.variables[name] = value

    def locate(self, path: str) -> str:
        """What the file that GRUB calls `path` is called here: ``(hd0,gpt2)/path``, or relative to ``root``."""
        device = self.variables.get("root", "")
        if path.startswith("("):
            device, _, path = path[1:].partition(")")
        return self.places.locate(devices.find(self.places.machine, device), path)


def _invalid(message: str) -> InvalidFormat:
    return InvalidFormat(message, structure="GRUB configuration", offset=0)
