"""Make a list of calls on a handle and print what came of each. Debian's Python runs it for the real package.

The first argument is the module that has ``GuestFS``. Standard input is JSON: ``drives`` (arguments of ``add_drive``)
and ``calls`` (name, arguments, keyword arguments); standard output is a list with ``value`` or ``error`` for each.
In arguments ``@host`` is a directory, and what a call leaves there is ``files`` (name -> kind, mode, content).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import stat
import sys
import tempfile
import warnings
from typing import Any


def perform(module: str, drives: list[dict[str, Any]], calls: list[Any]) -> list[dict[str, Any]]:
    """What each of `calls` gives, in the handle that `module` has."""
    warnings.simplefilter("ignore", DeprecationWarning)
    handle = importlib.import_module(module).GuestFS(python_return_dict=True)
    for drive in drives:
        handle.add_drive_opts(**drive)
    handle.launch()
    with tempfile.TemporaryDirectory() as host:
        found = [_perform(handle, host, *call) for call in calls]
    handle.shutdown()
    handle.close()
    return found


def _perform(handle: Any, host: str, name: str, args: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    args = [argument.replace("@host", host) if isinstance(argument, str) else argument for argument in args]
    try:
        answer = {"value": _plain(getattr(handle, name)(*args, **keywords))}
    except (RuntimeError, AttributeError, UnicodeError) as error:
        answer = {"error": str(error)}
    files = {os.path.relpath(path, host): _file(path) for path in _paths(host)}
    if files and "value" in answer:
        answer["files"] = files
    for one in os.scandir(host):
        shutil.rmtree(one.path) if one.is_dir(follow_symlinks=False) else os.unlink(one.path)
    return answer


def _paths(host: str) -> list[str]:
    return [os.path.join(top, name) for top, folders, files in os.walk(host) for name in folders + files]


def _file(path: str) -> tuple[str, int, str]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return "link", 0, os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return "directory", status.st_mode & 0o777, ""
    with open(path, "rb") as stream:
        return "file", status.st_mode & 0o777, stream.read().hex()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


if __name__ == "__main__":
    request = json.load(sys.stdin)
    json.dump(perform(sys.argv[1], request["drives"], request["calls"]), sys.stdout)
