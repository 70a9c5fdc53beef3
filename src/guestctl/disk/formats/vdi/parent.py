"""The parent of a differencing image: VirtualBox keeps names in its registry, the image has only UUIDs.

``uuidLinkage`` is the parent's ``uuidCreate``; ``uuidParentModify`` is what its ``uuidModify`` was when
the child was made. The parent is looked for among the images beside the child and in the allowed directories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from uuid import UUID

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.core.types import DiskFormat
from guestctl.disk.formats.vdi.header import Header, read_header
from guestctl.disk.reader import DiskReader, ImageFile

_MAX_CANDIDATES = 1000  # images looked at for each level of a chain


def open_parent(image: ImageFile, header: Header) -> DiskReader:
    """Open the parent; of several copies, one that was not changed since the child was made."""
    changed: ImageFile | None = None
    for name in islice(_candidates(image), _MAX_CANDIDATES):
        try:
            candidate = image.open_neighbour(name, role="parent")
        except (GuestctlError, OSError):
            continue  # the image itself, or nothing that can be opened
        try:
            found = read_header(candidate.device)
        except GuestctlError:
            candidate.close()
            continue
        if found.uuid_create == header.uuid_linkage and found.uuid_modify == header.uuid_parent_modify:
            if changed is not None:
                changed.close()
            return candidate.reader(DiskFormat.VDI)
        if found.uuid_create == header.uuid_linkage and changed is None:
            changed = candidate
        else:
            candidate.close()
    if changed is not None:
        return changed.reader(DiskFormat.VDI)
    wanted = uuid_text(header.uuid_linkage)
    raise InvalidFormat(
        f"no image with UUID {wanted}, the parent, is beside {image.path} or in an allowed directory",
        structure="header (uuidLinkage)",
        offset=0x1A8,
        expected=wanted,
    )


def uuid_text(uuid: bytes) -> str:
    return str(UUID(bytes_le=uuid))


def _candidates(image: ImageFile) -> Iterator[str]:
    own = os.path.dirname(image.path)
    seen = set()
    for directory in (own, *image.beside, *image.allow_dirs):
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        try:
            names = os.listdir(real)
        except OSError:
            continue
        prefix = "" if directory == own else directory
        yield from (os.path.join(prefix, name) for name in sorted(names) if name.lower().endswith(".vdi"))
