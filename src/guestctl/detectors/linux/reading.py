"""Files of a guest, each of which fails alone: what cannot be read is a warning, and empty."""

from __future__ import annotations

import posixpath

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import list_directory, read_config
from guestctl.detectors.system import System

_MAX_TEXT_BYTES = 1 << 20
_MAX_NAMES = 1 << 12


def text_of(system: System, path: str) -> str:
    """The text of a file, "" where there is none."""
    try:
        return read_config(system.tree, path, limit=_MAX_TEXT_BYTES) or ""
    except (GuestctlError, OSError) as error:
        system.warnings.append(f"{path}: {error}")
        return ""


def names_in(system: System, path: str) -> list[str]:
    """Sorted names in a directory."""
    try:
        names = list_directory(system.tree, path)
    except (GuestctlError, OSError) as error:
        system.warnings.append(f"{path}: {error}")
        return []
    if len(names) > _MAX_NAMES:
        system.warnings.append(f"{path}: more than {_MAX_NAMES} names")
    return names[:_MAX_NAMES]


def included(system: System, pattern: str, base: str) -> list[str]:
    """The files that an ``Include`` of `pattern` in a file of the directory `base` means, sorted by name."""
    import fnmatch

    directory, _, name = posixpath.join(base, pattern).rpartition("/")
    return [f"{directory}/{one}" for one in names_in(system, directory) if fnmatch.fnmatchcase(one, name)]
