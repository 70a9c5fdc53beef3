"""The parent of a differencing disk ("Identification of the Parent Hard Disk Image").

The header names it up to nine times: its plain name, and locators for Windows (``W2ru`` relative to
this image, ``W2ku`` absolute) and for the Mac (``MacX``, a file URL). The first of the names, relative
ones before absolute ones, under which a disk with the right unique id can be opened is the parent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from guestctl.block.device import BlockDevice
from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vhd import layout
from guestctl.disk.formats.vhd.footer import read_footer
from guestctl.disk.formats.vhd.header import DynamicHeader, Locator
from guestctl.disk.reader import DiskReader, ImageFile

if TYPE_CHECKING:
    from guestctl.disk.formats.vhd.reader import VhdReader


class Parent(NamedTuple):
    """The parent, and the name under which it was found."""

    reader: DiskReader
    name: str


def open_parent(image: ImageFile, header: DynamicHeader) -> Parent:
    """Open the parent that `header` names; the error is that of the first name where none leads to it."""
    failure: GuestctlError | OSError | None = None
    for name in parent_names(image.device, header):
        try:
            candidate = image.open_neighbour(name, role="parent")
        except (GuestctlError, OSError) as error:
            # A refusal says what to do, a missing file is what other names may mend.
            if failure is None or isinstance(failure, FileNotFoundError):
                failure = error
            continue
        try:
            _check_identity(candidate, header.parent_unique_id)
        except InvalidFormat as error:
            candidate.close()
            failure = error
            continue
        # From here on this is the parent: trying other names where its own parents are missing
        # would make the work exponential in the length of the chain.
        return Parent(candidate.reader(DiskFormat.VHD), name)
    if failure is None:
        raise InvalidFormat("it names no parent", structure="dynamic disk header", offset=64)
    raise failure


def _check_identity(candidate: ImageFile, expected: bytes) -> None:
    actual = read_footer(candidate.device).footer.unique_id
    if actual != expected:
        message = f"{candidate.path} is not the parent: its unique id is {actual.hex()}, expected {expected.hex()}"
        raise InvalidFormat(
            message, structure="dynamic disk header", offset=40, expected=expected.hex(), actual=actual.hex()
        )


def parent_names(device: BlockDevice, header: DynamicHeader) -> list[str]:
    """The names of the parent as this host may know them, each once."""
    by_platform: dict[bytes, list[str]] = {}
    for locator in header.locators:
        by_platform.setdefault(locator.platform_code, []).append(_locator_text(device, locator))
    names = [_from_windows(name) for name in by_platform.get(layout.PLATFORM_RELATIVE, ())]
    names += [name for url in by_platform.get(layout.PLATFORM_MAC, ()) for name in _from_url(url)]
    names.append(_from_windows(header.parent_unicode_name))
    for name in by_platform.get(layout.PLATFORM_ABSOLUTE, ()):
        names += [_from_windows(name), _from_windows(name).rpartition("/")[2]]
    return list(dict.fromkeys(name for name in names if name and "\0" not in name))


def _locator_text(device: BlockDevice, locator: Locator) -> str:
    offset, length = locator.platform_data_offset, locator.platform_data_length
    if length > layout.MAX_LOCATOR_BYTES or offset + length > device.size:
        message = f"{length} bytes are too long or not in the file"
        raise InvalidFormat(message, structure="parent locator", offset=offset)
    content = bytes(device.read(offset, length))
    encoding = "utf-8" if locator.platform_code == layout.PLATFORM_MAC else "utf-16-le"
    return content.decode(encoding, "replace").rstrip("\0")


def _from_windows(name: str) -> str:
    name = name.replace("\\", "/")
    return name.removeprefix("./")


def _from_url(url: str) -> Iterator[str]:
    from urllib.parse import unquote

    scheme, _, path = url.partition("://")
    if scheme == "file":
        yield unquote(path[path.find("/") :]) if "/" in path else unquote(path)


def timestamp_warning(header: DynamicHeader, parent: VhdReader) -> str | None:
    """What to say where the parent seems to have changed since this image was made."""
    expected = header.parent_time_stamp
    modified = int(os.stat(parent.path).st_mtime) - layout.EPOCH
    if not expected or expected in (modified, parent.footer.time_stamp):
        return None
    return f"the parent {parent.path} was modified at {modified}, not at {expected}, seconds after 2000-01-01"
