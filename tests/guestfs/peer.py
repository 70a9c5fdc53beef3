"""Make a list of calls on a handle and print what came of each. Debian's Python runs it for the real package.

The first argument is the module that has ``GuestFS``. Standard input is JSON: ``drives`` (arguments of ``add_drive``)
and ``calls`` (name, arguments, keyword arguments); standard output is a list with ``value`` or ``error`` for each.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any


def perform(module: str, drives: list[dict[str, Any]], calls: list[Any]) -> list[dict[str, Any]]:
    """What each of `calls` gives, in the handle that `module` has."""
    warnings.simplefilter("ignore", DeprecationWarning)
    handle = importlib.import_module(module).GuestFS(python_return_dict=True)
    for drive in drives:
        handle.add_drive_opts(**drive)
    handle.launch()
    found = [_perform(handle, *call) for call in calls]
    handle.shutdown()
    handle.close()
    return found


def _perform(handle: Any, name: str, args: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _plain(getattr(handle, name)(*args, **keywords))}
    except (RuntimeError, AttributeError) as error:
        return {"error": str(error)}


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
