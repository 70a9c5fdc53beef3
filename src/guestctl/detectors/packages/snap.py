"""Snaps: the revisions that snapd's ``state.json`` has as current, and ``meta/snap.yaml`` in their SquashFS images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from guestctl.core.errors import GuestctlError, InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.report.packages import Package, PackageFile
from guestctl.disk.filesystem import FileSystem

_STATE = "/var/lib/snapd/state.json"
_IMAGES = "/var/lib/snapd/snaps"
_MAX_STATE_BYTES = 64 << 20
_MAX_YAML_BYTES = 128 << 10  # the loader takes some 5 µs a character


def installed(tree: Tree) -> Iterator[tuple[Package, Iterable[PackageFile]]]:
    """The snaps of which a revision is current. A damaged one raises after the others."""
    try:
        state = json.loads(tree.read_bytes(_STATE, limit=_MAX_STATE_BYTES))
        snaps = state.get("data", {}).get("snaps", {})
        current = {str(name): (str(snap["current"]), str(snap.get("channel", ""))) for name, snap in snaps.items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise InvalidFormat(f"{_STATE}: {error!r}", structure="snapd state", offset=0) from None
    failure: Exception | None = None
    for name, (revision, channel) in sorted(current.items()):
        path = f"{_IMAGES}/{name}_{revision}.snap"
        try:
            metadata = _metadata(tree, path) if tree.is_file(path) else {}
        except (GuestctlError, OSError) as error:
            failure = failure or error
            continue
        yield _package(name, revision, channel, path, metadata), ()
    if failure is not None:
        raise failure


def _package(name: str, revision: str, channel: str, path: str, metadata: dict[str, Any]) -> Package:
    texts = {key: str(value) for key, value in metadata.items() if isinstance(value, (str, int, float))}
    architectures = metadata.get("architectures")
    known = architectures if isinstance(architectures, list) and len(architectures) == 1 else [""]
    return Package(
        manager="snap",
        name=name,
        version=texts.get("version", ""),
        release=revision,
        arch=str(known[0]),
        summary=texts.get("summary", ""),
        description=texts.get("description", ""),
        licenses=[texts["license"]] if texts.get("license") else [],
        origin=channel,
        path=path,
    )


def _metadata(tree: Tree, path: str) -> dict[str, Any]:
    import yaml

    with FileSystem.detect(tree.device(path)) as image:
        text = image.read_bytes("/meta/snap.yaml", limit=_MAX_YAML_BYTES)
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidFormat(f"{path}: {error}", structure="snap.yaml", offset=0) from None
    return found if isinstance(found, dict) else {}
