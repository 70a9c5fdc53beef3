"""Lines that a person types, with completion of commands, paths and devices, and a history."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from guestctl.cli.shell.session import commands
from guestctl.core.errors import UnsupportedFeature
from guestctl.guestfs import GuestFS

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

_MAX_COMPLETIONS = 1000


def read_lines(handle: GuestFS) -> Iterator[str]:
    """The lines, until Ctrl-D. Raises `UnsupportedFeature` without the package prompt_toolkit."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
    except ImportError as error:
        message = "an interactive shell needs prompt_toolkit: pip install 'guestctl[shell]'"
        raise UnsupportedFeature(message, feature="prompt_toolkit") from error
    session: PromptSession[str] = PromptSession(
        "><guest> ", completer=_completer(handle), history=FileHistory(str(_history_file()))
    )
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _history_file() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    (state / "guestctl").mkdir(parents=True, exist_ok=True)
    path = state / "guestctl/shell_history"
    path.touch(mode=0o600)  # lines may have keys in them
    return path


def candidates(handle: GuestFS, text: str) -> list[str]:
    """What the last word of a line before the cursor may become."""
    first, _, rest = text.lstrip().partition(" ")
    if not rest and not text.endswith(" "):
        return [
            name for name in (one.replace("_", "-") for one in (*commands(), "help", "exit")) if name.startswith(first)
        ]
    word = text.rpartition(" ")[2]
    if word.startswith("/dev/"):
        names = {*handle.list_devices(), *handle.list_partitions(), *handle.list_filesystems()}
        return sorted(name for name in names if name.startswith(word))
    return _paths(handle, word) if word.startswith("/") else []


def _paths(handle: GuestFS, word: str) -> list[str]:
    folder, prefix = posixpath.split(word)
    try:
        entries = handle.readdir(folder)
    except RuntimeError:
        return []
    names = sorted(
        entry["name"] + "/" * (entry["ftyp"] == "d") for entry in entries if entry["name"] not in (".", "..")
    )
    return [posixpath.join(folder, name) for name in names if name.startswith(prefix)][:_MAX_COMPLETIONS]


def _completer(handle: GuestFS) -> Completer:
    from prompt_toolkit import completion

    class _Completer(completion.Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            for candidate in candidates(handle, text):
                yield completion.Completion(candidate, start_position=-len(text.rpartition(" ")[2]))

    return _Completer()
