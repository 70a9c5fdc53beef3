"""Every call of libguestfs is there, or refused by name; and the documentation says which."""

from __future__ import annotations

import inspect
import subprocess
from pathlib import Path

import pytest

from guestctl.guestfs import EVENT_ALL, GuestFS
from guestctl.guestfs.coverage import as_markdown, rows
from guestctl.guestfs.refused import REFUSED

_DOCUMENT = Path(__file__).parents[2] / "docs/reference/guestfs.md"
_LIST = """
import guestfs, inspect
for name, method in inspect.getmembers(guestfs.GuestFS, callable):
    if not name.startswith("_"):
        parameters = inspect.signature(method).parameters.values()
        print(name, *(p.name + ("" if p.default is p.empty else "=") for p in parameters if p.name != "self"))
"""


def _theirs() -> dict[str, list[str]]:
    """Names of the calls of Debian's package, with those of their arguments."""
    done = subprocess.run(["/usr/bin/python3", "-c", _LIST], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs python3-guestfs")
    return {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines())}


def test_every_call_is_there() -> None:
    assert set(_theirs()) - {row.name for row in rows()} == set()


def test_arguments_have_the_same_names_and_order() -> None:
    for name, arguments in _theirs().items():
        if name not in REFUSED:
            ours = inspect.signature(getattr(GuestFS, name)).parameters.values()
            found = [one.name + ("" if one.default is one.empty else "=") for one in ours if one.name != "self"]
            assert found == arguments, name


def test_the_documentation_has_the_table() -> None:
    assert as_markdown() in _DOCUMENT.read_text()


def test_refused_calls_say_so() -> None:
    handle = GuestFS()
    for name in ("write", "mkfs", "command"):
        with pytest.raises(NotImplementedError, match=f"^{name}: not supported: it "):
            getattr(handle, name)("anything", 1)
    assert issubclass(NotImplementedError, RuntimeError)
    assert not [row for row in rows() if row.state != "refused" and not getattr(GuestFS, row.name).__doc__]
    assert EVENT_ALL == 0x3FF
