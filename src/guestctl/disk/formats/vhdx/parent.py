"""The parent of a differencing disk ([MS-VHDX] 2.6.2.6.3).

The parent locator names it by a path relative to this image, by one on a volume, and by an absolute
one, all of Windows; of the latter two the file name beside this image is tried as well. The first of
the names under which a VHDX file with the right DataWriteGuid lies is the parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhdx.header import read_header
from guestctl.disk.reader import DiskReader, ImageFile


class Parent(NamedTuple):
    """The parent, and the name under which it was found."""

    reader: DiskReader
    name: str


def open_parent(image: ImageFile, locator: Mapping[str, str]) -> Parent:
    """Open the parent; the error is that of the first name where none leads to it."""
    linkage = _linkage(locator)
    failure: GuestctlError | OSError | None = None
    for name in parent_names(locator):
        try:
            candidate = image.open_neighbour(name, role="parent")
        except (GuestctlError, OSError) as error:
            # A refusal says what to do, a missing file is what other names may mend.
            if failure is None or isinstance(failure, FileNotFoundError):
                failure = error
            continue
        try:
            _check_identity(candidate, linkage)
        except InvalidFormat as error:
            candidate.close()
            failure = error
            continue
        # From here on this is the parent: trying other names where its own parents are missing
        # would make the work exponential in the length of the chain.
        return Parent(candidate.reader(DiskFormat.VHDX), name)
    if failure is None:
        raise InvalidFormat("it names no parent", structure="parent locator", offset=0)
    raise failure


def parent_names(locator: Mapping[str, str]) -> list[str]:
    """The names of the parent as this host may know them, each once."""
    names = []
    if "relative_path" in locator:
        names.append(_from_windows(locator["relative_path"]))
    for key in ("absolute_win32_path", "volume_path"):
        path = _from_windows(locator.get(key, ""))
        names += [path.removeprefix("//?/"), path.rpartition("/")[2]]
    return list(dict.fromkeys(name for name in names if name and "\0" not in name))


def _from_windows(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _linkage(locator: Mapping[str, str]) -> list[UUID]:
    """The values that the parent's DataWriteGuid may have."""
    found = []
    for key in ("parent_linkage", "parent_linkage2"):
        try:
            found.append(UUID(locator.get(key, "")))
        except ValueError:
            continue
    if not found:
        raise InvalidFormat("it has no parent_linkage", structure="parent locator", offset=0)
    return found


def _check_identity(candidate: ImageFile, linkage: list[UUID]) -> None:
    header, _ = read_header(candidate.device)
    if header.data_write_guid not in linkage:
        expected, actual = str(linkage[0]), str(header.data_write_guid)
        message = f"{candidate.path} is not the parent, or was changed: its DataWriteGuid is {actual}, not {expected}"
        raise InvalidFormat(message, structure="parent locator", offset=0, expected=expected, actual=actual)
