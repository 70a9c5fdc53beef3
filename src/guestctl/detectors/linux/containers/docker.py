"""Docker's own store: ``image/DRIVER`` and ``containers`` of /var/lib/docker.

The size of an image is the sum of its layers', each under its chain identifier (OCI Image Configuration, "Layer
ChainID").
"""

from __future__ import annotations

import hashlib
from typing import Any

from guestctl.detectors.linux.containers import read_json, text
from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.containers import Container, ContainerImage, Containers
from guestctl.detectors.system import System

ROOT = "/var/lib/docker"
_MAX_LAYERS = 256


def read(system: System, found: Containers) -> None:
    """Add what the store has to `found`."""
    for driver in names_in(system, f"{ROOT}/image"):
        base = f"{ROOT}/image/{driver}"
        names = _names(read_json(system, f"{base}/repositories.json", dict))
        for digest in names_in(system, f"{base}/imagedb/content/sha256"):
            config = read_json(system, f"{base}/imagedb/content/sha256/{digest}", dict)
            found.images.append(
                ContainerImage(
                    engine="docker",
                    id=digest,
                    names=names.get(f"sha256:{digest}", []),
                    created=text(config, "created") or None,
                    size=_size(system, base, config),
                )
            )
    for identifier in names_in(system, f"{ROOT}/containers"):
        config = read_json(system, f"{ROOT}/containers/{identifier}/config.v2.json", dict)
        if config:
            found.containers.append(
                Container(
                    engine="docker",
                    id=identifier,
                    name=text(config, "Name").removeprefix("/"),
                    image=text(_dictionary(config, "Config"), "Image") or text(config, "Image"),
                    state=_state(_dictionary(config, "State")),
                    created=text(config, "Created") or None,
                )
            )


def _names(repositories: dict[str, Any]) -> dict[str, list[str]]:
    """The tags of each image; its digests in registries are left out."""
    names: dict[str, list[str]] = {}
    for tags in _dictionary(repositories, "Repositories").values():
        for name, digest in tags.items() if isinstance(tags, dict) else ():
            if isinstance(digest, str) and "@" not in name:
                names.setdefault(digest, []).append(name)
    return names


def _size(system: System, base: str, config: dict[str, Any]) -> int | None:
    layers = _dictionary(config, "rootfs").get("diff_ids")
    total, chain = 0, ""
    for layer in layers[:_MAX_LAYERS] if isinstance(layers, list) else ():
        if not isinstance(layer, str):
            return None
        chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
        size = text_of(system, f"{base}/layerdb/{chain.replace(':', '/')}/size").strip()
        if not size.isdecimal() or len(size) > 18:
            return None
        total += int(size)
    return total if chain else None


def _state(state: dict[str, Any]) -> str | None:
    """The word of ``docker ps``, of the flags that docker writes."""
    for flag in ("Dead", "RemovalInProgress", "Restarting", "Paused", "Running"):
        if state.get(flag) is True:
            return "removing" if flag == "RemovalInProgress" else flag.lower()
    if not state:
        return None
    started = text(state, "StartedAt")
    return "created" if not started or started.startswith("0001-") else "exited"


def _dictionary(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}
