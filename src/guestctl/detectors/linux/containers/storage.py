"""containers-storage (containers/storage, containers-storage.conf(5)): what podman, buildah and CRI-O share."""

from __future__ import annotations

import json
from typing import Any

from guestctl.detectors.linux.containers import dictionaries, read_json, text
from guestctl.detectors.linux.reading import names_in
from guestctl.detectors.report.containers import Container, ContainerImage, Containers
from guestctl.detectors.system import System

ROOT = "/var/lib/containers/storage"
ROOTLESS = ".local/share/containers/storage"
_ENGINE = "containers-storage"
_MAX_LAYERS = 512
_MAX_LAYER_BYTES = 1 << 50


def read(system: System, root: str, found: Containers) -> None:
    """Add what the store below `root` has to `found`."""
    for folder in names_in(system, root):
        driver, _, kind = folder.rpartition("-")
        if kind == "images":
            layers = {}
            for name in ("layers.json", "volatile-layers.json"):
                listed = read_json(system, f"{root}/{driver}-layers/{name}", list)
                layers.update({text(layer, "id"): layer for layer in dictionaries(listed)})
            for image in dictionaries(read_json(system, f"{root}/{folder}/images.json", list)):
                found.images.append(_image(image, layers))
        elif kind == "containers":
            for name in ("containers.json", "volatile-containers.json"):
                for item in dictionaries(read_json(system, f"{root}/{folder}/{name}", list)):
                    found.containers.append(_container(item))


def _image(image: dict[str, Any], layers: dict[str, dict[str, Any]]) -> ContainerImage:
    return ContainerImage(
        engine=_ENGINE,
        id=text(image, "id"),
        names=_strings(image.get("names")),
        created=text(image, "created") or None,
        size=_size(text(image, "layer"), layers),
    )


def _container(container: dict[str, Any]) -> Container:
    try:
        metadata = json.loads(text(container, "metadata") or "{}")
    except (ValueError, RecursionError):
        metadata = {}
    metadata = metadata if isinstance(metadata, dict) else {}
    return Container(
        engine=_ENGINE,
        id=text(container, "id"),
        name=next(iter(_strings(container.get("names"))), "") or text(metadata, "name"),
        image=text(metadata, "image-name") or text(container, "image"),
        created=text(container, "created") or None,
    )


def _size(layer: str, layers: dict[str, dict[str, Any]]) -> int | None:
    """The sum of a layer and of those below it."""
    total = None
    for _ in range(_MAX_LAYERS):
        size = layers.get(layer, {}).get("diff-size")
        if not isinstance(size, int) or not 0 <= size < _MAX_LAYER_BYTES:
            return total
        total, layer = (total or 0) + size, text(layers[layer], "parent")
        if not layer:
            return total
    return None


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
